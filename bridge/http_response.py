"""A response class for aiohttp: receivers and upstreams send reason phrases that httpx cannot decode.

A reason phrase may contain any byte (RFC 9112 section 4 allows obs-text), and it is not needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from aiohttp.connector import Connection


class Response(aiohttp.ClientResponse):
    """The `response_class` of our sessions."""

    async def start(self, connection: Connection) -> Response:
        """Read the head of the response, and drop its reason phrase."""
        await super().start(connection)
        self.reason = None
        return self

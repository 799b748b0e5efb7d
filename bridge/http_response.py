"""Answers as strangers send them: what aiohttp, or httpx on top of it, would stumble over is put right here.

A reason phrase may hold any byte (RFC 9112 section 4 allows obs-text), and nobody needs it. Interim answers (1xx) may
come before the real one; an endless stream of them would keep the event loop busy, and the cap of a body's size does
not see them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.http import HttpProcessingError

if TYPE_CHECKING:
    from aiohttp.connector import Connection

INTERIM_LIMIT: Final = 20
"""How many interim answers are passed over."""
_SWITCHING_PROTOCOLS: Final = 101


class Response(aiohttp.ClientResponse):
    """To be a session's `response_class`."""

    async def start(self, connection: Connection) -> Response:
        """Read the head of the response.

        Raises:
            ClientResponseError: it is not HTTP, or does not come to the point.
        """
        protocol: Any = connection.protocol
        read, interim = protocol.read, 0

        async def read_bounded() -> Any:  # noqa: ANN401 - aiohttp's message and payload
            nonlocal interim
            message, payload = await read()
            if message.code // 100 == 1 and message.code != _SWITCHING_PROTOCOLS:
                interim += 1
                if interim > INTERIM_LIMIT:
                    raise HttpProcessingError(code=message.code, message=f"more than {INTERIM_LIMIT} interim answers")
            return message, payload

        protocol.read = read_bounded
        try:
            await super().start(connection)
        finally:
            del protocol.read
        self.reason = None
        return self

"""A client of Server-Sent Events, by aiohttp: what it receives, and where it goes on after it was cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.harness.waiting import PATIENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One event of a stream."""

    id: str
    type: str
    data: bytes

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.data)
        return event


@dataclass(slots=True, kw_only=True)
class SseClient:
    """One connection; `comments` counts the lines that only keep it open."""

    response: aiohttp.ClientResponse
    comments: int = 0
    received: list[Received] = field(default_factory=list)

    async def read(self) -> Received | None:
        """Return the next event; None at the end of the stream."""
        fields: dict[str, bytes] = {}
        async for line in self.response.content:
            if line.startswith(b":"):
                self.comments += 1
            elif name_and_value := line.rstrip(b"\n"):
                name, _, value = name_and_value.partition(b": ")
                fields[name.decode()] = value
            elif fields:
                event = Received(id=fields["id"].decode(), type=fields["event"].decode(), data=fields["data"])
                self.received.append(event)
                return event
        return None

    async def take(self, count: int) -> list[Received]:
        """Return the next events, or fewer if the stream ends."""
        taken: list[Received] = []
        async with asyncio.timeout(PATIENCE):
            while len(taken) < count and (event := await self.read()) is not None:
                taken.append(event)
        return taken


@asynccontextmanager
async def connected(
    url: str, *, after: str | None = None, token: str | None = None, **query: str
) -> AsyncIterator[SseClient]:
    """Connect to a stream; it has begun when the block does."""
    headers = {} if after is None else {"Last-Event-ID": after}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    limits = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=limits, read_bufsize=2**23) as session,
        session.get(f"{url}api/v1/events/stream", headers=headers, params=query) as response,
    ):
        yield SseClient(response=response)

"""`GET /live`: tells open pages that something has changed, so that they fetch their live part again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from fastapi import Request
from fastapi.responses import Response

from bridge.admin.event_stream import StreamFilter
from bridge.errors import DatabaseError
from bridge.rules.access import Scope
from bridge.web import stream
from bridge.web.auth import is_still_permitted, requires
from bridge.web.routing import api_router
from bridge.web.state import State
from bridge.web.stream import EventStream
from bridge.web.tail import Ended, EventTail

PACE_SECONDS: Final = 0.5
"""The least time between two messages: a page is fetched again for each."""

router = api_router("", include_in_schema=False)


@router.get("/live", dependencies=[requires(Scope.READ)], response_class=EventStream)
async def live(request: Request, state: State) -> Response:
    """A message `changed` after events were written."""
    return EventStream(_changes(state.tail, lambda: is_still_permitted(request, Scope.READ)))


async def _changes(tail: EventTail, is_permitted: Callable[[], Awaitable[bool]]) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    async with tail.follow(StreamFilter(), None) as client:
        yield b": connected\n\n"
        beat_at = loop.time() + stream.HEARTBEAT_SECONDS
        while client.ended is None:
            try:
                if await tail.take(client, max(0, beat_at - loop.time())):
                    yield b"event: changed\ndata:\n\n"
                    await asyncio.sleep(PACE_SECONDS)
                if loop.time() >= beat_at:
                    beat_at = loop.time() + stream.HEARTBEAT_SECONDS
                    if not await is_permitted():
                        client.end(Ended.REVOKED)
                    yield b":\n\n"
            except DatabaseError:
                return  # the browser connects again

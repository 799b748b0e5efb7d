"""`GET /live`: notifies open pages of changes, so that they fetch their live part again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

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
from bridge.web.viewers import Viewers

router = api_router("", include_in_schema=False)


@router.get("/live", dependencies=[requires(Scope.READ)], response_class=EventStream)
async def live(request: Request, state: State) -> Response:
    """A message `changed` at the start, and after events were written."""
    return EventStream(_changes(state.tail, state.viewers, lambda: is_still_permitted(request, Scope.READ)))


async def _changes(
    tail: EventTail, viewers: Viewers, is_permitted: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    async with tail.follow(StreamFilter(), None) as client:
        with viewers.one_more():
            yield b": connected\n\n"
            beat_at, next_at = loop.time() + stream.HEARTBEAT_SECONDS, 0.0
            has_changed = True  # there may be changes from before this connection
            while client.ended is None:
                try:
                    wake_at = min(beat_at, next_at) if has_changed else beat_at
                    has_changed |= bool(await tail.take(client, max(0, wake_at - loop.time())))
                    if has_changed and loop.time() >= next_at:
                        has_changed, next_at = False, loop.time() + viewers.pace
                        yield b"event: changed\ndata:\n\n"
                    if loop.time() >= beat_at:
                        beat_at = loop.time() + stream.HEARTBEAT_SECONDS
                        if not await is_permitted():
                            client.end(Ended.REVOKED)
                        yield b":\n\n"
                except DatabaseError:
                    return  # the browser connects again

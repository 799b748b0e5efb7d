"""`GET /events/stream`: the event log as Server-Sent Events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import AfterValidator
from starlette.types import Send

from bridge.admin.event_stream import StreamedEvent, StreamFilter, key_of
from bridge.admin.listing import keys_of_room
from bridge.config.checks import check_event_glob
from bridge.errors import DatabaseError, NotFoundError
from bridge.logs import get_logger
from bridge.rules.access import Scope
from bridge.web.auth import is_still_permitted, requires
from bridge.web.problems import MEDIA_TYPE, ProblemError
from bridge.web.routing import api_router
from bridge.web.state import State
from bridge.web.tail import Ended, EventTail

HEARTBEAT_SECONDS: Final = 15.0
SEND_SECONDS: Final = 10.0
"""Time for a client to take a part of the stream."""
HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
"""Proxies must pass every event on at once."""

PROBLEM: Final = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
EXAMPLE: Final = "id: evt_01m83vdq05j5t8wy0s6rc3ke9g\nevent: peer.left\ndata: {…}\n\n"

TypeFilter = Annotated[
    list[Annotated[str, AfterValidator(check_event_glob)]] | None,
    Query(alias="type", description="Only events of these types; globs, as in `peer.*`."),
]

log = get_logger("bridge.web")
router = api_router(tags=["events"])


class EventStream(StreamingResponse):
    """A stream; a client that does not read in time is dropped."""

    media_type = "text/event-stream"
    chunks: AsyncGenerator[bytes]

    def __init__(self, chunks: AsyncGenerator[bytes]) -> None:
        super().__init__(chunks, headers=HEADERS)
        self.chunks = chunks

    async def stream_response(self, send: Send) -> None:
        """Send the chunks; the response stays incomplete, and the connection is closed, if one is not taken."""
        async with aclosing(self.chunks) as chunks:
            first = await anext(chunks)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await _send(send, first)
                async for chunk in chunks:
                    await _send(send, chunk)
            except TimeoutError:
                log.info("stream.ended", reason=Ended.SLOW.value)
                return
            with suppress(TimeoutError):
                await _send(send, b"", is_last=True)


@router.get(
    "/events/stream",
    dependencies=[requires(Scope.READ)],
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
            "description": "Server-Sent Events: `id` is the event's id, `event` its type, `data` its body.",
        },
        404: {"content": PROBLEM, "description": "No room has that id."},
        410: {
            "content": PROBLEM,
            "description": "The last event is unknown, or it was pruned: begin without `Last-Event-ID`.",
        },
    },
)
async def stream_events(
    request: Request,
    state: State,
    room: Annotated[str | None, Query(description="Only events of the room with this id.")] = None,
    types: TypeFilter = None,
    last_event_id: Annotated[
        str | None, Header(description="The id of the last event that was received: the stream goes on after it.")
    ] = None,
) -> Response:
    """Events as they are written to the log, from now on, or from the last one that was received."""
    wanted = StreamFilter(room=room, types=tuple(types or ()))
    if room is not None:
        await state.database.look(keys_of_room, room)
    after = None
    if last_event_id:
        try:
            after = await state.database.look(key_of, last_event_id)
        except NotFoundError as error:
            raise ProblemError(HTTPStatus.GONE, f"{error}: begin without Last-Event-ID") from None
    return EventStream(_chunks(state.tail, wanted, after, lambda: is_still_permitted(request, Scope.READ)))


async def _chunks(
    tail: EventTail, wanted: StreamFilter, after: int | None, is_permitted: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[bytes]:
    """Yield events and heartbeats; after the first chunk no event can be missed."""
    loop = asyncio.get_running_loop()
    async with tail.follow(wanted, after) as client:
        yield b": connected\n\n"
        beat_at = loop.time() + HEARTBEAT_SECONDS
        while client.ended is None:
            try:
                events = await tail.take(client, max(0, beat_at - loop.time()))
                if events:
                    yield b"".join(_encode(event) for event in events)
                if loop.time() >= beat_at:
                    beat_at = loop.time() + HEARTBEAT_SECONDS
                    if not await is_permitted():
                        client.end(Ended.REVOKED)
                    yield b":\n\n"
            except DatabaseError as error:
                log.warning("stream.failed", detail=str(error))
                return
        if client.ended is not Ended.STOPPED:
            log.info("stream.ended", reason=client.ended.value)


async def _send(send: Send, chunk: bytes, *, is_last: bool = False) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await send({"type": "http.response.body", "body": chunk, "more_body": not is_last})


def _encode(event: StreamedEvent) -> bytes:
    """Write an event; the body is one line, because JSON escapes line breaks."""
    return f"id: {event.id}\nevent: {event.type}\ndata: ".encode() + event.body + b"\n\n"

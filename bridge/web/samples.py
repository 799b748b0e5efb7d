"""Samples of events, from which automation platforms learn the fields of a hook."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import JSONResponse, Response

from bridge.admin.events import EventFilter, list_events
from bridge.admin.listing import Page
from bridge.delivery.samples import make_sample
from bridge.errors import NotFoundError
from bridge.events.formats import flatten
from bridge.events.types import EventType
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.problems import ProblemError
from bridge.web.routing import api_router
from bridge.web.state import AppState, State

router = api_router(tags=["hooks"])

NEWEST = 3
RoomId = Annotated[str | None, Query(description="Only of the room with this id.")]


@router.get("/samples/{event_type}", dependencies=[requires(Scope.HOOKS)], response_model=list[dict[str, Any]])
async def list_samples(state: State, event_type: str, room_id: RoomId = None) -> Response:
    """The newest three events of a type, with the keys of a delivery in style `flat`; without any, an invented one."""
    if event_type not in list(EventType):
        raise ProblemError(404, f"there is no event type {event_type!r}: see docs/events.md")
    kind = EventType(event_type)
    wanted = EventFilter(types=(kind.value,), room=room_id or None)
    return JSONResponse([flatten(event) for event in await _newest(state, wanted) or [_invented(state, kind, room_id)]])


async def _newest(state: AppState, wanted: EventFilter) -> Sequence[dict[str, Any]]:
    try:
        return [event.facts for event in (await state.database.read(list_events, wanted, Page(limit=NEWEST))).items]
    except NotFoundError:  # a room that is not tracked yet
        return ()


def _invented(state: AppState, kind: EventType, room_id: str | None) -> dict[str, Any]:
    identity = state.settings().identity.policy()
    sample = make_sample(kind, state.runtime, room_id=room_id or "test-room", identity=identity)
    facts: dict[str, Any] = json.loads(sample.body)
    return facts

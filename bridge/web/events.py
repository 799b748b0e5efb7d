"""The event log."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from bridge.admin.attempts import AttemptFilter, ListedAttempt, list_attempts
from bridge.admin.events import EventFilter, LoggedEvent, find_event, list_events
from bridge.admin.listing import LARGEST_KEY
from bridge.config.checks import check_event_glob
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.paging import Items, NewestFirst, page_response
from bridge.web.params import InPeriod, RoomFilter
from bridge.web.problems import invalid
from bridge.web.routing import api_router
from bridge.web.state import State

router = api_router(tags=["events"])

TypeFilter = Annotated[
    list[str] | None,
    Query(alias="type", description="Only of these types; globs, repeatable.", examples=[["peer.*", "room.empty"]]),
]
PersonFilter = Annotated[
    str | None, Query(max_length=1000, description="Only about visits of the person with this `person_key`.")
]
AfterSequence = Annotated[
    int | None, Query(ge=0, lt=LARGEST_KEY, description="Only with a larger `sequence`; together with `room`.")
]


class Event(BaseModel):
    """An event, as style `standard` delivers it."""

    id: str
    type: str
    timestamp: datetime
    schema_version: int
    data: dict[str, Any]


@router.get("/events", dependencies=[requires(Scope.READ)], response_model=Items[Event])
async def list_logged(
    state: State,
    page: NewestFirst,
    period: InPeriod,
    room: RoomFilter = None,
    types: TypeFilter = None,
    person: PersonFilter = None,
    after_sequence: AfterSequence = None,
) -> Response:
    """Events in the order in which they were recorded; `since` and `until` compare that time. Erased ones are left out.

    With `room` and `after_sequence`, the events that a receiver has missed.
    """
    wanted = EventFilter(
        room=room,
        person=person,
        types=event_globs(types),
        since=period.since,
        until=period.until,
        after_sequence=after_sequence,
        # A page of old to new events is followed by newer ones only.
        up_to=None if page.newest_first else await state.log_end.find(state.database),
    )
    return page_response(await state.database.read(list_events, wanted, page), _facts)


@router.get("/events/{event_id}", dependencies=[requires(Scope.READ)], response_model=Event)
async def show(state: State, event_id: str) -> Response:
    """An event."""
    return JSONResponse((await state.database.read(find_event, event_id)).facts)


@router.get("/events/{event_id}/attempts", dependencies=[requires(Scope.READ)], response_model=Items[ListedAttempt])
async def list_its_attempts(state: State, event_id: str, page: NewestFirst) -> Response:
    """Attempts to deliver an event, at every endpoint."""
    return page_response(await state.database.read(list_attempts, AttemptFilter(event=event_id), page))


def event_globs(types: Iterable[str] | None) -> tuple[str, ...]:
    """Return the globs of `type`.

    Raises:
        ProblemError: 422: one matches no event type.
    """
    globs = tuple(types or ())
    for glob in globs:
        try:
            check_event_glob(glob)
        except ValueError as problem:
            raise invalid(str(problem), "query", "type") from None
    return globs


def _facts(event: LoggedEvent) -> dict[str, Any]:
    return event.facts

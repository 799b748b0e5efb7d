"""Attempts, dead letters, and an operator's actions on a single event."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from bridge.admin.attempts import (
    AttemptFilter,
    ListedAttempt,
    ListedDeadLetter,
    list_attempts,
    list_dead_letters,
)
from bridge.admin.listing import Page, document
from bridge.config.models import Label, Table
from bridge.delivery.endpoints import find_endpoint
from bridge.delivery.replay import request_events
from bridge.delivery.skip import skip_event
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.paging import Items, NewestFirst, page_response
from bridge.web.params import InPeriod, RoomFilter
from bridge.web.routing import api_router
from bridge.web.state import State

router = api_router(tags=["deliveries"])


class DeliveryFilter(StrEnum):
    """Attempts that delivered, attempts that did not, or dead letters: events that were given up for an endpoint."""

    DELIVERED = "delivered"
    FAILED = "failed"
    DEAD = "dead"


EndpointFilter = Annotated[str | None, Query(description="Only to the endpoint with this name or id.")]
StateFilter = Annotated[
    DeliveryFilter | None,
    Query(alias="state", description="Only attempts that delivered, or did not; `dead` lists dead letters instead."),
]
EventIdFilter = Annotated[str | None, Query(description="Only of the event with this id.")]


class AtEndpoint(Table):
    """An endpoint, by name or id."""

    endpoint: Label


class Count(BaseModel):
    """A number of events."""

    count: int


@router.get(
    "/deliveries",
    dependencies=[requires(Scope.READ)],
    response_model=Items[ListedAttempt] | Items[ListedDeadLetter],
)
async def list_recorded(
    state: State,
    page: NewestFirst,
    period: InPeriod,
    endpoint: EndpointFilter = None,
    in_state: StateFilter = None,
    event: EventIdFilter = None,
    room: RoomFilter = None,
) -> Response:
    """Attempts; with `state=dead` dead letters, which have other keys."""
    wanted = AttemptFilter(
        endpoint=endpoint,
        room=room,
        event=event,
        delivered=in_state is DeliveryFilter.DELIVERED,
        failed=in_state is DeliveryFilter.FAILED,
        since=period.since,
        until=period.until,
    )
    if in_state is DeliveryFilter.DEAD:
        return page_response(await state.database.read(list_dead_letters, wanted, page))
    return page_response(await state.database.read(list_attempts, wanted, page))


@router.post(
    "/events/{event_id}/redeliver", dependencies=[requires(Scope.WRITE)], response_model=Count, status_code=202
)
async def redeliver(state: State, event_id: str, body: AtEndpoint) -> Response:
    """Send an event to an endpoint once more. `count` is 0 if that was requested already and is still to be done."""
    key = (await state.database.read(find_endpoint, body.endpoint)).id
    count = await state.database.write(request_events, key, [event_id], state.runtime.now())
    return JSONResponse({"count": count}, 202)


@router.post("/events/{event_id}/skip", dependencies=[requires(Scope.WRITE)], response_model=ListedDeadLetter)
async def skip(state: State, event_id: str, body: AtEndpoint) -> Response:
    """Give up the next event that an endpoint is owed in a room, so that later ones are delivered."""
    await state.database.write(skip_event, body.endpoint, event_id, state.runtime.now())
    letters = AttemptFilter(endpoint=body.endpoint, event=event_id)
    (letter,) = (await state.database.read(list_dead_letters, letters, Page(limit=1))).items
    return JSONResponse(document(letter))

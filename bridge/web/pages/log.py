"""Pages of the event log and of deliveries: lists with filters, and one event with every attempt."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

from fastapi import Query
from fastapi.responses import Response

from bridge.admin.attempts import AttemptFilter
from bridge.admin.deliveries import show_deliveries
from bridge.admin.events import EventFilter, list_events
from bridge.admin.listing import Page
from bridge.admin.overview import read_deliveries
from bridge.delivery.endpoints import find_endpoint
from bridge.events.summaries import summarize
from bridge.events.types import EventType
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.pages.view import PageView
from bridge.web.paging import After
from bridge.web.params import moment
from bridge.web.routing import api_router

SHOWN = 50

router = api_router("", dependencies=[requires(Scope.READ)], include_in_schema=False)


class DeliveriesShown(StrEnum):
    """Parts of the list of deliveries."""

    ALL = ""
    FAILED = "failed"
    DEAD = "dead"


@router.get("/deliveries")
async def show_attempts(
    view: PageView,
    endpoint: str | None = None,
    shown: Annotated[DeliveriesShown, Query(alias="state")] = DeliveriesShown.ALL,
    after: After = None,
) -> Response:
    """Attempts or dead letters, newest first."""
    read = view.state.database.read
    found = None if not endpoint else await read(find_endpoint, endpoint)
    wanted = AttemptFilter(endpoint=endpoint or None, failed=shown is DeliveriesShown.FAILED)
    listing = await read(read_deliveries, wanted, Page(limit=SHOWN, after=after), dead=shown is DeliveriesShown.DEAD)
    of_endpoint = None if found is None else {"id": found.public_id, "name": found.name}
    return view.page("deliveries.html", "Deliveries", deliveries=listing, shown_state=shown.value, endpoint=of_endpoint)


@router.get("/events")
async def show_log(
    view: PageView,
    room: str | None = None,
    kind: Annotated[str | None, Query(alias="type")] = None,
    since: str | None = None,
    until: str | None = None,
    after: After = None,
) -> Response:
    """The event log, newest first."""
    wanted = EventFilter(
        room=room or None,
        types=(kind,) if kind else (),
        since=moment(view.state, since or None, "query", "since"),
        until=moment(view.state, until or None, "query", "until"),
    )
    listing = await view.state.database.read(list_events, wanted, Page(limit=SHOWN, after=after))
    rows = [(event, event.facts, summarize(event.facts["type"], event.facts["data"])) for event in listing.items]
    shown = {"room": room, "type": kind, "since": since, "until": until}
    types = [known.value for known in EventType]
    return view.page("events.html", "Events", listing=listing, events=rows, shown=shown, types=types)


@router.get("/events/{event_id}")
async def show_event(view: PageView, event_id: str) -> Response:
    """One event: its delivery to every endpoint with each attempt, and its body."""
    found = await view.state.database.read(show_deliveries, event_id)
    facts = found.event.facts
    return view.page(
        "event.html",
        "Events",
        event=found.event,
        data=facts["data"],
        deliveries=found.deliveries,
        body=_readable(json.dumps(facts, indent=2, ensure_ascii=False)),
    )


def _readable(text: str) -> str:
    """Return JSON in which characters that control or hide text are escaped."""
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)

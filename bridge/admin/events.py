"""The event log for listings: newest first, or as it grows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select

from bridge.admin.listing import Listing, Order, Page, fetch_page, in_period, keys_of_room
from bridge.db.tables import events
from bridge.errors import NotFoundError
from bridge.events.types import EventType, matches


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Conditions that events must meet; `since` (inclusive) and `until` compare the time at which one was recorded.

    `before` is the id of an event: only older ones are listed.
    """

    room: str | None = None
    types: tuple[str, ...] = ()
    """Globs."""
    since: datetime | None = None
    until: datetime | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEvent:
    """An event; `body` is that of style `standard`. Keys grow in the order in which events were inserted."""

    key: int
    id: str
    recorded_at: datetime
    body: bytes = field(repr=False)

    @property
    def facts(self) -> dict[str, Any]:
        """The parsed body, which the HTTP API and `--json` return."""
        facts: dict[str, Any] = json.loads(self.body)
        return facts


def list_events(connection: Connection, wanted: EventFilter, page: Page) -> Listing[LoggedEvent]:
    """Return events, newest first.

    Raises:
        NotFoundError: there is no such room, or no event with the id `wanted.before`.
    """
    query = _select(connection, wanted, *_LOGGED)
    if wanted.before is not None:
        last = find_event(connection, wanted.before)
        query = query.where(_NEWEST_FIRST.beyond((last.recorded_at, last.key)))
    return fetch_page(connection, query, _NEWEST_FIRST, page, LoggedEvent)


def new_events(connection: Connection, wanted: EventFilter, *, after: int, last: int, limit: int) -> list[LoggedEvent]:
    """Return the oldest events with keys above one, up to another, in the order of their keys."""
    query = _select(connection, wanted, *_LOGGED).where(events.c.id > after, events.c.id <= last)
    rows = connection.execute(query.order_by(events.c.id).limit(limit))
    return [LoggedEvent(**row._asdict()) for row in rows]


def find_event(connection: Connection, event_id: str) -> LoggedEvent:
    """Return the event with that id.

    Raises:
        NotFoundError: there is none, or it was pruned or erased.
    """
    found = select(*_LOGGED).where(events.c.public_id == event_id, events.c.body.is_not(None))
    row = connection.execute(found).one_or_none()
    if row is None:
        raise NotFoundError(f"no event has the id {event_id!r}: see `bridge events list --json`")
    return LoggedEvent(**row._asdict())


def _select(connection: Connection, wanted: EventFilter, *columns: ColumnElement[Any]) -> Select[Any]:
    query = select(*columns).where(
        events.c.body.is_not(None), *in_period(events.c.recorded_at, wanted.since, wanted.until)
    )
    if wanted.room is not None:
        query = query.where(events.c.room_key.in_(keys_of_room(connection, wanted.room)))
    if wanted.types:
        query = query.where(events.c.type.in_([known.value for known in EventType if matches(known, wanted.types)]))
    return query


_NEWEST_FIRST = Order((events.c.recorded_at, events.c.id))
_LOGGED = (events.c.id.label("key"), events.c.public_id.label("id"), events.c.recorded_at, events.c.body)

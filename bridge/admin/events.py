"""The event log for listings: newest first, or as it grows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select

from bridge.admin.listing import Listing, Order, Page, fetch_page, in_period, keys_of_room
from bridge.db.tables import events, rooms, visits
from bridge.errors import ArgumentError, NotFoundError
from bridge.events.types import OF_BRIDGE, EventType, matches


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Conditions that events must meet; `since` (inclusive) and `until` compare the time at which one was recorded.

    `before` is the id of an event: only older ones are listed. `after_sequence` needs a room. `person` is a
    `person_key`, of the visits that events are about. `up_to` is the key of the last event that counts.
    """

    room: str | None = None
    person: str | None = None
    types: tuple[str, ...] = ()
    """Globs."""
    since: datetime | None = None
    until: datetime | None = None
    before: str | None = None
    after_sequence: int | None = None
    up_to: int | None = None


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
    """Return events, newest first: the order in which they were inserted, within a room that of `sequence`.

    Raises:
        NotFoundError: there is no such room, or no event with the id `wanted.before`.
        ArgumentError: `wanted.after_sequence` without a room.
    """
    if wanted.after_sequence is not None and wanted.room is None:
        raise ArgumentError("after_sequence", "sequences are those of one room, so name the room too")
    query = _select(connection, wanted, *_LOGGED)
    room_keys = _rooms_of(connection, wanted)
    if room_keys is None and wanted.person is None:
        query = query.where(*_id_bounds(wanted))
    if wanted.before is not None:
        query = query.where(events.c.id < find_event(connection, wanted.before).key)
    if wanted.after_sequence is not None:
        query = query.where(events.c.sequence > wanted.after_sequence)
    if wanted.person is not None:
        query = query.where(events.c.id.in_(_about(wanted.person)))
    order = _BY_SEQUENCE if room_keys is not None and len(room_keys) == 1 else _BY_ID
    return fetch_page(connection, query, order, page, LoggedEvent)


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
        raise NotFoundError(f"no event has the id {event_id!r}, or it was erased", "see `bridge events list --json`")
    return LoggedEvent(**row._asdict())


def _select(connection: Connection, wanted: EventFilter, *columns: ColumnElement[Any]) -> Select[Any]:
    query = select(*columns).where(
        events.c.body.is_not(None), *in_period(events.c.recorded_at, wanted.since, wanted.until)
    )
    room_keys = _rooms_of(connection, wanted)
    if room_keys is not None:
        query = query.where(events.c.room_key.in_(room_keys))
    if wanted.types:
        query = query.where(events.c.type.in_([kind.value for kind in _types_of(wanted)]))
    if wanted.up_to is not None:
        query = query.where(events.c.id <= wanted.up_to)
    return query


def _types_of(wanted: EventFilter) -> list[EventType]:
    return [known for known in EventType if matches(known, wanted.types)]


def _rooms_of(connection: Connection, wanted: EventFilter) -> Sequence[int] | None:
    """Return the rooms whose logs have the events; None is every room. The bridge's own log is that of one room."""
    if wanted.room is not None:
        return keys_of_room(connection, wanted.room)
    if wanted.types and OF_BRIDGE.issuperset(_types_of(wanted)):
        return connection.execute(select(rooms.c.id).where(rooms.c.source.is_(None))).scalars().all()
    return None


def _id_bounds(wanted: EventFilter) -> Iterator[ColumnElement[bool]]:
    """Yield the ids of a period as conditions, so that a page reads nothing before or after it.

    Times follow the order of ids, except where transactions overlap or a clock is set: the first and the last id of
    a period are searched for among a few thousand.
    """
    if wanted.since is not None:
        since = select(events.c.id).where(events.c.recorded_at >= wanted.since)
        earliest = since.order_by(events.c.recorded_at).limit(_OVERLAPPING).subquery()
        yield events.c.id >= select(func.min(earliest.c.id)).scalar_subquery()
    if wanted.until is not None:
        until = select(events.c.id).where(events.c.recorded_at < wanted.until)
        latest = until.order_by(events.c.recorded_at.desc()).limit(_OVERLAPPING).subquery()
        yield events.c.id <= select(func.max(latest.c.id)).scalar_subquery()


def _about(person: str) -> Select[Any]:
    """The ids of the events about a person's visits: few, so they are found before anything is sorted."""
    theirs = select(visits.c.public_id).where(visits.c.person_key == person)
    found = select(events.c.id).where(events.c.visit_id.in_(theirs))
    return select(found.cte("about_person").prefix_with("MATERIALIZED").c.id)


_BY_ID = Order((events.c.id,))
_BY_SEQUENCE = Order((events.c.sequence,))
"""Of one room."""
_OVERLAPPING = 2_000
_LOGGED = (events.c.id.label("key"), events.c.public_id.label("id"), events.c.recorded_at, events.c.body)

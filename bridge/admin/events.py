"""The log as people and programs ask for it: newest first, or as it grows."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select, tuple_

from bridge.admin.listing import Page, keys_of_room
from bridge.db.tables import events
from bridge.errors import NotFoundError
from bridge.events.types import EventType, matches


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events are wanted: of any room, of every type, from always, unless something else is said.

    `since` (inclusive) and `until` are about when an event was recorded.
    """

    room: str | None = None
    types: tuple[str, ...] = ()
    """Globs."""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEvent:
    """An event of the log; `body` is the canonical one. Keys grow in the order in which events were written."""

    key: int
    id: str
    recorded_at: datetime
    body: bytes = field(repr=False)

    @property
    def facts(self) -> dict[str, Any]:
        """The body, read: what the HTTP API and `--json` response."""
        facts: dict[str, Any] = json.loads(self.body)
        return facts


def list_events(connection: Connection, wanted: EventFilter, page: Page) -> list[LoggedEvent]:
    """Events of the log, newest first.

    Raises:
        NotFoundError: there is no such room, or no event with the page's id.
    """
    query = _wanted(connection, wanted)
    if page.after is not None:
        last = find_event(connection, page.after)
        query = query.where(tuple_(events.c.recorded_at, events.c.id) < tuple_(last.recorded_at, last.key))
    newest_first = query.order_by(events.c.recorded_at.desc(), events.c.id.desc()).limit(page.limit)
    return [_logged(row) for row in connection.execute(newest_first)]


def new_events(
    connection: Connection, wanted: EventFilter, *, above: int, known: Collection[int], limit: int
) -> list[LoggedEvent]:
    """The oldest events with keys above `above` that are not `known`, in order of their keys.

    On PostgreSQL, of two transactions the one with the higher keys may commit first: who follows the log must read_health
    again at keys that it has passed. Within a room, order is certain: the log's writer holds the room.
    """
    keys = connection.execute(_wanted(connection, wanted, events.c.id).where(events.c.id > above).order_by(events.c.id))
    fresh = [key for key in keys.scalars() if key not in known][:limit]
    rows = connection.execute(select(events).where(events.c.id.in_(fresh)).order_by(events.c.id)) if fresh else ()
    return [_logged(row) for row in rows]


def newest_key(connection: Connection) -> int:
    """The key of the newest event; 0 for an empty log."""
    key: int = connection.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one()
    return key


def find_event(connection: Connection, event_id: str) -> LoggedEvent:
    """The event of that id.

    Raises:
        NotFoundError: there is none (any more).
    """
    row = connection.execute(select(events).where(events.c.public_id == event_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"no event {event_id!r} is in the log: see `bridge events list --json`")
    return _logged(row)


def _wanted(connection: Connection, wanted: EventFilter, *columns: ColumnElement[Any]) -> Select[Any]:
    query = select(*columns or (events,))
    if wanted.room is not None:
        query = query.where(events.c.room_key.in_(keys_of_room(connection, wanted.room)))
    if wanted.types:
        query = query.where(events.c.type.in_([kind.value for kind in EventType if matches(kind, wanted.types)]))
    if wanted.since is not None:
        query = query.where(events.c.recorded_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(events.c.recorded_at < wanted.until)
    return query


def _logged(row: Row[Any]) -> LoggedEvent:
    return LoggedEvent(key=row.id, id=row.public_id, recorded_at=row.recorded_at, body=bytes(row.body))

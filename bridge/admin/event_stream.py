"""The event log for its followers: in the order of its keys, as far as it is final."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from bridge.db.final_keys import FinalKeys
from bridge.db.tables import events, rooms
from bridge.errors import NotFoundError
from bridge.events.types import EventType, matches

WINDOW = 5_000
"""Most keys that one step reads."""
MOST = 200
"""Events that one step returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedEvent:
    """An event as a stream sends it; `room_id` is None in the bridge's own log."""

    key: int
    id: str
    type: str
    room_id: str | None
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFilter:
    """Conditions that events must meet: the id of a room (of any source), and globs of types."""

    room: str | None = None
    types: tuple[str, ...] = ()

    def accepts(self, event: StreamedEvent) -> bool:
        return self.room in (None, event.room_id) and (not self.types or matches(event.type, self.types))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part of the log: the events in it, and the key at which it ends."""

    end: int
    events: Sequence[StreamedEvent] = ()


def look_at_log(connection: Connection, final: FinalKeys, position: int | None) -> Step:
    """Read events after a position that have become final; None begins at the newest final key."""
    end = final.look(connection)
    if position is None or end <= position:
        return Step(end=end)
    return read_step(connection, position, end, StreamFilter())


def read_step(connection: Connection, after: int, last: int, wanted: StreamFilter) -> Step:
    """Read the next part of the log after one key, up to another; erased events are passed over."""
    end = min(last, after + WINDOW)
    query = _EVENTS.where(events.c.id > after, events.c.id <= end).order_by(events.c.id).limit(MOST)
    if wanted.room is not None:
        query = query.where(rooms.c.upstream_id == wanted.room)
    if wanted.types:
        query = query.where(events.c.type.in_([kind.value for kind in EventType if matches(kind, wanted.types)]))
    found = [_event(row) for row in connection.execute(query)]
    return Step(end=found[-1].key if len(found) == MOST else end, events=found)


def key_of(connection: Connection, event_id: str) -> int:
    """Return the key of an event, erased or not.

    Raises:
        NotFoundError: there is none with that id, or it was pruned.
    """
    key: int | None = connection.execute(select(events.c.id).where(events.c.public_id == event_id)).scalar()
    if key is None:
        raise NotFoundError(f"no event has the id {event_id!r}, or it was pruned")
    return key


def keys_above(connection: Connection, key: int) -> frozenset[int]:
    """Return the keys of all events above a key that have been committed by now."""
    return frozenset(connection.execute(select(events.c.id).where(events.c.id > key)).scalars())


def _event(row: Row[Any]) -> StreamedEvent:
    return StreamedEvent(key=row.id, id=row.public_id, type=row.type, room_id=row.upstream_id, body=bytes(row.body))


_EVENTS: Select[Any] = (
    select(events.c.id, events.c.public_id, events.c.type, events.c.body, rooms.c.upstream_id)
    .join(rooms, rooms.c.id == events.c.room_key)
    .where(events.c.body.is_not(None))
)

"""Retention of the event log: whole rows of what is old enough are deleted, from the beginning of each room's log.

A step is one transaction for one room, and ends where no session is under way: its anchor keeps the hash from which the
chain goes on. Every session that began after the anchor is whole, and none of those before it is left.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, delete, func, select

from bridge.db.engine import upsert
from bridge.db.tables import anchors, attempts, dead_letters, events, redeliveries, rooms, sessions, visits
from bridge.events.types import EventType

EVENTS_AT_ONCE: Final = 2_000
SESSIONS_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """Numbers of deleted rows."""

    events: int = 0
    sessions: int = 0
    visits: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(
            events=self.events + other.events,
            sessions=self.sessions + other.sessions,
            visits=self.visits + other.visits,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """The events up to the sequence `upto`, and the sessions that ended among them."""

    keys: Sequence[int]
    upto: int
    hash: bytes
    session_ids: Sequence[str]


def rooms_to_prune(connection: Connection, before: datetime) -> list[int]:
    """Return the keys of the logs that have events from before that time."""
    old = select(events.c.room_key).where(events.c.recorded_at < before).distinct()
    return list(connection.execute(old.order_by(events.c.room_key)).scalars())


def prune_room(connection: Connection, room_key: int, before: datetime) -> Pruned:
    """Delete the next old events of a log; returns the numbers, zero if no more may be deleted."""
    connection.execute(select(rooms.c.id).where(rooms.c.id == room_key).with_for_update())
    step = _next_step(connection, room_key, _limit(connection, room_key, before))
    if step is None:
        return Pruned()
    deleted = _delete_sessions(connection, step.session_ids)
    _delete_events(connection, step.keys)
    values = {"room_key": room_key, "sequence": step.upto, "hash": step.hash}
    anchor = upsert(connection.dialect.name)(anchors).values(values)
    connection.execute(
        anchor.on_conflict_do_update(
            index_elements=[anchors.c.room_key], set_={"sequence": step.upto, "hash": step.hash}
        )
    )
    return deleted + Pruned(events=len(step.keys))


def count_prunable(connection: Connection, room_key: int, before: datetime) -> Pruned:
    """Count what `prune_room` would delete, step by step, without deleting it."""
    limit, after, total = _limit(connection, room_key, before), 0, Pruned()
    while (step := _next_step(connection, room_key, limit, after=after)) is not None:
        of_sessions = select(func.count()).select_from(visits).join(sessions, sessions.c.id == visits.c.session_key)
        count = connection.execute(of_sessions.where(sessions.c.public_id.in_(step.session_ids))).scalar_one()
        total += Pruned(events=len(step.keys), sessions=len(step.session_ids), visits=count)
        after = step.upto
    return total


def _limit(connection: Connection, room_key: int, before: datetime) -> datetime:
    """The bridge's own log keeps `person.erased` events for as long as what they explain."""
    is_own = connection.execute(select(rooms.c.source.is_(None)).where(rooms.c.id == room_key)).scalar_one()
    if not is_own:
        return before
    others = (events.c.body.is_(None), events.c.room_key != room_key)
    erased = connection.execute(select(func.min(events.c.recorded_at)).where(*others)).scalar()
    return before if erased is None else min(before, erased)


def _next_step(connection: Connection, room_key: int, before: datetime, *, after: int = 0) -> _Step | None:
    """Read on from the beginning of the log until enough is read, up to the last event outside of a session."""
    keys: list[int] = []
    ended: list[str] = []
    open_session: str | None = None
    step: _Step | None = None
    while True:
        some = _EVENTS.where(events.c.room_key == room_key, events.c.sequence > after).limit(EVENTS_AT_ONCE)
        found = connection.execute(some.order_by(events.c.sequence)).all()
        for row in found:
            if row.recorded_at >= before:
                return step
            keys.append(row.id)
            after = row.sequence
            if row.type == EventType.ROOM_OCCUPIED:
                open_session = _session_id(row)
            elif row.type == EventType.ROOM_EMPTY and open_session is not None:
                ended.append(open_session)
                open_session = None
            if open_session is None:
                step = _Step(keys=tuple(keys), upto=row.sequence, hash=bytes(row.hash), session_ids=tuple(ended))
                if len(keys) >= EVENTS_AT_ONCE or len(ended) >= SESSIONS_AT_ONCE:
                    return step
        if len(found) < EVENTS_AT_ONCE:
            return step


def _session_id(row: Any) -> str:  # noqa: ANN401 - a row of events
    return str(json.loads(bytes(row.body))["data"]["session_id"])


def _delete_sessions(connection: Connection, session_ids: Sequence[str]) -> Pruned:
    keys = connection.execute(select(sessions.c.id).where(sessions.c.public_id.in_(session_ids))).scalars().all()
    deleted = connection.execute(delete(visits).where(visits.c.session_key.in_(keys))).rowcount
    connection.execute(delete(sessions).where(sessions.c.id.in_(keys)))
    return Pruned(sessions=len(keys), visits=deleted)


def _delete_events(connection: Connection, keys: Sequence[int]) -> None:
    for start in range(0, len(keys), EVENTS_AT_ONCE):
        some = keys[start : start + EVENTS_AT_ONCE]
        for table in (attempts, dead_letters, redeliveries):
            connection.execute(delete(table).where(table.c.event_key.in_(some)))
        connection.execute(delete(events).where(events.c.id.in_(some)))


_EVENTS = select(*(events.c.id, events.c.sequence, events.c.type, events.c.recorded_at, events.c.hash, events.c.body))

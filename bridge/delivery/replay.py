"""What a person asks to be sent again: single events, or all of a range that concerns an endpoint.

A range may hold a million events, so it is asked for a few thousand at a time, each time in a transaction of its own:
live events are written, and sent, in between. Who is killed in the middle asks again: what waits already is not asked
for twice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, func, insert, or_, select

from bridge.db.tables import dead_letters, endpoints, events, redeliveries, rooms
from bridge.delivery.redeliver import RedeliveryState
from bridge.errors import NotFoundError
from bridge.events.types import EventType, matches

AT_ONCE = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Which events are to be sent again: those recorded in [since, until), or only those that ended as dead letters."""

    since: datetime | None = None
    until: datetime | None = None
    only_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The events of a range that concern an endpoint, as far as the log went when it was asked."""

    endpoint_key: int
    asked: Range
    up_to: int
    types: tuple[str, ...] | None = None
    room_keys: frozenset[int] | None = None
    """None is every room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one step of a request did; `after` is where the next one begins, None if there is none."""

    added: int
    after: int | None


def request_events(connection: Connection, endpoint_key: int, event_ids: Sequence[str], now: datetime) -> int:
    """Ask for single events to be sent again; answers how many were not being sent again already.

    Raises:
        NotFoundError: an event does not exist.
    """
    _hold(connection, endpoint_key)
    keys = find_events(connection, event_ids)
    fresh = select(events.c.id).where(events.c.id.in_(keys), ~_is_owed(endpoint_key)).order_by(events.c.id)
    return _add(connection, endpoint_key, connection.execute(fresh).scalars().all(), now)


def find_events(connection: Connection, event_ids: Sequence[str]) -> list[int]:
    """The keys of events, in the order of the log.

    Raises:
        NotFoundError: an event does not exist.
    """
    of_ids = select(events.c.id, events.c.public_id).where(events.c.public_id.in_(event_ids)).order_by(events.c.id)
    found = {row.public_id: row.id for row in connection.execute(of_ids)}
    for event_id in event_ids:
        if event_id not in found:
            raise NotFoundError(f"no event has the id {event_id!r}: see `bridge events list`")
    return list(found.values())


def find_range(connection: Connection, endpoint_key: int, asked: Range) -> Wanted:
    """What a range means for an endpoint: its filters count, but not for dead letters, which it once wanted."""
    endpoint = connection.execute(select(endpoints).where(endpoints.c.id == endpoint_key)).one()
    up_to = connection.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one()
    if asked.only_failed:
        return Wanted(endpoint_key=endpoint_key, asked=asked, up_to=up_to)
    return Wanted(
        endpoint_key=endpoint_key,
        asked=asked,
        up_to=up_to,
        types=tuple(known.value for known in EventType if matches(known, endpoint.events)),
        room_keys=_rooms_of(connection, endpoint),
    )


def count_wanted(connection: Connection, wanted: Wanted) -> int:
    """How many events that is, those that are being sent again already among them."""
    by_room = select(events.c.room_key, func.count().label("assign_sequences")).where(*_conditions(wanted, after=0))
    rows = connection.execute(by_room.group_by(events.c.room_key))
    return sum(row.assign_sequences for row in rows if _is_in(row.room_key, wanted.room_keys))


def request_some(connection: Connection, wanted: Wanted, after: int, now: datetime) -> Progress:
    """Ask for the next few thousand events behind the key `after`; 0 is the beginning."""
    _hold(connection, wanted.endpoint_key)
    some = (
        select(events.c.id, events.c.room_key)
        .where(*_conditions(wanted, after=after), ~_is_owed(wanted.endpoint_key))
        .order_by(events.c.id)
        .limit(AT_ONCE)
    )
    found = connection.execute(some).all()
    keys = [row.id for row in found if _is_in(row.room_key, wanted.room_keys)]
    added = _add(connection, wanted.endpoint_key, keys, now)
    return Progress(added=added, after=found[-1].id if len(found) == AT_ONCE else None)


def _hold(connection: Connection, endpoint_key: int) -> None:
    """One at a time asks for an endpoint: what one asks for, the next one finds."""
    connection.execute(select(endpoints.c.id).where(endpoints.c.id == endpoint_key).with_for_update(key_share=True))


def _rooms_of(connection: Connection, endpoint: Row[Any]) -> frozenset[int] | None:
    if "*" in endpoint.rooms:
        return None
    found = connection.execute(select(rooms.c.id, rooms.c.upstream_id))
    return frozenset(row.id for row in found if row.upstream_id is None or matches(row.upstream_id, endpoint.rooms))


def _is_in(room_key: int, room_keys: Collection[int] | None) -> bool:
    return room_keys is None or room_key in room_keys


def _conditions(wanted: Wanted, *, after: int) -> list[ColumnElement[bool]]:
    asked = wanted.asked
    within = [events.c.id > after, events.c.id <= wanted.up_to]
    if asked.since is not None:
        within.append(events.c.recorded_at >= asked.since)
    if asked.until is not None:
        within.append(events.c.recorded_at < asked.until)
    if wanted.types is not None:
        spared = events.c.except_endpoint
        within += [events.c.type.in_(wanted.types), or_(spared.is_(None), spared != wanted.endpoint_key)]
    if asked.only_failed:
        parked = and_(dead_letters.c.endpoint_key == wanted.endpoint_key, dead_letters.c.event_key == events.c.id)
        within.append(exists().where(parked))
    return within


def _is_owed(endpoint_key: int) -> ColumnElement[bool]:
    return exists().where(
        redeliveries.c.endpoint_key == endpoint_key,
        redeliveries.c.event_key == events.c.id,
        redeliveries.c.state == RedeliveryState.OWED.value,
    )


def _add(connection: Connection, endpoint_key: int, event_keys: Sequence[int], now: datetime) -> int:
    owed = {"endpoint_key": endpoint_key, "requested_at": now, "next_attempt_at": now, "state": RedeliveryState.OWED}
    if event_keys:
        connection.execute(insert(redeliveries), [{"event_key": key, **owed} for key in event_keys])
    return len(event_keys)

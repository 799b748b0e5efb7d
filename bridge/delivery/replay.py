"""Replay: requests to deliver events again, single ones or all of a period that an endpoint wants.

A period may have a million events, so they are requested a few thousand at a time, each time in a transaction of its
own, with live events in between. After a crash in the middle, the same request adds only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, exists, func, insert, select

from bridge.db.engine import Database
from bridge.db.event_log import is_in_audience
from bridge.db.notifications import notify_due
from bridge.db.tables import dead_letters, endpoints, events, redeliveries, rooms
from bridge.errors import NotFoundError
from bridge.events.subscription import Subscription, subscription
from bridge.rules.delivery import RedeliveryState

EVENTS_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Events recorded in [since, until), or only those of them that are dead letters."""

    since: datetime | None = None
    until: datetime | None = None
    only_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Events of a range that an endpoint wants, up to the end of the log at the time of the request.

    `types` and `room_keys` are None where every type or room is wanted.
    """

    endpoint_key: int
    range: Range
    up_to: int
    types: tuple[str, ...] | None = None
    room_keys: frozenset[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Result of one step of a request; `after` is where the next one begins, None if there is none."""

    added: int
    after: int | None


async def request_replay(
    database: Database,
    endpoint_key: int,
    wanted: Range | Sequence[str],
    now: Callable[[], datetime],
    *,
    dry_run: bool = False,
) -> int:
    """Request events of a range, or by id; returns how many were requested, or with `dry_run` how many there are.

    Raises:
        NotFoundError: an event does not exist.
    """
    if not isinstance(wanted, Range):
        if dry_run:
            return len(await database.read(find_events, wanted))
        return await database.write(request_events, endpoint_key, wanted, now())
    found = await database.read(find_range, endpoint_key, wanted)
    if dry_run:
        return await database.read(count_wanted, found)
    progress = Progress(added=0, after=0)
    added = 0
    while progress.after is not None:
        progress = await database.write_aside(request_some, found, progress.after, now())
        added += progress.added
    return added


def request_events(connection: Connection, endpoint_key: int, event_ids: Sequence[str], now: datetime) -> int:
    """Request single events; returns how many were not requested already.

    Raises:
        NotFoundError: an event does not exist.
    """
    _lock_endpoint(connection, endpoint_key)
    keys = find_events(connection, event_ids)
    fresh = select(events.c.id).where(events.c.id.in_(keys), ~_is_owed(endpoint_key)).order_by(events.c.id)
    return _add(connection, endpoint_key, connection.execute(fresh).scalars().all(), now)


def find_events(connection: Connection, event_ids: Sequence[str]) -> list[int]:
    """The keys of events, in the order of the log.

    Raises:
        NotFoundError: an event does not exist.
    """
    of_ids = (
        select(events.c.id, events.c.public_id)
        .where(events.c.public_id.in_(event_ids), events.c.body.is_not(None))
        .order_by(events.c.id)
    )
    found = {row.public_id: row.id for row in connection.execute(of_ids)}
    for event_id in event_ids:
        if event_id not in found:
            raise NotFoundError(f"no event has the id {event_id!r}, or it was erased", "see `bridge events list`")
    return list(found.values())


def find_range(connection: Connection, endpoint_key: int, wanted_range: Range) -> Wanted:
    """The events of a range that an endpoint wants; dead letters count whatever it wants by now."""
    endpoint = connection.execute(select(endpoints).where(endpoints.c.id == endpoint_key)).one()
    wanting = subscription(endpoint.id, endpoint.events, endpoint.rooms)
    up_to = connection.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one()
    if wanted_range.only_failed:
        return Wanted(endpoint_key=endpoint_key, range=wanted_range, up_to=up_to)
    return Wanted(
        endpoint_key=endpoint_key,
        range=wanted_range,
        up_to=up_to,
        types=wanting.event_types,
        room_keys=_rooms_of(connection, wanting),
    )


def count_wanted(connection: Connection, wanted: Wanted) -> int:
    """Count these events, including those that were requested before."""
    by_room = select(events.c.room_key, func.count().label("number")).where(*_conditions(wanted, after=0))
    rows = connection.execute(by_room.group_by(events.c.room_key))
    return sum(row.number for row in rows if _is_in(row.room_key, wanted.room_keys))


def request_some(connection: Connection, wanted: Wanted, after: int, now: datetime) -> Progress:
    """Request the next few thousand events after the key `after`; 0 is the beginning."""
    _lock_endpoint(connection, wanted.endpoint_key)
    some = (
        select(events.c.id, events.c.room_key)
        .where(*_conditions(wanted, after=after), ~_is_owed(wanted.endpoint_key))
        .order_by(events.c.id)
        .limit(EVENTS_AT_ONCE)
    )
    found = connection.execute(some).all()
    keys = [row.id for row in found if _is_in(row.room_key, wanted.room_keys)]
    added = _add(connection, wanted.endpoint_key, keys, now)
    return Progress(added=added, after=found[-1].id if len(found) == EVENTS_AT_ONCE else None)


def _lock_endpoint(connection: Connection, endpoint_key: int) -> None:
    """Serialize requests for an endpoint, so that none is made twice."""
    connection.execute(select(endpoints.c.id).where(endpoints.c.id == endpoint_key).with_for_update(key_share=True))


def _rooms_of(connection: Connection, wanting: Subscription) -> frozenset[int] | None:
    if "*" in wanting.rooms:
        return None
    found = connection.execute(select(rooms.c.id, rooms.c.upstream_id))
    return frozenset(row.id for row in found if wanting.wants_room(row.upstream_id))


def _is_in(room_key: int, room_keys: Collection[int] | None) -> bool:
    return room_keys is None or room_key in room_keys


def _conditions(wanted: Wanted, *, after: int) -> list[ColumnElement[bool]]:
    within_range = wanted.range
    within = [events.c.id > after, events.c.id <= wanted.up_to, events.c.body.is_not(None)]
    if within_range.since is not None:
        within.append(events.c.recorded_at >= within_range.since)
    if within_range.until is not None:
        within.append(events.c.recorded_at < within_range.until)
    if wanted.types is not None:
        within += [events.c.type.in_(wanted.types), is_in_audience(events.c.audience, wanted.endpoint_key)]
    if within_range.only_failed:
        is_dead = and_(dead_letters.c.endpoint_key == wanted.endpoint_key, dead_letters.c.event_key == events.c.id)
        within.append(exists().where(is_dead))
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
        notify_due(connection)
    return len(event_keys)

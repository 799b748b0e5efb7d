"""Discovery: the list of a source's live rooms, from claim to record, and forgetting rooms that are no longer live.

One process at a time asks a source for its list, under the job "discover NAME". A room that is new on the list is
tracked; one that has left the list, or has another count, is polled at once. Locks are taken in the order of
`bridge.db.tables`: rooms, sources, jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, exists, func, literal_column, or_, select, update

from bridge.db.arrays import one_of
from bridge.db.event_log import append_events, number_system_events
from bridge.db.jobs import (
    claim_job,
    finish_job,
    is_job_claimed,
    is_job_due,
    postpone_job,
    release_job,
    replace_jobs,
)
from bridge.db.tables import rooms, sessions
from bridge.db.visits import BATCH_SIZE, batched, bind
from bridge.events.types import matches
from bridge.polling.claim import END_PROBE, available_requests, spend_requests
from bridge.polling.plan import source_notices
from bridge.polling.rooms import discover_rooms, lock_rooms, sooner, stop_tracking
from bridge.polling.source_state import (
    LIST_JOB,
    list_job,
    load_sources,
    lock_source,
    poll_failed_rooms_now,
    source_health,
    write_source_health,
)
from bridge.rules.live_rooms import KnownRoom, ListChanges, LiveRooms, compare_lists
from bridge.rules.polling import Condition, failure_limit, update_source_health
from bridge.rules.presence import Failure, FailureKind
from bridge.rules.rate import Rate

FORGOTTEN_AT_ONCE: Final = 100
"""Rooms per transaction, so that nothing else waits for long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedList:
    """A claimed list; a probe finds out whether a paused source without rooms has recovered."""

    source: str
    token: str
    is_probe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedList:
    """Changes by a list; nothing was written if `fenced`."""

    fenced: bool = False
    new: Sequence[str] = ()
    due: int = 0


def configure_discovery(connection: Connection, names: Collection[str], now: datetime) -> None:
    """Make the lists of these sources due, and delete the jobs of all others."""
    replace_jobs(connection, LIST_JOB, [list_job(name) for name in names], now)


def claim_list(
    connection: Connection, source: str, *, requests_per_second: float, every: timedelta, now: datetime, token: str
) -> ClaimedList | None:
    """Claim the list of a source, if it is due and the request budget has room for it: room claims leave it one.

    While a source is not ok, its rooms are the probes; a list is one only if there is no room to poll.
    """
    job, rate = list_job(source), Rate(requests_per_second)
    if not is_job_due(connection, job, every=every, now=now):
        return None
    row = lock_source(connection, source)
    health = source_health(row)
    is_probe = health.condition is not Condition.OK
    available = available_requests(row, health, rate, now)
    if available <= 0 or (is_probe and _has_rooms(connection, source)):
        postpone_job(connection, job, now + every if is_probe else now)
        return None
    if not claim_job(connection, job, every=every, now=now, token=token):
        return None
    spend_requests(connection, row, rate, 1, now, token if is_probe else None)
    return ClaimedList(source=source, token=token, is_probe=is_probe)


def release_list(connection: Connection, claimed: ClaimedList) -> None:
    """Give back a list that was not requested: it is due as before."""
    if claimed.is_probe:
        connection.execute(END_PROBE, [{"key": claimed.source, "token": claimed.token}])
    release_job(connection, list_job(claimed.source), token=claimed.token)


def record_list(
    connection: Connection,
    claimed: ClaimedList,
    found: LiveRooms | Failure,
    *,
    globs: Sequence[str],
    every: timedelta,
    now: datetime,
    jitter: float,
    new_id: Callable[[str], str],
) -> RecordedList:
    """Record a list, or the failure to get it.

    Args:
        connection: of a writing transaction.
        claimed: the claim under which it was asked for.
        found: the response.
        globs: of the ids of rooms to track.
        every: the time to the next list.
        now: the time of the response.
        jitter: uniform in [0, 1).
        new_id: makes a public id with a prefix.
    """
    source, job = claimed.source, list_job(claimed.source)
    if not is_job_claimed(connection, job, token=claimed.token):
        return RecordedList(fenced=True)
    changes = ListChanges(new=(), listed={}, unlisted=())
    if isinstance(found, LiveRooms):
        known = _known_rooms(connection, source, found.peer_counts)
        changes = compare_lists(found, known, is_wanted=lambda room_id: matches(room_id, globs))
        new = {name: found.peer_counts[name] for name in changes.new}
        forgotten = [room.key for room in known if room.room_id in new]
        _write_changes(
            connection, changes, lock_rooms(connection, [*changes.listed, *changes.unlisted, *forgotten]), now
        )
        discover_rooms(connection, source, new, now)
    _update_health(connection, claimed, found if isinstance(found, Failure) else None, now, jitter, new_id)
    finish_job(connection, job, token=claimed.token, next_run_at=now + every)
    return RecordedList(new=changes.new, due=len(changes.listed) + len(changes.unlisted))


def forget_rooms(
    connection: Connection,
    source: str,
    *,
    is_listed: bool,
    before: datetime,
    now: datetime,
    new_id: Callable[[str], str],
) -> list[str]:
    """Stop tracking some discovered rooms that were last live before a time; returns their ids. Their log stays.

    `is_listed`: the source has discovery, so that a room on its list is live.
    """
    last_seen = func.coalesce(rooms.c.live_until, rooms.c.tracked_since)
    idle = select(rooms.c.id, rooms.c.upstream_id).where(
        rooms.c.source == source,
        rooms.c.origin == "discovered",
        rooms.c.tracked,
        rooms.c.session_key.is_(None),
        rooms.c.claim_token.is_(None),  # a poll under way may find a peer
        or_(last_seen.is_(None), last_seen < before),
        ~exists().where(sessions.c.room_key == rooms.c.id, sessions.c.ended_at >= before),
    )
    if is_listed:
        idle = idle.where(~rooms.c.listed)
    rows = connection.execute(idle.order_by(rooms.c.id).limit(FORGOTTEN_AT_ONCE).with_for_update(of=rooms)).all()
    for row in rows:
        stop_tracking(connection, row.id, now, new_id, tracked=False)
    return [row.upstream_id for row in rows]


def _known_rooms(connection: Connection, source: str, named: Collection[str]) -> list[KnownRoom]:
    """The rooms on the list, and those on the last one."""
    found = {
        row.key: row
        for some in batched(named, BATCH_SIZE)
        for row in connection.execute(_NAMED, {"source": source, "names": some})
    }
    found |= {row.key: row for row in connection.execute(_LISTED_BEFORE, {"source": source})}
    return [KnownRoom(**row._asdict()) for row in found.values()]


def _write_changes(connection: Connection, changes: ListChanges, locked: Iterable[Row[Any]], now: datetime) -> None:
    listed, unlisted, absent = [], [], frozenset(changes.unlisted)
    for row in locked:
        due_at = None if row.next_poll_at is None else sooner(row, now)
        if row.id in changes.listed:
            listed.append({"key": row.id, "next_poll_at": due_at, "listed_count": changes.listed[row.id]})
        elif row.id in absent:
            unlisted.append({"key": row.id, "next_poll_at": due_at, "live_until": now})
    for statement, values in ((_LIST, listed), (_UNLIST, unlisted)):
        if values:
            connection.execute(statement, values)


def _update_health(
    connection: Connection,
    claimed: ClaimedList,
    failure: Failure | None,
    now: datetime,
    jitter: float,
    new_id: Callable[[str], str],
) -> None:
    """A list does not count for a source with rooms that can be polled, except for a rate limit."""
    source = claimed.source
    stored = load_sources(connection, [source], failing=[source])[source]
    before = stored.health
    if failure is None:
        counts = stored.room_count == 0
    else:
        counts = not stored.has_healthy_room or failure.kind is FailureKind.RATE_LIMITED
    if claimed.is_probe or counts:
        after = update_source_health(
            before,
            failure,
            is_probe=claimed.is_probe,
            limit=failure_limit(stored.room_count),
            now=now,
            jitter=jitter,
        )
        if after != before:
            write_source_health(connection, {source: after})
        if after.condition is Condition.OK and before.condition is not Condition.OK:
            poll_failed_rooms_now(connection, [source], now)
        notices = source_notices(source, before, after, failure, now)
        append_events(connection, number_system_events(connection, notices, now, new_id))
    if claimed.is_probe:
        connection.execute(END_PROBE, [{"key": source, "token": claimed.token}])


def _has_rooms(connection: Connection, source: str) -> bool:
    polled = select(rooms.c.id).where(rooms.c.source == source, rooms.c.next_poll_at.is_not(None)).limit(1)
    return connection.execute(polled).first() is not None


_KNOWN = select(
    rooms.c.id.label("key"), rooms.c.upstream_id.label("room_id"), rooms.c.tracked, rooms.c.listed, rooms.c.listed_count
).where(rooms.c.source == bindparam("source"))
_NAMED = _KNOWN.where(one_of(rooms.c.upstream_id, "names"))
_LISTED_BEFORE = _KNOWN.where(literal_column("listed"))  # as in `ix_rooms_listed`
_CHANGE = update(rooms).where(rooms.c.id == bindparam("key"))
_LIST = _CHANGE.values(bind("next_poll_at", "listed_count")).values(listed=True)
_UNLIST = _CHANGE.values(bind("next_poll_at", "live_until")).values(listed=False, listed_count=None)

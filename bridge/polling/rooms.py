"""Tracked rooms: which there are, whose they are, and what happens when one is no longer watched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Row, delete, insert, select, update

from bridge.db.event_log import append, assign_sequences, room_log, upsert
from bridge.db.tables import rooms, sources
from bridge.db.visits import AT_ONCE, VisitWrites, batched, load
from bridge.errors import NotFoundError
from bridge.events.bodies import draft
from bridge.rules.chain import GENESIS
from bridge.rules.presence import Change, end_tracking

log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.db")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSpec:
    """A room as somebody asked for it; None means "as `[polling]` says"."""

    source: str
    upstream_id: str
    name: str | None = None
    interval: timedelta | None = None
    leave_after_missed: int | None = None
    enabled: bool = True


def reconcile_sources(connection: Connection, names: Iterable[str]) -> None:
    """Make sure that every configured source has a row to keep its health in."""
    rows = [{"name": name} for name in names]
    if rows:
        connection.execute(upsert(connection)(sources).on_conflict_do_nothing(), rows)


def forget_sources(connection: Connection, named: Collection[str]) -> None:
    """A source that is not configured any more is in no trouble either."""
    connection.execute(delete(sources).where(sources.c.name.not_in(named)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomChange:
    """What the file says of a room that is known; no spec: it does not name it any more."""

    row: Row[Any]
    spec: RoomSpec | None


def lock_changing_rooms(connection: Connection, specs: Sequence[RoomSpec]) -> list[RoomChange]:
    """Find the rooms that the file changes, and lock them by key, as T2 does, before anything else is locked."""
    named = {(spec.source, spec.upstream_id): spec for spec in specs}
    known = select(rooms).where(rooms.c.source.is_not(None)).order_by(rooms.c.id)
    keys = [change.row.id for change in _changes(connection.execute(known), named)]
    return [
        change
        for some in batched(keys, AT_ONCE)  # read anew: somebody may have changed them while we waited for the lock
        for change in _changes(connection.execute(known.where(rooms.c.id.in_(some)).with_for_update()), named)
    ]


def _changes(rows: Iterable[Row[Any]], named: Mapping[tuple[str, str], RoomSpec]) -> Iterator[RoomChange]:
    for row in rows:
        change = RoomChange(row=row, spec=named.get((row.source, row.upstream_id)))
        if _is_changed(change):
            yield change


def _is_changed(change: RoomChange) -> bool:
    if change.spec is None:
        return bool(change.row.origin == "config" and change.row.tracked)
    return _differs(change.row, change.spec)


def reconcile_rooms(
    connection: Connection,
    specs: Sequence[RoomSpec],
    changes: Sequence[RoomChange],
    now: datetime,
    new_id: Callable[[str], str],
) -> None:
    """Make the configuration's rooms what the file says; rooms made by API or CLI are not touched.

    A room that the file names becomes the file's, whoever added it first.
    """
    stored = {(row.source, row.upstream_id) for row in connection.execute(select(rooms.c.source, rooms.c.upstream_id))}
    named = {(spec.source, spec.upstream_id): spec for spec in specs}
    fresh = [_room_values(spec, "config", now) for place, spec in named.items() if place not in stored]
    if fresh:
        connection.execute(insert(rooms), fresh)
    for change in changes:
        if change.spec is None:
            stop_tracking(connection, change.row.id, now, new_id, tracked=False)
        else:
            if change.row.tracked and change.row.origin == "manual":
                log.info("configuration.adopted", room=change.row.upstream_id, source=change.row.source)
            _change(connection, change.row, change.spec, "config", now, new_id)


def add_room(connection: Connection, spec: RoomSpec, now: datetime, new_id: Callable[[str], str]) -> bool:
    """Track a room; answers whether it was new. A room that the configuration owns stays as the file has it."""
    row = _hold(connection, spec.source, spec.upstream_id)
    reconcile_sources(connection, [spec.source])
    if row is None:
        connection.execute(insert(rooms).values(_room_values(spec, "manual", now)))
        return True
    if row.tracked and row.origin == "config":
        return False
    _change(connection, row, spec, "manual", now, new_id)
    return not row.tracked


def remove_room(
    connection: Connection, upstream_id: str, source: str | None, now: datetime, new_id: Callable[[str], str]
) -> tuple[Change, ...]:
    """Stop tracking a room; its log stays, and its open visits end as `unwatched`.

    Raises:
        NotFoundError: no such room is tracked, or several sources have one of that id.
    """
    row = find_room(connection, upstream_id, source)
    return stop_tracking(connection, row.id, now, new_id, tracked=False)


def apply_shorter_intervals(connection: Connection, default: timedelta, now: datetime) -> None:
    """Let no room wait longer than its interval, which may have become shorter; `default` is that of `[polling]`.

    One that fails is left alone: it waits by its back-off, or for as long as the upstream has asked for.
    """
    intervals = select(rooms.c.interval_seconds).where(rooms.c.next_poll_at.is_not(None)).distinct()
    for seconds in connection.execute(intervals).scalars().all():
        due_at = now + (default if seconds is None else timedelta(seconds=seconds))
        waiting = (
            rooms.c.interval_seconds.is_not_distinct_from(seconds),
            rooms.c.claim_token.is_(None),
            rooms.c.failures == 0,
        )
        connection.execute(update(rooms).where(*waiting, rooms.c.next_poll_at > due_at).values(next_poll_at=due_at))


def find_room(connection: Connection, upstream_id: str, source: str | None = None) -> Row[Any]:
    """The tracked room of that id.

    Raises:
        NotFoundError: there is none, or several sources have one of that id.
    """
    found = select(rooms).where(rooms.c.upstream_id == upstream_id, rooms.c.tracked)
    if source is not None:
        found = found.where(rooms.c.source == source)
    rows = connection.execute(found).all()
    if not rows:
        raise NotFoundError(
            f"room {upstream_id!r} is not tracked: see `bridge rooms list`, or add it with `bridge rooms add`"
        )
    if len(rows) > 1:
        names = ", ".join(sorted(row.source for row in rows))
        raise NotFoundError(f"room {upstream_id!r} is tracked in several sources ({names}): say which with --source")
    return rows[0]


def stop_tracking(
    connection: Connection, room_key: int, now: datetime, new_id: Callable[[str], str], *, tracked: bool
) -> tuple[Change, ...]:
    """End what is under way in a room that will not be polled any more, and tell it (`leave_reason: unwatched`)."""
    row = connection.execute(select(rooms).where(rooms.c.id == room_key).with_for_update()).one()
    before = load(connection, [row])[row.id]
    difference = end_tracking(before, now)
    writes = VisitWrites()
    writes.gather(connection, row, before, difference, complete=True)
    writes.write(connection)
    log, entries = assign_sequences(room_log(row), [draft(change, now) for change in difference.changes], new_id)
    append(connection, entries, now)
    connection.execute(
        update(rooms)
        .where(rooms.c.id == room_key)
        .values(
            tracked=tracked,
            enabled=False,
            tracked_since=None,
            next_poll_at=None,
            claim_token=None,
            complete_at=None,
            failures=0,
            last_failure=None,
            fingerprint=None,
            session_key=None,
            last_sequence=log.last_sequence,
            chain_head=log.chain_head,
        )
    )
    return difference.changes


def _hold(connection: Connection, source: str, upstream_id: str) -> Row[Any] | None:
    found = select(rooms).where(rooms.c.source == source, rooms.c.upstream_id == upstream_id)
    return connection.execute(found.with_for_update()).one_or_none()


def _room_values(spec: RoomSpec, origin: str, now: datetime) -> dict[str, Any]:
    return {
        "source": spec.source,
        "upstream_id": spec.upstream_id,
        "chain_head": GENESIS,
        "added_at": now,
        **_spec_values(spec, origin),
        **(_begin_tracking(now) if spec.enabled else {"tracked_since": None, "next_poll_at": None}),
    }


def _begin_tracking(now: datetime) -> dict[str, Any]:
    return {"tracked_since": now, "next_poll_at": now}


def _spec_values(spec: RoomSpec, origin: str) -> dict[str, Any]:
    return {
        "name": spec.name,
        "origin": origin,
        "interval_seconds": None if spec.interval is None else spec.interval.total_seconds(),
        "leave_after_missed": spec.leave_after_missed,
        "enabled": spec.enabled,
        "tracked": True,
    }


def _differs(row: Row[Any], spec: RoomSpec) -> bool:
    return any(getattr(row, name) != value for name, value in _spec_values(spec, "config").items())


def _change(
    connection: Connection, row: Row[Any], spec: RoomSpec, origin: str, now: datetime, new_id: Callable[[str], str]
) -> None:
    if row.enabled and not spec.enabled:
        stop_tracking(connection, row.id, now, new_id, tracked=True)
    values = _spec_values(spec, origin)
    if spec.enabled and not row.enabled:
        values |= _begin_tracking(now)
    connection.execute(update(rooms).where(rooms.c.id == row.id).values(**values))

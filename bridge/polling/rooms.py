"""Tracked rooms: adding, changing and removing them, by configuration, by an operator or by discovery."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, delete, insert, not_, select, update

from bridge.db.arrays import one_of
from bridge.db.engine import upsert
from bridge.db.event_log import append_events, room_log
from bridge.db.notifications import notify_due
from bridge.db.tables import rooms, sources
from bridge.db.visits import BATCH_SIZE, PresenceWrites, batched, load_presence
from bridge.errors import AmbiguousError, NotFoundError
from bridge.events.bodies import draft
from bridge.events.log import number_events
from bridge.logs import get_logger
from bridge.polling.plan import PollingSettings
from bridge.rules.chain import GENESIS
from bridge.rules.live_rooms import poll_interval
from bridge.rules.pokes import Expected
from bridge.rules.polling import extra_poll
from bridge.rules.presence import Change, end_tracking

log = get_logger("bridge.db")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSpec:
    """Settings of a room; None means the value of `[polling]`."""

    source: str
    upstream_id: str
    name: str | None = None
    interval: timedelta | None = None
    leave_after_missed: int | None = None
    enabled: bool = True


def ensure_sources(connection: Connection, names: Iterable[str]) -> None:
    """Insert a row for each configured source that has none."""
    rows = [{"name": name} for name in names]
    if rows:
        connection.execute(upsert(connection.dialect.name)(sources).on_conflict_do_nothing(), rows)


def remove_other_sources(connection: Connection, configured: Collection[str]) -> None:
    """Delete the health of sources that are no longer configured."""
    connection.execute(delete(sources).where(sources.c.name.not_in(configured)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomChange:
    """A stored room that the configuration changes; without a spec, the configuration no longer names it."""

    row: Row[Any]
    spec: RoomSpec | None


def lock_changing_rooms(
    connection: Connection, specs: Sequence[RoomSpec], configured: Collection[str]
) -> tuple[list[RoomSpec], list[RoomChange]]:
    """Find the rooms that the configuration adds, and lock those that it changes, before anything else, as T2 does.

    Discovered rooms are removed with their source, if that is not `configured` any more. Another
    process may add one of the first meanwhile, by discovery: that makes the transaction fail, and run again.
    """
    named = {(spec.source, spec.upstream_id): spec for spec in specs}
    known: Select[Any] = select(*_CONFIGURED).where(rooms.c.source.is_not(None)).order_by(rooms.c.id)
    added, keys = dict(named), list[int]()
    for row in connection.execute(known):  # there may be very many, of which few change
        added.pop((row.source, row.upstream_id), None)
        keys += [change.row.id for change in _changes([row], named, configured)]
    changes = [
        change
        for some in batched(keys, BATCH_SIZE)  # read again: they may have changed while we waited for the lock
        for change in _changes(
            connection.execute(known.where(rooms.c.id.in_(some)).with_for_update()), named, configured
        )
    ]
    return list(added.values()), changes


def _changes(
    rows: Iterable[Row[Any]], named: Mapping[tuple[str, str], RoomSpec], configured: Collection[str]
) -> Iterator[RoomChange]:
    for row in rows:
        spec = named.get((row.source, row.upstream_id))
        if _is_dropped(row, configured) if spec is None else _differs(row, spec):
            yield RoomChange(row=row, spec=spec)


def _is_dropped(row: Row[Any], configured: Collection[str]) -> bool:
    is_lost = row.origin == "discovered" and row.source not in configured
    return bool(row.tracked and (row.origin == "config" or is_lost))


def configure_rooms(
    connection: Connection,
    added: Sequence[RoomSpec],
    changes: Sequence[RoomChange],
    now: datetime,
    new_id: Callable[[str], str],
) -> None:
    """Store the rooms of the configuration; rooms added by hand stay as they are.

    A room that the file names belongs to the file from then on, even if it was added by hand.
    """
    for some in batched(added, BATCH_SIZE):  # the values of all of them at once would take as much memory as the rest
        connection.execute(insert(rooms), [_room_values(spec, "config", now) for spec in some])
    for change in changes:
        if change.spec is None:
            stop_tracking(connection, change.row.id, now, new_id, tracked=False)
        else:
            if change.row.tracked and change.row.origin != "config":
                log.info("configuration.adopted", room=change.row.upstream_id, source=change.row.source)
            _change(connection, change.row, change.spec, "config", now, new_id)


def discover_rooms(connection: Connection, source: str, counts: Mapping[str, int | None], now: datetime) -> int:
    """Track rooms that are live, with their numbers of peers; those that are tracked already stay as they are.

    Returns the number of rooms that were not tracked before.
    """
    ensure_sources(connection, [source])
    notify_due(connection)
    found = select(rooms.c.id, rooms.c.upstream_id).where(rooms.c.source == source)
    stored: dict[str, int] = {
        row.upstream_id: row.id
        for some in batched(counts, BATCH_SIZE)
        for row in connection.execute(found.where(rooms.c.upstream_id.in_(some)))
    }
    new = [
        _room_values(RoomSpec(source=source, upstream_id=room_id), "discovered", now)
        | {"listed": True, "listed_count": counts[room_id]}
        for room_id in sorted(counts.keys() - stored.keys())  # in one order, as rows are locked
    ]
    forgotten = [
        {"key": row.id, "count": counts[row.upstream_id], "now": now}
        for row in lock_rooms(connection, stored.values())
        if not row.tracked
    ]
    if new:  # a room that another process adds at the same time is updated by the next list
        connection.execute(upsert(connection.dialect.name)(rooms).on_conflict_do_nothing(), new)
    if forgotten:
        connection.execute(_TRACK_AGAIN, forgotten)
    return len(new) + len(forgotten)


def lock_rooms(connection: Connection, keys: Iterable[int]) -> list[Row[Any]]:
    """Lock rooms, in the order of their keys; returns the columns on which a change by discovery depends."""
    return [
        row for some in batched(sorted(keys), BATCH_SIZE) for row in connection.execute(_LOCK_ROOMS, {"keys": some})
    ]


def add_room(connection: Connection, spec: RoomSpec, now: datetime, new_id: Callable[[str], str]) -> bool:
    """Track a room; returns whether it was not tracked before. A room of the configuration stays as the file has it."""
    row = _lock_room(connection, spec.source, spec.upstream_id)
    ensure_sources(connection, [spec.source])
    notify_due(connection)
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


def apply_shorter_intervals(connection: Connection, settings: PollingSettings, now: datetime) -> None:
    """Let no healthy room wait longer than its interval, which may have become shorter.

    Rooms that fail keep their back-off.
    """
    intervals = select(rooms.c.interval_seconds).where(rooms.c.next_poll_at.is_not(None)).distinct()
    is_idle = _is_idle(settings)
    for seconds in connection.execute(intervals).scalars().all():
        interval = settings.interval if seconds is None else timedelta(seconds=seconds)
        waiting = (rooms.c.interval_seconds.is_not_distinct_from(seconds), rooms.c.failures == 0)
        for is_live, condition in ((True, not_(is_idle)), (False, is_idle)):
            due_at = now + poll_interval(interval, settings.idle_interval, is_live=is_live)
            late = update(rooms).where(*waiting, condition, rooms.c.next_poll_at > due_at)
            connection.execute(late.values(next_poll_at=due_at))


def _is_idle(settings: PollingSettings) -> ColumnElement[bool]:
    """As `bridge.polling.plan` decides it for the room that it polls."""
    return and_(
        rooms.c.source.in_(settings.discovering),
        not_(rooms.c.listed),
        rooms.c.session_key.is_(None),
        rooms.c.complete_at.is_not(None),
    )


def is_polled(connection: Connection, source: str, upstream_id: str) -> bool:
    """Whether a room is tracked and enabled."""
    return connection.execute(select(rooms.c.id).where(*_polled(source, upstream_id))).one_or_none() is not None


def make_due(
    connection: Connection, source: str, upstream_id: str, now: datetime, expected: Expected | None = None
) -> None:
    """Let a room be polled at once; if a poll of it is under way, once more after that.

    Args:
        connection: of a writing transaction.
        source: its source.
        upstream_id: its id.
        now: the time.
        expected: what the poll should find, if the poke is true.
    """
    found: Select[Any] = select(*_DUE_COLUMNS).where(*_polled(source, upstream_id)).with_for_update()
    row = connection.execute(found).one_or_none()
    if row is not None:
        values: dict[str, Any] = {"next_poll_at": sooner(row, now)}
        if expected is not None:
            values["expected"] = str(expected)
        connection.execute(update(rooms).where(rooms.c.id == row.id).values(**values))
        notify_due(connection)


def sooner(row: Row[Any], now: datetime) -> datetime:
    """When a locked room is due, after a list or a poke has named it."""
    is_under_way = row.claim_token is not None
    due_at = extra_poll(now, row.polled_at, is_under_way=is_under_way)
    # With a poll under way, the stored time is that poll's, not that of the next one.
    return due_at if is_under_way else min(due_at, row.next_poll_at)


def _polled(source: str, upstream_id: str) -> tuple[ColumnElement[bool], ...]:
    return rooms.c.source == source, rooms.c.upstream_id == upstream_id, rooms.c.next_poll_at.is_not(None)


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
            f"room {upstream_id!r} is not tracked", "see `bridge rooms list`, or add it with `bridge rooms add`"
        )
    if len(rows) > 1:
        names = ", ".join(sorted(row.source for row in rows))
        raise AmbiguousError(f"room {upstream_id!r} is tracked in several sources ({names})", "name one with --source")
    return rows[0]


def stop_tracking(
    connection: Connection, room_key: int, now: datetime, new_id: Callable[[str], str], *, tracked: bool
) -> tuple[Change, ...]:
    """End the visits and the session of a room that will not be polled any more (`leave_reason: unwatched`)."""
    row = connection.execute(select(rooms).where(rooms.c.id == room_key).with_for_update()).one()
    before = load_presence(connection, [row])[row.id]
    difference = end_tracking(before, now)
    writes = PresenceWrites()
    writes.add(row.id, before, difference, complete=True)
    writes.write(connection)
    log, events = number_events(room_log(row), [draft(change, now) for change in difference.changes], now, new_id)
    append_events(connection, events)
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
            expected=None,
            listed=False,
            listed_count=None,
            live_until=None,
            session_key=None,
            last_sequence=log.last_sequence,
            chain_head=log.chain_head,
        )
    )
    return difference.changes


_CONFIGURED = (
    *(rooms.c.id, rooms.c.source, rooms.c.upstream_id, rooms.c.name, rooms.c.origin),
    *(rooms.c.interval_seconds, rooms.c.leave_after_missed, rooms.c.enabled, rooms.c.tracked),
)
"""The columns on which a change by the configuration depends: a start reads them of every room."""


_DUE_COLUMNS = (rooms.c.id, rooms.c.claim_token, rooms.c.polled_at, rooms.c.next_poll_at)
_LOCK_ROOMS: Select[Any] = (
    select(*_DUE_COLUMNS, rooms.c.upstream_id, rooms.c.tracked)
    .where(one_of(rooms.c.id, "keys"))
    .order_by(rooms.c.id)
    .with_for_update()
)


def _lock_room(connection: Connection, source: str, upstream_id: str) -> Row[Any] | None:
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


_TRACK_AGAIN = (
    update(rooms)
    .where(rooms.c.id == bindparam("key"))
    .values(
        **_spec_values(RoomSpec(source="", upstream_id=""), "discovered"),
        tracked_since=bindparam("now"),
        next_poll_at=bindparam("now"),
        listed=True,
        listed_count=bindparam("count"),
    )
)

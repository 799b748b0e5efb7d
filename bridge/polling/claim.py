"""T1: claims the rooms that are due. The statement is `_CLAIM_DUE`, which finds, locks and marks them.

A claim sets the room's token, which names the process (`bridge.db.liveness`): a crashed process's rooms are due again
once it counts as dead. The row of the source is locked only where it is changed, to spend its request budget exactly
over any number of pollers, or to take the one probe of a source that is not ok.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, case, func, not_, or_, select, update

from bridge.db.engine import latest
from bridge.db.tables import jobs, rooms, sources
from bridge.errors import BusyError, ConflictError
from bridge.polling.plan import ClaimedRoom
from bridge.polling.rooms import find_room
from bridge.polling.source_state import list_job, lock_source, read_source, source_health
from bridge.rules.polling import Condition, SourceHealth
from bridge.rules.rate import Rate


def claim_rooms(
    connection: Connection,
    source: str,
    *,
    requests_per_second: float,
    limit: int,
    now: datetime,
    token: str,
    live_first: bool = False,
) -> list[ClaimedRoom]:
    """Claim up to `limit` due rooms of a source, within its request budget; the longest due first.

    Of a source that is not ok only one room is claimed, as a probe: the one that failed least. With `live_first`, rooms
    that are occupied or on the list of live rooms come before all others, and a list that is due before all rooms.
    """
    rate = Rate(requests_per_second)
    row = None if rate.per_second > 0 else read_source(connection, source)
    if row is None or source_health(row).condition is not Condition.OK:
        row = lock_source(connection, source)
    health = source_health(row)
    is_probe = health.condition is not Condition.OK
    available = available_requests(row, health, rate, now)
    if live_first and not is_probe and _is_list_due(connection, source, now):
        available -= 1
    limit = min(limit, available)
    if limit <= 0:
        return []
    wanted = {"of_source": source, "now": now, "limit": limit, "token": token}
    claim = _CLAIM_DUE_TO_PROBE if is_probe else _CLAIM_LIVE_DUE_FIRST if live_first else _CLAIM_DUE
    claimed = connection.execute(claim, wanted).all()
    if not claimed:
        return []
    due = sorted(claimed, key=lambda room: (room.next_poll_at, room.id))
    spend_requests(connection, row, rate, len(due), now, token if is_probe else None)
    return [
        ClaimedRoom(
            key=room.id,
            source=source,
            upstream_id=room.upstream_id,
            due_at=room.next_poll_at,
            token=token,
            is_probe=is_probe,
        )
        for room in due
    ]


def claim_room(
    connection: Connection, room_id: str, source: str, *, requests_per_second: float, now: datetime, token: str
) -> ClaimedRoom | None:
    """Claim one room, due or not, for a poll that an operator asked for; None while another poll of it is under way.

    Raises:
        NotFoundError: the room is not tracked.
        ConflictError: the room is disabled.
        BusyError: the source has a rate limit to wait for.
    """
    found = find_room(connection, room_id, source)
    # Rooms are locked before sources, as in T2: the other order would deadlock.
    room = connection.execute(select(rooms).where(rooms.c.id == found.id).with_for_update()).one()
    if room.next_poll_at is None:
        raise ConflictError(f"room {room_id!r} is disabled: enable it first, or poll it with --dry-run")
    row, rate = lock_source(connection, source), Rate(requests_per_second)
    health = source_health(row)
    _refuse_while_limited(source, health, now)
    if room.claim_token is not None:
        return None
    connection.execute(_CLAIM, {"key": room.id, "token": token})
    is_probe = health.condition is not Condition.OK
    spend_requests(connection, row, rate, 1, now, token if is_probe else None)
    return ClaimedRoom(
        key=room.id, source=source, upstream_id=room_id, due_at=room.next_poll_at, token=token, is_probe=is_probe
    )


def release_rooms(connection: Connection, claimed: Sequence[ClaimedRoom]) -> None:
    """Give back rooms that were not polled: they are due as before."""
    if claimed:
        connection.execute(_RELEASE, [{"key": room.key, "token": room.token} for room in claimed])
    probes = [{"key": room.source, "token": room.token} for room in claimed if room.is_probe]
    if probes:
        connection.execute(END_PROBE, probes)


def available_requests(row: Row[Any], health: SourceHealth, rate: Rate, now: datetime) -> int:
    """The requests that may be sent now to a source of this row."""
    if health.is_paused(now):
        return 0
    available = rate.available(row.next_request_at, now)
    if health.condition is Condition.OK:
        return available
    return 0 if row.claim_token is not None else min(available, 1)


def _is_list_due(connection: Connection, source: str, now: datetime) -> bool:
    return connection.execute(_LIST_DUE, {"job": list_job(source), "now": now}).first() is not None


def spend_requests(
    connection: Connection, row: Row[Any], rate: Rate, count: int, now: datetime, probe_token: str | None
) -> None:
    """Take requests out of the budget; no other room of the source is claimed until a probe has been recorded."""
    values: dict[str, Any] = {}
    if rate.per_second > 0:
        values["next_request_at"] = rate.after(count, row.next_request_at, now)
    if probe_token is not None:
        values["claim_token"] = probe_token
    if values:
        connection.execute(update(sources).where(sources.c.name == row.name).values(**values))


def _refuse_while_limited(source: str, health: SourceHealth, now: datetime) -> None:
    if health.condition is Condition.RATE_LIMITED and health.is_paused(now) and health.paused_until is not None:
        seconds = (health.paused_until - now).total_seconds()
        message = f"source {source!r} is rate-limited by the upstream: try again in {seconds:.0f} s"
        raise BusyError(message, seconds)


_IS_DUE = and_(rooms.c.next_poll_at <= bindparam("now"), rooms.c.claim_token.is_(None))
_OF_SOURCE = (
    select(rooms.c.id)
    .where(rooms.c.source == bindparam("of_source"), _IS_DUE)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_NEXT_DUE = (
    select(func.min(rooms.c.next_poll_at))
    .where(rooms.c.source == sources.c.name, rooms.c.next_poll_at <= bindparam("until"), rooms.c.claim_token.is_(None))
    .scalar_subquery()
)
_BY_SOURCE = (
    select(
        sources.c.name,
        sources.c.paused_until,
        case((sources.c.next_request_at <= bindparam("latest"), sources.c.next_request_at)).label("next_request_at"),
        _NEXT_DUE.label("due_at"),
    )
    .where(sources.c.claim_token.is_(None))
    .cte("next_polls")
    .prefix_with("MATERIALIZED")  # else PostgreSQL looks for the room once for each time that it is compared
)
NEXT_POLLS = (_BY_SOURCE.c.name, latest(_BY_SOURCE.c.due_at, _BY_SOURCE.c.paused_until, _BY_SOURCE.c.next_request_at))
"""When the next room of each source can be claimed; null if none is due `:until` then. No row while
a probe is under way.

Request times after `:latest` are those of another clock (`rules.rate`).
"""
_SET_TOKEN = update(rooms).values(claim_token=bindparam("token"))
_LIST_DUE = select(jobs.c.name).where(
    jobs.c.name == bindparam("job"), jobs.c.next_run_at <= bindparam("now"), jobs.c.claim_token.is_(None)
)
_CLAIM = _SET_TOKEN.where(rooms.c.id == bindparam("key"))
_IS_NOT_LIVE = not_(or_(rooms.c.listed, rooms.c.session_key.is_not(None)))
_CLAIM_DUE, _CLAIM_LIVE_DUE_FIRST, _CLAIM_DUE_TO_PROBE = (
    _SET_TOKEN.where(
        rooms.c.id.in_(select(_OF_SOURCE.order_by(*order).cte("due").prefix_with("MATERIALIZED").c.id))
    ).returning(rooms.c.id, rooms.c.upstream_id, rooms.c.next_poll_at)
    for order in (
        (rooms.c.next_poll_at, rooms.c.id),
        (_IS_NOT_LIVE, rooms.c.next_poll_at, rooms.c.id),
        (rooms.c.failures, rooms.c.next_poll_at, rooms.c.id),
    )
)
_RELEASE = (
    update(rooms)
    .where(rooms.c.id == bindparam("key"), rooms.c.claim_token == bindparam("token"))
    .values(claim_token=None)
)
END_PROBE = (
    update(sources)
    .where(sources.c.name == bindparam("key"), sources.c.claim_token == bindparam("token"))
    .values(claim_token=None)
)
"""The source may be asked again."""

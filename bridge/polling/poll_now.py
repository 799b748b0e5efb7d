"""One poll that a person asked for: the same claim, fence and T2 as the poller's, for one room that need not be due.

Safe beside a running service: a room that somebody is asking about is not claimed until they are done, and if this
claim's lease should end first, `record_polls` finds the token gone and writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from bridge.db.tables import rooms
from bridge.db.visits import load
from bridge.errors import BridgeError, UsageError
from bridge.polling.record import ClaimedRoom
from bridge.polling.rooms import find_room
from bridge.polling.source_state import lock_source, spend
from bridge.rules.polling import Condition
from bridge.rules.presence import Presence


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRoom:
    """A room as the next poll finds it."""

    source: str
    leave_after_missed: int | None
    presence: Presence


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Somebody is asking about the room; their claim ends at the latest at `until`."""

    until: datetime


def stored_room(
    connection: Connection, room_id: str, source: str | None = None, *, seen: Collection[str] = ()
) -> StoredRoom:
    """Who is in a tracked room, as stored, ready to be compared with those who have been `seen`.

    Raises:
        NotFoundError: no such room is tracked, or several sources have one of that id.
    """
    row = find_room(connection, room_id, source)
    presence = load(connection, [row], seen)[row.id]
    return StoredRoom(source=row.source, leave_after_missed=row.leave_after_missed, presence=presence)


def claim_room(
    connection: Connection,
    room_id: str,
    source: str,
    *,
    requests_per_second: float,
    now: datetime,
    lease_until: datetime,
    token: str,
) -> ClaimedRoom | Busy:
    """Claim one room, due or not, and take the request out of its source's budget.

    While the source is in trouble, the poll is a probe: its response may lift the hold.

    Raises:
        NotFoundError: the room is not tracked.
        UsageError: the room is disabled.
        BridgeError: the source asked to be left alone for now.
    """
    found = find_room(connection, room_id, source)
    # The room before its source, as T2 does it: two that wait for each other would wait for ever.
    room = connection.execute(select(rooms).where(rooms.c.id == found.id).with_for_update()).one()
    if room.next_poll_at is None:
        raise UsageError(f"room {room_id!r} is disabled and not polled: enable it first, or read_health with --dry-run")
    account = lock_source(connection, source)
    _refuse_while_limited(account, now)
    if room.claim_token is not None and room.next_poll_at > now:
        return Busy(until=room.next_poll_at)
    connection.execute(update(rooms).where(rooms.c.id == room.id).values(next_poll_at=lease_until, claim_token=token))
    spend(connection, account, requests_per_second, 1, now=now, lease_until=lease_until)
    return ClaimedRoom(
        key=room.id,
        source=source,
        upstream_id=room_id,
        due_at=now,
        token=token,
        is_probe=account.condition != Condition.OK,
    )


def _refuse_while_limited(account: Row[Any], now: datetime) -> None:
    paused_until = account.paused_until
    if account.condition == Condition.RATE_LIMITED and paused_until is not None and paused_until > now:
        seconds = (paused_until - now).total_seconds()
        raise BridgeError(
            f"source {account.name!r} asked to be left alone (too many requests): try again in {seconds:.0f} s"
        )

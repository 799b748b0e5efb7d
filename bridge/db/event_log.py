"""The event log: appending events raises the cursor of every endpoint that wants one (`bridge.db.cursors`).

The row of the room is locked by the caller; sequences, hashes, events and raised cursors commit together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, and_, bindparam, insert, or_, select, update

from bridge.db.arrays import insert_many, types_of
from bridge.db.cursors import Offer, Raised, raise_cursors
from bridge.db.engine import SYSTEM_LOG_LOCK, advisory_lock, count_events, note_due
from bridge.db.tables import events, rooms
from bridge.events.bodies import Draft, RoomName
from bridge.events.log import NewEvent, RoomLog, number_events
from bridge.rules.chain import GENESIS


def room_log(row: Row[Any]) -> RoomLog:
    """The end of the log of a row of `rooms`."""
    return RoomLog(
        room_key=row.id,
        name=RoomName(source=row.source, room_id=row.upstream_id, room_name=row.name),
        last_sequence=row.last_sequence,
        chain_head=row.chain_head,
    )


def append_events(connection: Connection, new: Sequence[NewEvent], offer: Offer | None = None) -> Raised:
    """Store numbered events, in sequence order within each room, and raise cursors.

    Returns:
        Which cursors were raised, and which of them the sender that made the offer has taken over.
    """
    if not new:
        return Raised()
    count_events(connection, (event.type for event in new))
    if offer is None or not offer.known:
        _INSERT_EVENTS.execute(connection, [_event_values(event) for event in new])
        raised = raise_cursors(connection, new)
        if offer is None and raised.to_claim:
            note_due(connection)
        return raised
    inserted = _INSERT_EVENTS_RETURNING.execute(connection, [_event_values(event) for event in new])
    keys: dict[str, int] = {row.public_id: row.id for row in inserted}
    return raise_cursors(connection, new, offer, keys)


def append_system_events(
    connection: Connection, drafts: Iterable[Draft], now: datetime, new_id: Callable[[str], str]
) -> None:
    """Append to the bridge's own log: the room without an upstream."""
    append_events(connection, number_system_events(connection, drafts, now, new_id))


def number_system_events(
    connection: Connection, drafts: Iterable[Draft], now: datetime, new_id: Callable[[str], str]
) -> list[NewEvent]:
    """Number drafts in the bridge's own log, whose row stays locked; the events are still to be appended."""
    drafts = list(drafts)
    if not drafts:
        return []
    log, new = number_events(room_log(lock_system_log(connection, now)), drafts, now, new_id)
    write_log_ends(connection, [log])
    return new


def write_log_ends(connection: Connection, logs: Sequence[RoomLog]) -> None:
    """Store the new ends of the logs of locked rooms."""
    if logs:
        ends = [{"key": log.room_key, "sequence": log.last_sequence, "head": log.chain_head} for log in logs]
        connection.execute(_WRITE_LOG_END, ends)


def is_in_audience(audience: Column[int], endpoint_key: ColumnElement[int] | int) -> ColumnElement[bool]:
    """Whether an endpoint belongs to an event's audience: `bridge.events.subscription.includes` in SQL."""
    return or_(audience.is_(None), audience == endpoint_key, and_(audience < 0, audience != -endpoint_key))


def _event_values(event: NewEvent) -> dict[str, Any]:
    return {
        "public_id": event.public_id,
        "room_key": event.room_key,
        "sequence": event.sequence,
        "type": event.type,
        "recorded_at": event.recorded_at,
        "body": event.body,
        "salt": event.salt,
        "commitment": event.commitment,
        "hash": event.hash,
        "audience": event.audience,
        "visit_id": event.visit_id,
    }


def lock_system_log(connection: Connection, now: datetime) -> Row[Any]:
    """Lock the room of the bridge's own log, as every room before any cursor; it is inserted the first time."""
    row = connection.execute(_LOCK_SYSTEM_ROOM).one_or_none()
    if row is None:
        advisory_lock(connection, SYSTEM_LOG_LOCK)
        row = connection.execute(_LOCK_SYSTEM_ROOM).one_or_none()
    if row is None:
        connection.execute(
            insert(rooms).values(origin="system", enabled=False, tracked=False, added_at=now, chain_head=GENESIS)
        )
        row = connection.execute(_LOCK_SYSTEM_ROOM).one()
    return row


_INSERT_EVENTS = insert_many(
    events, lambda new: new, types_of(events, *(column.name for column in events.c if column.name != "id"))
)
_INSERT_EVENTS_RETURNING = _INSERT_EVENTS.returning(events.c.id, events.c.public_id)
_LOCK_SYSTEM_ROOM = select(rooms).where(rooms.c.source.is_(None)).order_by(rooms.c.id).limit(1).with_for_update()
_WRITE_LOG_END = (
    update(rooms)
    .where(rooms.c.id == bindparam("key"))
    .values(last_sequence=bindparam("sequence"), chain_head=bindparam("head"))
)

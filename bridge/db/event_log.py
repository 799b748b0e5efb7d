"""The event log and the cursors over it: appending events raises the cursor of every endpoint that wants one.

The row of the room is locked by the caller; sequences, hashes, events and raised cursors commit together. Subscriptions
are read in that same transaction, never from a cache that a new endpoint could miss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, and_, bindparam, case, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from bridge.db.engine import SYSTEM_LOG_LOCK, advisory_lock
from bridge.db.tables import cursors, endpoints, events, rooms
from bridge.events.bodies import Draft, RoomName
from bridge.events.log import NewEvent, RoomLog, number_events
from bridge.events.subscription import Subscription, subscription
from bridge.rules.chain import GENESIS


@dataclass(frozen=True, slots=True, kw_only=True)
class RaisedCursor:
    """A cursor whose `head` moves to the sequence `last`; one that owed nothing starts just before `first`."""

    endpoint_key: int
    room_key: int
    first: int
    last: int
    due_at: datetime


def room_log(row: Row[Any]) -> RoomLog:
    """The end of the log of a row of `rooms`."""
    return RoomLog(
        room_key=row.id,
        name=RoomName(source=row.source, room_id=row.upstream_id, room_name=row.name),
        last_sequence=row.last_sequence,
        chain_head=row.chain_head,
    )


def append_events(connection: Connection, new: Sequence[NewEvent]) -> None:
    """Store numbered events, in sequence order within each room, and raise cursors."""
    if not new:
        return
    connection.execute(_INSERT_EVENTS, [_event_values(event) for event in new])
    raised = cursors_to_raise(read_subscriptions(connection), new)
    if raised:
        connection.execute(_RAISE_CURSORS[connection.dialect.name], [_cursor_values(cursor) for cursor in raised])


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


def read_subscriptions(connection: Connection) -> list[Subscription]:
    """Every endpoint's subscription, by key."""
    return [subscription(row.id, row.events, row.rooms) for row in connection.execute(_SUBSCRIPTIONS)]


def cursors_to_raise(subscriptions: Iterable[Subscription], new: Sequence[NewEvent]) -> list[RaisedCursor]:
    """The cursors that new events raise, ordered by endpoint and room: the order in which they are locked."""
    raised: dict[tuple[int, int], RaisedCursor] = {}
    for wanting in subscriptions:
        for event in new:
            if wanting.wants(event.type, event.room_id, event.audience):
                known = raised.get((wanting.endpoint_key, event.room_key))
                raised[wanting.endpoint_key, event.room_key] = RaisedCursor(
                    endpoint_key=wanting.endpoint_key,
                    room_key=event.room_key,
                    first=event.sequence if known is None else known.first,
                    last=event.sequence,
                    due_at=event.recorded_at,
                )
    return [cursor for _, cursor in sorted(raised.items())]


def is_in_audience(audience: Column[int], endpoint_key: ColumnElement[int] | int) -> ColumnElement[bool]:
    """Whether an endpoint belongs to an event's audience: `bridge.events.subscription.includes` in SQL."""
    return or_(audience.is_(None), audience == endpoint_key, and_(audience < 0, audience != -endpoint_key))


def upsert(connection: Connection) -> Callable[..., Any]:
    """The INSERT with ON CONFLICT of this database."""
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


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
    }


def _cursor_values(cursor: RaisedCursor) -> dict[str, Any]:
    return {
        "endpoint_key": cursor.endpoint_key,
        "room_key": cursor.room_key,
        "acked": cursor.first - 1,
        "head": cursor.last,
        "next_attempt_at": cursor.due_at,
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


def _raise_cursors(insert_into: Callable[..., Any]) -> Any:  # noqa: ANN401 - the INSERT of a dialect
    statement = insert_into(cursors)
    owes_nothing = cursors.c.acked >= cursors.c.head
    return statement.on_conflict_do_update(
        index_elements=[cursors.c.endpoint_key, cursors.c.room_key],
        set_={
            "head": statement.excluded.head,
            # A cursor that owes nothing skips the unwanted events in between, and is due now. One that owes something
            # keeps its position, its claim and its back-off.
            "acked": case((owes_nothing, statement.excluded.acked), else_=cursors.c.acked),
            "next_attempt_at": case(
                (owes_nothing, statement.excluded.next_attempt_at), else_=cursors.c.next_attempt_at
            ),
        },
    )


_INSERT_EVENTS = insert(events)
_SUBSCRIPTIONS = select(endpoints.c.id, endpoints.c.events, endpoints.c.rooms).order_by(endpoints.c.id)
_RAISE_CURSORS = {"postgresql": _raise_cursors(postgresql.insert), "sqlite": _raise_cursors(sqlite.insert)}
_LOCK_SYSTEM_ROOM = select(rooms).where(rooms.c.source.is_(None)).order_by(rooms.c.id).limit(1).with_for_update()
_WRITE_LOG_END = (
    update(rooms)
    .where(rooms.c.id == bindparam("key"))
    .values(last_sequence=bindparam("sequence"), chain_head=bindparam("head"))
)

"""The log: events numbered 1, 2, 3 … per room without gaps, and the cursors that say who is owed them.

Whoever appends holds the room's row; the numbers, the chain, the events and every endpoint's raised cursor commit
together or not at all (DESIGN section 3). The endpoints are read here, in that same transaction, never from a cache
that an added endpoint could miss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, case, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from bridge.db.engine import advisory_lock
from bridge.db.tables import cursors, endpoints, events, rooms
from bridge.events.bodies import Draft, RoomName, encode
from bridge.events.types import matches
from bridge.rules.chain import GENESIS, link

BEGINNING_OWN_LOG = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomLog:
    """Where a room's log ends. The caller holds the room's row until it has written the new end back."""

    room_key: int
    name: RoomName
    last_sequence: int
    chain_head: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An event with its assign_sequences, ready to be stored."""

    room_key: int
    room_id: str | None
    public_id: str
    sequence: int
    type: str
    body: bytes
    hash: bytes


def room_log(row: Row[Any]) -> RoomLog:
    """The end of the log of a row of `rooms`."""
    return RoomLog(
        room_key=row.id,
        name=RoomName(source=row.source, room_id=row.upstream_id, room_name=row.name),
        last_sequence=row.last_sequence,
        chain_head=row.chain_head,
    )


def assign_sequences(
    log: RoomLog, drafts: Iterable[Draft], new_id: Callable[[str], str]
) -> tuple[RoomLog, list[Entry]]:
    """Give the drafts the next numbers of the room and chain them to what came before."""
    entries: list[Entry] = []
    for draft in drafts:
        event_id, sequence = new_id("evt"), log.last_sequence + 1
        body = encode(draft, log.name, event_id=event_id, sequence=sequence)
        log = replace(log, last_sequence=sequence, chain_head=link(log.chain_head, body))
        entries.append(
            Entry(
                room_key=log.room_key,
                room_id=log.name.room_id,
                public_id=event_id,
                sequence=sequence,
                type=draft.type.value,
                body=body,
                hash=log.chain_head,
            )
        )
    return log, entries


def append(
    connection: Connection, entries: Sequence[Entry], now: datetime, *, except_endpoint: int | None = None
) -> None:
    """Store numbered events and raise the cursors of every endpoint that wants one of them.

    Args:
        connection: Of the transaction that holds the rooms.
        entries: In sequence order within each room.
        now: When they are recorded, and when they are due.
        except_endpoint: The key of an endpoint that is told nothing of this.
    """
    if not entries:
        return
    connection.execute(
        _APPENDED,
        [
            {
                "public_id": entry.public_id,
                "room_key": entry.room_key,
                "sequence": entry.sequence,
                "type": entry.type,
                "recorded_at": now,
                "body": entry.body,
                "hash": entry.hash,
                "except_endpoint": except_endpoint,
            }
            for entry in entries
        ],
    )
    _raise_cursors(connection, entries, now, except_endpoint)


def append_system_events(
    connection: Connection,
    drafts: Iterable[Draft],
    now: datetime,
    new_id: Callable[[str], str],
    *,
    except_endpoint: int | None = None,
) -> None:
    """Append to the bridge's own log: the room without an upstream."""
    append(connection, assign_system_sequences(connection, drafts, now, new_id), now, except_endpoint=except_endpoint)


def assign_system_sequences(
    connection: Connection, drafts: Iterable[Draft], now: datetime, new_id: Callable[[str], str]
) -> list[Entry]:
    """Give the drafts the next numbers of the bridge's own log; they are still to be appended."""
    log, entries = assign_sequences(room_log(_lock_system_room(connection, now)), drafts, new_id)
    connection.execute(
        rooms.update()
        .where(rooms.c.id == log.room_key)
        .values(last_sequence=log.last_sequence, chain_head=log.chain_head)
    )
    return entries


def upsert(connection: Connection) -> Callable[..., Any]:
    """The INSERT that knows ON CONFLICT, of whichever database this is."""
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


def _lock_system_room(connection: Connection, now: datetime) -> Row[Any]:
    held = select(rooms).where(rooms.c.source.is_(None)).order_by(rooms.c.id).limit(1).with_for_update()
    row = connection.execute(held).one_or_none()
    if row is None:
        advisory_lock(connection, BEGINNING_OWN_LOG)
        row = connection.execute(held).one_or_none()
    if row is None:
        connection.execute(
            insert(rooms).values(origin="own", enabled=False, tracked=False, added_at=now, chain_head=GENESIS)
        )
        row = connection.execute(held).one()
    return row


def _raise_cursors(
    connection: Connection, entries: Sequence[Entry], now: datetime, except_endpoint: int | None
) -> None:
    wanting = connection.execute(_WANTING).all()
    raised: dict[tuple[int, int], tuple[int, int]] = {}
    for endpoint_key, types, room_globs in wanting:
        if endpoint_key == except_endpoint:
            continue
        for entry in entries:
            if matches(entry.type, types) and (entry.room_id is None or matches(entry.room_id, room_globs)):
                place = (endpoint_key, entry.room_key)  # locked in this order, as `settlements` does
                first, _ = raised.get(place, (entry.sequence, 0))
                raised[place] = (first, entry.sequence)
    if not raised:
        return
    # Skipped until this commits: an endpoint that is being removed is either not there any more, or waits for us.
    there = set(connection.execute(_LOCKED_ENDPOINTS, {"keys": list({key for key, _ in raised})}).scalars())
    rows = [
        {"endpoint_key": endpoint_key, "room_key": room_key, "acked": first - 1, "head": last, "next_attempt_at": now}
        for (endpoint_key, room_key), (first, last) in sorted(raised.items())
        if endpoint_key in there
    ]
    if not rows:
        return
    connection.execute(_RAISED[connection.dialect.name], rows)


def _raise_cursor(insert_into: Callable[..., Any]) -> Any:  # noqa: ANN401 - the INSERT of a dialect
    statement = insert_into(cursors)
    return statement.on_conflict_do_update(
        index_elements=[cursors.c.endpoint_key, cursors.c.room_key],
        set_={
            "head": statement.excluded.head,
            # One that owes nothing has nothing to do with what came between: it need not read_health at it.
            "acked": case((cursors.c.acked >= cursors.c.head, statement.excluded.acked), else_=cursors.c.acked),
            # A cursor that owes something already keeps its place in line, or its claim, or its back-off.
            "next_attempt_at": case(
                (cursors.c.acked >= cursors.c.head, statement.excluded.next_attempt_at),
                else_=cursors.c.next_attempt_at,
            ),
        },
    )


_APPENDED = insert(events)
_WANTING = select(endpoints.c.id, endpoints.c.events, endpoints.c.rooms)
_LOCKED_ENDPOINTS = (
    select(endpoints.c.id)
    .where(endpoints.c.id.in_(bindparam("keys", expanding=True)))
    .order_by(endpoints.c.id)
    .with_for_update(read=True, key_share=True)
)
_RAISED = {"postgresql": _raise_cursor(postgresql.insert), "sqlite": _raise_cursor(sqlite.insert)}

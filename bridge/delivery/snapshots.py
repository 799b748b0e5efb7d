"""`room.snapshot` for an endpoint that is new, or newly wants it: where its picture of every room begins.

There may be a hundred thousand rooms, so they are told a few hundred at a time, each time in a transaction of its own.
How far that has come stands in `endpoints.snapshots_after`: whoever is killed in the middle, somebody else goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from bridge.db.event_log import append, assign_sequences, room_log
from bridge.db.tables import endpoints, rooms
from bridge.db.visits import load
from bridge.events.bodies import draft_snapshot
from bridge.events.types import matches

AT_ONCE = 500
BEFORE_THE_FIRST = 0


def request_snapshots(connection: Connection, endpoint_key: int) -> None:
    """Begin to tell an endpoint who is in every room that it may see."""
    connection.execute(update(endpoints).where(endpoints.c.id == endpoint_key).values(snapshots_after=BEFORE_THE_FIRST))


def append_snapshots(connection: Connection, now: datetime, new_id: Callable[[str], str]) -> bool:
    """Tell the next few hundred rooms to the first endpoint that waits for them; answers whether somebody waits on."""
    waiting = select(endpoints).where(endpoints.c.snapshots_after.is_not(None)).order_by(endpoints.c.id).limit(1)
    endpoint = connection.execute(waiting).one_or_none()
    if endpoint is None:
        return False
    known = (rooms.c.tracked, rooms.c.complete_at.is_not(None), rooms.c.id > endpoint.snapshots_after)
    some = select(rooms).where(*known).order_by(rooms.c.id).limit(AT_ONCE)
    found = connection.execute(some.with_for_update()).all()  # before the endpoint: everybody locks in this order
    same = select(endpoints.c.id).where(endpoints.c.id == endpoint.id)
    same = same.where(endpoints.c.snapshots_after == endpoint.snapshots_after)
    if connection.execute(same.with_for_update(key_share=True)).one_or_none() is None:
        return True  # somebody else told these rooms while we waited, or the endpoint is gone
    _tell(connection, [row for row in found if matches(row.upstream_id, endpoint.rooms)], now, new_id)
    after = found[-1].id if len(found) == AT_ONCE else None
    connection.execute(update(endpoints).where(endpoints.c.id == endpoint.id).values(snapshots_after=after))
    return True


def _tell(connection: Connection, room_rows: list[Any], now: datetime, new_id: Callable[[str], str]) -> None:
    presence = load(connection, room_rows)
    entries, ends = [], []
    for row in room_rows:
        told = draft_snapshot(presence[row.id].session, presence[row.id].visits.values(), row.complete_at)
        log, numbered = assign_sequences(room_log(row), [told], new_id)
        entries += numbered
        ends.append({"where_id": row.id, "last_sequence": log.last_sequence, "chain_head": log.chain_head})
    append(connection, entries, now)
    if ends:
        connection.execute(_ENDS, ends)


_ENDS = (
    update(rooms)
    .where(rooms.c.id == bindparam("where_id"))
    .values(last_sequence=bindparam("last_sequence"), chain_head=bindparam("chain_head"))
)

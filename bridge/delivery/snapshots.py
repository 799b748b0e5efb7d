"""`room.snapshot` for an endpoint that is new, or newly wants it, and no other: the peers in each room at the start.

There may be a hundred thousand rooms, so they are done a few hundred at a time, each time in a transaction of its own;
`endpoints.snapshots_after` records the progress, so that any process can continue after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from bridge.db.event_log import append_events, room_log, write_log_ends
from bridge.db.tables import endpoints, rooms
from bridge.db.visits import load_presence
from bridge.events.bodies import draft_snapshots
from bridge.events.log import number_events
from bridge.events.subscription import only
from bridge.events.types import matches

ROOMS_AT_ONCE = 500


def append_snapshots(connection: Connection, now: datetime, new_id: Callable[[str], str]) -> bool:
    """Append snapshots of the next rooms for the first endpoint that waits; returns whether one still waits."""
    waiting = select(endpoints).where(endpoints.c.snapshots_after.is_not(None)).order_by(endpoints.c.id).limit(1)
    endpoint = connection.execute(waiting).one_or_none()
    if endpoint is None:
        return False
    known = (rooms.c.tracked, rooms.c.complete_at.is_not(None), rooms.c.id > endpoint.snapshots_after)
    some = select(rooms).where(*known).order_by(rooms.c.id).limit(ROOMS_AT_ONCE)
    found = connection.execute(some.with_for_update()).all()  # rooms are locked before endpoints, as everywhere
    unchanged = select(endpoints.c.id).where(endpoints.c.id == endpoint.id)
    unchanged = unchanged.where(endpoints.c.snapshots_after == endpoint.snapshots_after)
    if connection.execute(unchanged.with_for_update(key_share=True)).one_or_none() is None:
        return True  # another process has appended these meanwhile, or the endpoint was removed
    _append(connection, endpoint, [row for row in found if matches(row.upstream_id, endpoint.rooms)], now, new_id)
    after = found[-1].id if len(found) == ROOMS_AT_ONCE else None
    connection.execute(update(endpoints).where(endpoints.c.id == endpoint.id).values(snapshots_after=after))
    return True


def _append(
    connection: Connection,
    endpoint: Row[Any],
    room_rows: Sequence[Row[Any]],
    now: datetime,
    new_id: Callable[[str], str],
) -> None:
    presence = load_presence(connection, room_rows)
    events, logs = [], []
    for row in room_rows:
        drafts = draft_snapshots(presence[row.id].session, presence[row.id].visits.values(), row.complete_at)
        addressed = [replace(draft, audience=only(endpoint.id)) for draft in drafts]
        log, new = number_events(room_log(row), addressed, now, new_id)
        events += new
        logs.append(log)
    write_log_ends(connection, logs)
    append_events(connection, events)

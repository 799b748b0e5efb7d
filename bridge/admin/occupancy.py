"""How many peers rooms had over a time, for small drawings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, func, or_, select

from bridge.db.tables import rooms, sessions, visits

Stay = tuple[datetime, datetime]


def stays_of_rooms(
    connection: Connection, wanted: Collection[tuple[str, str]], since: datetime, until: datetime
) -> dict[tuple[str, str], list[Stay]]:
    """Return the visits of rooms, given by source and id, that overlap [since, until), cut to it.

    It reads the sessions of the rooms by time, and then their visits.
    """
    found: dict[tuple[str, str], list[Stay]] = defaultdict(list)
    by_id: dict[str, set[str]] = defaultdict(set)
    for source, room_id in wanted:
        by_id[room_id].add(source)
    overlapping = (
        select(rooms.c.source, rooms.c.upstream_id, visits.c.joined_at, func.coalesce(visits.c.left_at, until))
        .select_from(rooms)
        .join(sessions, sessions.c.room_key == rooms.c.id)
        .join(visits, visits.c.session_key == sessions.c.id)
        .where(
            rooms.c.upstream_id.in_(by_id),
            sessions.c.started_at < until,
            or_(sessions.c.ended_at.is_(None), sessions.c.ended_at > since),
        )
    )
    for source, room_id, joined_at, left_at in connection.execute(overlapping):
        start, end = max(joined_at, since), min(left_at, until)
        if source in by_id[room_id] and start < end:
            found[source, room_id].append((start, end))
    return found

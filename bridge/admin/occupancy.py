"""Peers of several rooms: present ones, and their number over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, and_, func, or_, select

from bridge.db.tables import rooms, sessions, visits

Stay = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """The names in a room, in the order in which they joined; the session began at `started_at`."""

    started_at: datetime
    names: list[str] = field(default_factory=list)


def stays_of_rooms(
    connection: Connection, wanted: Collection[tuple[str, str]], since: datetime, until: datetime
) -> dict[tuple[str, str], list[Stay]]:
    """Return the visits of rooms, given by source and id, that overlap [since, until), cut to it.

    It reads the sessions of the rooms by time, and then their visits.
    """
    found: dict[tuple[str, str], list[Stay]] = defaultdict(list)
    by_id = _sources_by_id(wanted)
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


def names_in_rooms(connection: Connection, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], Present]:
    """Return the peers in occupied rooms, given by source and id."""
    by_id = _sources_by_id(wanted)
    present = (
        select(rooms.c.source, rooms.c.upstream_id, sessions.c.started_at, visits.c.display_name)
        .select_from(rooms)
        .join(sessions, sessions.c.id == rooms.c.session_key)
        .join(visits, and_(visits.c.room_key == rooms.c.id, visits.c.left_at.is_(None)))
        .where(rooms.c.upstream_id.in_(by_id))
        .order_by(visits.c.joined_at, visits.c.peer_id)
    )
    found: dict[tuple[str, str], Present] = {}
    for source, room_id, started_at, name in connection.execute(present):
        if source in by_id[room_id]:
            found.setdefault((source, room_id), Present(started_at=started_at)).names.append(name)
    return found


def _sources_by_id(wanted: Collection[tuple[str, str]]) -> dict[str, set[str]]:
    by_id: dict[str, set[str]] = defaultdict(set)
    for source, room_id in wanted:
        by_id[room_id].add(source)
    return by_id

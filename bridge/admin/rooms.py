"""Rooms as people and programs ask for them: which are tracked, how they are doing, who is there now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from bridge.db.tables import rooms, sessions, sources, visits
from bridge.db.visits import load
from bridge.polling.rooms import find_room
from bridge.rules.polling import Condition
from bridge.rules.presence import Json, Visit


class RoomState(StrEnum):
    """Unknown until a complete response has been seen."""

    UNKNOWN = "unknown"
    EMPTY = "empty"
    OCCUPIED = "occupied"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRoom:
    """A tracked room. Of `interval_seconds` and `leave_after_missed`, None means as `[polling]` says."""

    room_id: str
    name: str | None
    source: str
    origin: str
    enabled: bool
    state: RoomState
    peer_count: int
    session_id: str | None
    interval_seconds: float | None
    leave_after_missed: int | None
    added_at: datetime
    polled_at: datetime | None
    next_poll_at: datetime | None
    failures: int
    last_failure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentPeer:
    """A visit that has not ended."""

    visit_id: str
    peer_id: str
    display_name: str
    joined_at: datetime
    joined_at_source: str
    last_seen_at: datetime
    initial: bool
    metadata: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentSession:
    """The session that is under way."""

    id: str
    started_at: datetime
    visit_count: int
    unique_peers: int
    peak_peer_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRoom(ListedRoom):
    """A tracked room with everything about it; peers by the time they joined."""

    source_condition: Condition
    session: CurrentSession | None
    peers: tuple[PresentPeer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TroubledSource:
    """A source that does not response as it should."""

    name: str
    condition: Condition
    since: datetime | None
    paused_until: datetime | None


def list_rooms(connection: Connection, *, source: str | None = None) -> list[ListedRoom]:
    """Every tracked room (of a source), by source and id."""
    query = _listing().order_by(rooms.c.source, rooms.c.upstream_id)
    if source is not None:
        query = query.where(rooms.c.source == source)
    return [ListedRoom(**_room_values(row)) for row in connection.execute(query)]


def show_room(connection: Connection, room_id: str, source: str | None = None) -> ShownRoom:
    """A tracked room with who is there now.

    Raises:
        NotFoundError: no such room is tracked, or several sources have one of that id.
    """
    row = find_room(connection, room_id, source)
    presence = load(connection, [row])[row.id]
    session = presence.session
    condition = connection.execute(select(sources.c.condition).where(sources.c.name == row.source)).scalar()
    return ShownRoom(
        **_room_values(connection.execute(_listing().where(rooms.c.id == row.id)).one()),
        source_condition=Condition(condition or Condition.OK),
        session=None
        if session is None
        else CurrentSession(
            id=session.session_id,
            started_at=session.started_at,
            visit_count=session.visit_count,
            unique_peers=session.unique_peers,
            peak_peer_count=session.peak_peer_count,
        ),
        peers=tuple(
            present_peer(visit)
            for visit in sorted(presence.visits.values(), key=lambda visit: (visit.joined_at, visit.peer_id))
        ),
    )


def origin_of(connection: Connection, room_id: str, source: str | None = None) -> str | None:
    """Who tracks a room: `config`, or what else; None if nobody does.

    Raises:
        NotFoundError: several sources have one of that id.
    """
    tracked = select(rooms.c.id).where(rooms.c.upstream_id == room_id, rooms.c.tracked)
    if source is not None:
        tracked = tracked.where(rooms.c.source == source)
    if connection.execute(tracked).first() is None:
        return None
    origin: str = find_room(connection, room_id, source).origin
    return origin


def present_peer(visit: Visit) -> PresentPeer:
    """A visit as listings show it."""
    return PresentPeer(
        visit_id=visit.visit_id,
        peer_id=visit.peer_id,
        display_name=visit.display_name,
        joined_at=visit.joined_at,
        joined_at_source=visit.joined_at_source.value,
        last_seen_at=visit.last_seen_at,
        initial=visit.initial,
        metadata=visit.metadata,
    )


def troubled_sources(connection: Connection) -> list[TroubledSource]:
    """Sources that are held back because of what they response, by name."""
    troubled = select(sources).where(sources.c.condition != Condition.OK.value).order_by(sources.c.name)
    return [
        TroubledSource(
            name=row.name, condition=Condition(row.condition), since=row.since, paused_until=row.paused_until
        )
        for row in connection.execute(troubled)
    ]


def _listing() -> Select[Any]:
    present = (
        select(visits.c.room_key, func.count().label("peer_count"))
        .where(visits.c.left_at.is_(None))
        .group_by(visits.c.room_key)
        .subquery()
    )
    return (
        select(rooms, present.c.peer_count, sessions.c.public_id.label("session_id"))
        .outerjoin(present, present.c.room_key == rooms.c.id)
        .outerjoin(sessions, sessions.c.id == rooms.c.session_key)
        .where(rooms.c.tracked)
    )


def _room_values(row: Row[Any]) -> dict[str, Any]:
    return {
        "room_id": row.upstream_id,
        "name": row.name,
        "source": row.source,
        "origin": row.origin,
        "enabled": row.enabled,
        "state": _state(row),
        "peer_count": row.peer_count or 0,
        "session_id": row.session_id,
        "interval_seconds": row.interval_seconds,
        "leave_after_missed": row.leave_after_missed,
        "added_at": row.added_at,
        "polled_at": row.polled_at,
        "next_poll_at": row.next_poll_at,
        "failures": row.failures,
        "last_failure": row.last_failure,
    }


def _state(row: Row[Any]) -> RoomState:
    if row.session_key is not None:
        return RoomState.OCCUPIED
    return RoomState.UNKNOWN if row.complete_at is None else RoomState.EMPTY

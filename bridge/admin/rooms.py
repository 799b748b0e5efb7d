"""Tracked rooms for listings: settings, state, polling, and who is present."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Select, and_, case, func, select

from bridge.admin.listing import Listing, Order, Page, columns_of, copy_fields, fetch_page
from bridge.db.tables import rooms, sessions, sources, visits
from bridge.db.visits import BATCH_SIZE, batched, load_presence
from bridge.errors import ConflictError
from bridge.polling.plan import PollingSettings
from bridge.polling.rooms import RoomSpec, add_room, apply_shorter_intervals, find_room, remove_room
from bridge.rules.polling import Condition
from bridge.rules.presence import Visit


class RoomState(StrEnum):
    """`unknown` until the first complete snapshot."""

    UNKNOWN = "unknown"
    EMPTY = "empty"
    OCCUPIED = "occupied"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRoom:
    """A tracked room; `interval_seconds` and `leave_after_missed` are None for the defaults of `[polling]`."""

    room_id: str
    name: str | None
    source: str
    origin: str
    enabled: bool
    state: str
    """One of `RoomState`."""
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
    """An open visit."""

    visit_id: str
    peer_id: str
    display_name: str
    joined_at: datetime
    joined_at_source: str
    last_seen_at: datetime
    initial: bool
    metadata: Any
    """As the source gave it, cut by `identity.metadata`."""


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
    """A tracked room with its session and its peers, in the order in which they joined."""

    source_condition: Condition
    session: CurrentSession | None
    peers: tuple[PresentPeer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingSource:
    """A source that is not ok: until it recovers, only one room is tried at the end of each pause."""

    name: str
    condition: str
    """One of `Condition`."""
    since: datetime | None
    paused_until: datetime | None


_IS_IN = {
    RoomState.OCCUPIED: rooms.c.session_key.is_not(None),
    RoomState.UNKNOWN: and_(rooms.c.session_key.is_(None), rooms.c.complete_at.is_(None)),
    RoomState.EMPTY: and_(rooms.c.session_key.is_(None), rooms.c.complete_at.is_not(None)),
}
STATE = case(*((condition, state.value) for state, condition in _IS_IN.items()))
BY_SOURCE_AND_ID = Order((rooms.c.source, rooms.c.upstream_id), newest_first=False)
_PEER_COUNT = select(func.count()).where(visits.c.room_key == rooms.c.id, visits.c.left_at.is_(None)).scalar_subquery()
_LISTED: Select[Any] = (
    select(
        rooms.c.upstream_id.label("room_id"),
        *columns_of(rooms, ListedRoom),
        STATE.label("state"),
        _PEER_COUNT.label("peer_count"),
        sessions.c.public_id.label("session_id"),
    )
    .outerjoin(sessions, sessions.c.id == rooms.c.session_key)
    .where(rooms.c.tracked)
)


def list_rooms(
    connection: Connection, page: Page, *, source: str | None = None, state: RoomState | None = None
) -> Listing[ListedRoom]:
    """Return tracked rooms (of a source, in a state), ordered by source and id."""
    query = _LISTED
    if source is not None:
        query = query.where(rooms.c.source == source)
    if state is not None:
        query = query.where(_IS_IN[state])
    return fetch_page(connection, query, BY_SOURCE_AND_ID, page, ListedRoom)


def show_room(connection: Connection, room_id: str, source: str | None = None) -> ShownRoom:
    """Return a tracked room with its session and peers.

    Raises:
        NotFoundError: no such room is tracked, or several sources have one with that id.
    """
    row = find_room(connection, room_id, source)
    presence = load_presence(connection, [row])[row.id]
    session = presence.session
    condition = connection.execute(select(sources.c.condition).where(sources.c.name == row.source)).scalar()
    return ShownRoom(
        **connection.execute(_LISTED.where(rooms.c.id == row.id)).one()._asdict(),
        source_condition=Condition(condition or Condition.OK),
        session=None if session is None else copy_fields(CurrentSession, session, id=session.session_id),
        peers=tuple(sorted(map(present_peer, presence.visits.values()), key=joined)),
    )


def add_manual_room(
    connection: Connection, spec: RoomSpec, settings: PollingSettings, now: datetime, new_id: Callable[[str], str]
) -> bool:
    """Track a room, or change the settings of one that was added before; returns whether it was not tracked.

    Raises:
        ConflictError: the room belongs to the configuration.
    """
    _refuse_configured(connection, spec.upstream_id, spec.source)
    is_new = add_room(connection, spec, now, new_id)
    if not is_new:
        apply_shorter_intervals(connection, settings, now)
    return is_new


def remove_manual_room(
    connection: Connection, room_id: str, source: str | None, now: datetime, new_id: Callable[[str], str]
) -> None:
    """Stop tracking a room that was added by hand.

    Raises:
        NotFoundError: no such room is tracked, or several sources have one with that id.
        ConflictError: the room belongs to the configuration.
    """
    _refuse_configured(connection, room_id, source)
    remove_room(connection, room_id, source, now, new_id)


def _refuse_configured(connection: Connection, room_id: str, source: str | None) -> None:
    if origin_of(connection, room_id, source) == "config":
        raise ConflictError(f"room {room_id!r} is in the configuration: change or remove it there, and reload")


def origin_of(connection: Connection, room_id: str, source: str | None = None) -> str | None:
    """Return `config`, `manual` or `discovered` for a tracked room; None if it is not tracked.

    Raises:
        NotFoundError: several sources have one with that id.
    """
    tracked = select(rooms.c.id).where(rooms.c.upstream_id == room_id, rooms.c.tracked)
    if source is not None:
        tracked = tracked.where(rooms.c.source == source)
    if connection.execute(tracked).first() is None:
        return None
    origin: str = find_room(connection, room_id, source).origin
    return origin


def tracked_ids(connection: Connection, source: str, room_ids: Sequence[str]) -> set[str]:
    """Return those ids of a source's rooms that are tracked."""
    tracked = select(rooms.c.upstream_id).where(rooms.c.source == source, rooms.c.tracked)
    return {
        room_id
        for some in batched(room_ids, BATCH_SIZE)
        for room_id in connection.execute(tracked.where(rooms.c.upstream_id.in_(some))).scalars()
    }


def present_peer(visit: Visit) -> PresentPeer:
    """Return an open visit as listings show it."""
    return copy_fields(PresentPeer, visit)


def joined(peer: PresentPeer) -> tuple[datetime, str]:
    """The order in which peers are listed."""
    return peer.joined_at, peer.peer_id


def failing_sources(connection: Connection) -> list[FailingSource]:
    """Return the sources that are not ok, by name."""
    failing = select(*columns_of(sources, FailingSource)).where(sources.c.condition != Condition.OK.value)
    return [FailingSource(**row._asdict()) for row in connection.execute(failing.order_by(sources.c.name))]

"""Presence as stored: all occupied rooms, or the peers of one, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select

from bridge.admin.listing import Listing, Order, Page, fetch_page, page_of
from bridge.admin.rooms import BY_SOURCE_AND_ID, PresentPeer, RoomState, joined, present_peer
from bridge.db.tables import rooms, visits
from bridge.db.visits import load_presence
from bridge.polling.rooms import find_room
from bridge.rules.presence import Presence


@dataclass(frozen=True, slots=True, kw_only=True)
class OccupiedRoom:
    """An occupied room; its peers are in the order in which they joined."""

    source: str
    room_id: str
    room_name: str | None
    state: RoomState
    peer_count: int
    peers: tuple[PresentPeer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    id: int
    session_key: int
    tracked_since: datetime | None
    complete_at: datetime | None
    source: str
    room_id: str
    room_name: str | None


def list_presence(connection: Connection, page: Page) -> Listing[OccupiedRoom]:
    """Return the occupied rooms, by source and id."""
    rows = fetch_page(connection, _OCCUPIED, BY_SOURCE_AND_ID, page, _Row)
    presence = load_presence(connection, rows.items)
    return Listing(items=[_occupied(row, presence[row.id]) for row in rows.items], next=rows.next)


def list_peers(connection: Connection, room_id: str, source: str | None, page: Page) -> Listing[PresentPeer]:
    """Return the peers of a tracked room, newest first.

    Raises:
        NotFoundError: no such room is tracked, or several sources have one with that id.
    """
    row = find_room(connection, room_id, source)
    present = load_presence(connection, [row])[row.id].visits.values()
    return page_of(map(present_peer, present), _BY_JOIN, joined, page)


def _occupied(row: _Row, presence: Presence) -> OccupiedRoom:
    peers = tuple(sorted(map(present_peer, presence.visits.values()), key=joined))
    return OccupiedRoom(
        source=row.source,
        room_id=row.room_id,
        room_name=row.room_name,
        state=RoomState.OCCUPIED,
        peer_count=len(peers),
        peers=peers,
    )


_OCCUPIED: Select[Any] = select(
    rooms.c.id,
    rooms.c.session_key,
    rooms.c.tracked_since,
    rooms.c.complete_at,
    rooms.c.source,
    rooms.c.upstream_id.label("room_id"),
    rooms.c.name.label("room_name"),
).where(rooms.c.tracked, rooms.c.session_key.is_not(None))
_BY_JOIN = Order((visits.c.joined_at, visits.c.peer_id))

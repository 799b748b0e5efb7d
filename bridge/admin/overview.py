"""The content of each page of the dashboard, read in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from bridge.admin.attempts import AttemptFilter, ListedAttempt, list_attempts, list_dead_letters
from bridge.admin.endpoints import ListedEndpoint, ShownEndpoint, list_endpoints, oldest_owed, show_endpoint
from bridge.admin.health import Counts, read_counts
from bridge.admin.listing import Listing, Page
from bridge.admin.occupancy import Present, Stay, names_in_rooms, stays_of_rooms
from bridge.admin.rooms import FailingSource, ListedRoom, RoomState, ShownRoom, failing_sources, list_rooms, show_room
from bridge.admin.sessions import ListedSession, list_sessions
from bridge.db.encryption import SecretCipher

RoomKey = tuple[str, str]
"""Source and id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomsOverview:
    """Rooms with their peers, now and in [since, now)."""

    counts: Counts
    failing: Sequence[FailingSource]
    rooms: Listing[ListedRoom]
    present: Mapping[RoomKey, Present]
    stays: Mapping[RoomKey, Sequence[Stay]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOverview:
    """An endpoint with its latest attempts, newest first, and the time of the oldest event that it is owed."""

    endpoint: ShownEndpoint
    attempts: Sequence[ListedAttempt]
    oldest_owed_at: datetime | None


def read_rooms(
    connection: Connection, page: Page, in_state: RoomState | None, since: datetime, now: datetime
) -> RoomsOverview:
    """Read a page of rooms.

    Raises:
        UsageError: `page.after` is not the `next` of such a listing.
    """
    rooms = list_rooms(connection, page, state=in_state)
    shown = [(room.source, room.room_id) for room in rooms.items]
    occupied = [(room.source, room.room_id) for room in rooms.items if room.session_id is not None]
    return RoomsOverview(
        counts=read_counts(connection),
        failing=failing_sources(connection),
        rooms=rooms,
        present=names_in_rooms(connection, occupied),
        stays=stays_of_rooms(connection, shown, since, now),
    )


def read_room(
    connection: Connection, room_id: str, source: str | None, page: Page
) -> tuple[ShownRoom, Listing[ListedSession]]:
    """Read a room, and a page of its sessions.

    Raises:
        NotFoundError: no such room is tracked, or several sources have one with that id.
    """
    room = show_room(connection, room_id, source)
    return room, list_sessions(connection, page, room=room_id, source=room.source)


def read_endpoints(connection: Connection, page: Page) -> tuple[Listing[ListedEndpoint], dict[str, datetime]]:
    """Read a page of endpoints, and when the oldest event that each is owed was recorded."""
    listing = list_endpoints(connection, page)
    return listing, oldest_owed(connection, [endpoint.id for endpoint in listing.items])


def read_endpoint(
    connection: Connection, endpoint_id: str, *, attempts: int, cipher: SecretCipher, now: datetime
) -> EndpointOverview:
    """Read an endpoint, by name or id.

    Raises:
        NotFoundError: there is none.
    """
    endpoint = show_endpoint(connection, endpoint_id, now=now, cipher=cipher)
    latest = list_attempts(connection, AttemptFilter(endpoint=endpoint.id), Page(limit=attempts))
    oldest = oldest_owed(connection, [endpoint.id]).get(endpoint.id)
    return EndpointOverview(endpoint=endpoint, attempts=latest.items, oldest_owed_at=oldest)


def read_deliveries(connection: Connection, wanted: AttemptFilter, page: Page, *, dead: bool) -> Listing[Any]:
    """Read a page of attempts, or of dead letters.

    Raises:
        NotFoundError: there is no such endpoint, room or event.
    """
    return (list_dead_letters if dead else list_attempts)(connection, wanted, page)

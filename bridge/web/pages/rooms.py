"""Pages of rooms: all of them, and one with its peers and sessions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Query
from fastapi.responses import Response
from sqlalchemy import Connection

from bridge.admin.health import Counts, read_counts
from bridge.admin.listing import Listing, Page
from bridge.admin.occupancy import Present, Stay, names_in_rooms, stays_of_rooms
from bridge.admin.rooms import FailingSource, ListedRoom, RoomState, ShownRoom, failing_sources, list_rooms, show_room
from bridge.admin.sessions import ListedSession, list_sessions
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.pages.occupancy import day_before, draw_spark, largest
from bridge.web.pages.view import PageView
from bridge.web.paging import After
from bridge.web.routing import api_router

ROOMS_SHOWN = 50
SESSIONS_SHOWN = 25

router = api_router("", dependencies=[requires(Scope.READ)], include_in_schema=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rooms:
    counts: Counts
    failing: list[FailingSource]
    rooms: Listing[ListedRoom]
    present: dict[tuple[str, str], Present]
    stays: dict[tuple[str, str], list[Stay]]


@router.get("/")
async def show_rooms(
    view: PageView,
    after: After = None,
    in_state: Annotated[RoomState | None, Query(alias="state")] = None,
) -> Response:
    """Rooms with their state, who is there, and the last day."""
    settings, now = view.state.settings(), view.state.runtime.now()
    since = day_before(now)
    found = await view.state.database.read(_read_rooms, Page(limit=ROOMS_SHOWN, after=after), in_state, since, now)
    scale = max(map(largest, found.stays.values()), default=1)
    return view.page(
        "rooms.html",
        "Rooms",
        counts=found.counts,
        failing=found.failing,
        rooms=found.rooms,
        present=found.present,
        sparks={key: draw_spark(stays, since, now, scale) for key, stays in found.stays.items()},
        shown_state="" if in_state is None else in_state.value,
        sources=[account.name for account in settings.sources],
    )


@router.get("/room")
async def show_one_room(
    view: PageView,
    room_id: Annotated[str, Query(alias="id")],
    source: str | None = None,
    after: After = None,
) -> Response:
    """One room: who is there now, and its sessions."""
    page = Page(limit=SESSIONS_SHOWN, after=after)
    room, sessions = await view.state.database.read(_read_room, room_id, source, page)
    return view.page("room.html", "Rooms", room=room, sessions=sessions, show_room=False)


@router.get("/sessions")
async def show_sessions(view: PageView, after: After = None) -> Response:
    """The latest sessions of all rooms."""
    sessions = await view.state.database.read(list_sessions, Page(limit=ROOMS_SHOWN, after=after))
    return view.page("sessions.html", "Sessions", sessions=sessions)


def _read_rooms(
    connection: Connection, page: Page, in_state: RoomState | None, since: datetime, now: datetime
) -> _Rooms:
    rooms = list_rooms(connection, page, state=in_state)
    shown = [(room.source, room.room_id) for room in rooms.items]
    occupied = [(room.source, room.room_id) for room in rooms.items if room.session_id is not None]
    return _Rooms(
        counts=read_counts(connection),
        failing=failing_sources(connection),
        rooms=rooms,
        present=names_in_rooms(connection, occupied),
        stays=stays_of_rooms(connection, shown, since, now),
    )


def _read_room(
    connection: Connection, room_id: str, source: str | None, page: Page
) -> tuple[ShownRoom, Listing[ListedSession]]:
    return show_room(connection, room_id, source), list_sessions(connection, page, room=room_id)

"""Pages of rooms: all of them, and one with its peers and sessions."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from fastapi.responses import Response

from bridge.admin.listing import Page
from bridge.admin.overview import read_room, read_rooms
from bridge.admin.rooms import RoomState
from bridge.admin.sessions import list_sessions
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.pages.occupancy import day_before, draw_spark, largest
from bridge.web.pages.view import PageView
from bridge.web.paging import After
from bridge.web.routing import api_router

ROOMS_SHOWN = 50
SESSIONS_SHOWN = 25

router = api_router("", dependencies=[requires(Scope.READ)], include_in_schema=False)


@router.get("/")
async def show_rooms(
    view: PageView,
    after: After = None,
    in_state: Annotated[RoomState | None, Query(alias="state")] = None,
) -> Response:
    """Rooms with their state, their peers, and the last day."""
    settings, now = view.state.settings(), view.state.runtime.now()
    since = day_before(now)
    found = await view.state.database.read(read_rooms, Page(limit=ROOMS_SHOWN, after=after), in_state, since, now)
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
    """One room: its peers now, and its sessions."""
    page = Page(limit=SESSIONS_SHOWN, after=after)
    room, sessions = await view.state.database.read(read_room, room_id, source, page)
    return view.page("room.html", "Rooms", room=room, sessions=sessions, show_room=False)


@router.get("/sessions")
async def show_sessions(view: PageView, after: After = None) -> Response:
    """The latest sessions of all rooms."""
    sessions = await view.state.database.read(list_sessions, Page(limit=ROOMS_SHOWN, after=after))
    return view.page("sessions.html", "Sessions", sessions=sessions)

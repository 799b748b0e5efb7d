"""Sessions: the occupied periods of rooms."""

from __future__ import annotations

from fastapi.responses import JSONResponse, Response

from bridge.admin.listing import document
from bridge.admin.sessions import ListedSession, list_sessions, show_session
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.paging import Items, NewestFirst, page_response
from bridge.web.params import InPeriod, RoomFilter
from bridge.web.routing import api_router
from bridge.web.state import State

router = api_router(tags=["sessions"])


@router.get("/sessions", dependencies=[requires(Scope.READ)], response_model=Items[ListedSession])
async def list_recorded(state: State, page: NewestFirst, period: InPeriod, room: RoomFilter = None) -> Response:
    """Sessions that overlap [since, until), newest first."""
    found = await state.database.read(list_sessions, page, room=room, since=period.since, until=period.until)
    return page_response(found)


@router.get("/sessions/{session_id}", dependencies=[requires(Scope.READ)], response_model=ListedSession)
async def show(state: State, session_id: str) -> Response:
    """A session; without `ended_at` it is under way."""
    return JSONResponse(document(await state.database.read(show_session, session_id)))

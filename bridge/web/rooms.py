"""Tracked rooms."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from fastapi.responses import Response

from bridge.admin.rooms import ListedRoom, RoomState, list_rooms
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.paging import ByName, Items, page_response
from bridge.web.routing import api_router
from bridge.web.state import State

router = api_router(tags=["rooms"])

SourceFilter = Annotated[str | None, Query(description="Name of the source, where two have a room of this id.")]


@router.get("/rooms", dependencies=[requires(Scope.READ)], response_model=Items[ListedRoom])
async def list_tracked(
    state: State,
    page: ByName,
    source: SourceFilter = None,
    room_state: Annotated[RoomState | None, Query(alias="state")] = None,
) -> Response:
    """Tracked rooms, by source and id."""
    return page_response(await state.database.read(list_rooms, page, source=source, state=room_state))

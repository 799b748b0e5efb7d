"""Current presence in all rooms."""

from __future__ import annotations

from fastapi.responses import Response

from bridge.admin.presence import OccupiedRoom, list_presence
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.paging import ByName, Items, page_response
from bridge.web.routing import api_router
from bridge.web.state import State

router = api_router(tags=["rooms"])


@router.get("/presence", dependencies=[requires(Scope.READ)], response_model=Items[OccupiedRoom])
async def list_present(state: State, page: ByName) -> Response:
    """Occupied rooms with the peers in them, by source and id."""
    return page_response(await state.database.read(list_presence, page))

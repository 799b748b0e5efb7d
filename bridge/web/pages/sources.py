"""The page of sources: their condition, and how many rooms each has."""

from __future__ import annotations

from fastapi.responses import Response

from bridge.admin.sources import list_sources
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.pages.view import PageView
from bridge.web.routing import api_router

router = api_router("", dependencies=[requires(Scope.READ)], include_in_schema=False)


@router.get("/sources")
async def show(view: PageView) -> Response:
    """All configured sources."""
    kinds = {account.name: account.kind for account in view.state.settings().sources}
    return view.page("sources.html", "Sources", sources=await view.state.database.read(list_sources, kinds))

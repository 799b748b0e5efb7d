"""The page of sources: their condition, and how many rooms each has."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from fastapi.responses import Response

from bridge.admin.sources import list_sources
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.pages.render import in_words
from bridge.web.pages.view import PageView
from bridge.web.routing import api_router

NO_SKEW: Final = timedelta(seconds=1)
"""Dates of responses have no fractions of a second."""

router = api_router("", dependencies=[requires(Scope.READ)], include_in_schema=False)


@router.get("/sources")
async def show(view: PageView) -> Response:
    """All configured sources."""
    kinds = {account.name: account.kind for account in view.state.settings().sources}
    sources = await view.state.database.read(list_sources, kinds)
    skews = {name: _skew(skew) for name, skew in view.state.metrics.clock_skews.items()}
    return view.page("sources.html", "Sources", sources=sources, skews=skews)


def _skew(skew: timedelta) -> str:
    if abs(skew) < NO_SKEW:
        return "agrees"
    return f"{in_words(abs(skew))} {'behind' if skew > timedelta() else 'ahead'}"

"""`GET /metrics`, as Prometheus text or OpenMetrics, on the web server and on `probes.listen`."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from fastapi import Depends, Request
from fastapi.responses import PlainTextResponse, Response

from bridge.errors import DatabaseError
from bridge.rules.access import Scope
from bridge.web.auth import Requirement, needs_tokens
from bridge.web.routing import api_router
from bridge.web.state import State, state_of

OPENMETRICS: Final = "application/openmetrics-text"


class UnlessOpen(Requirement):
    """A token with one of the scopes, where there is any token; without, `probes.listen` decides who may connect."""

    async def __call__(self, request: Request) -> None:
        """Refuse the request if it is not permitted.

        Raises:
            ProblemError: 401, 403 or 429.
        """
        state = state_of(request)
        with suppress(DatabaseError):  # it is when the database is away that counts and histograms are looked at
            state.scraper.needs_token = await needs_tokens(state)
        if state.scraper.needs_token:
            await super().__call__(request)


router = api_router("", dependencies=[Depends(UnlessOpen((Scope.METRICS,)))])


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {OPENMETRICS: {"schema": {"type": "string"}}}}},
)
async def show_metrics(request: Request, state: State) -> Response:
    """Metrics of this process, and of the database."""
    accept = request.headers.get("accept", "")
    text, content_type = await state.scraper.scrape(state.metrics, state.database, state.runtime.now, accept)
    return Response(text, media_type=content_type)

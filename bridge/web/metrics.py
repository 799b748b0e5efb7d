"""`GET /metrics`, as Prometheus text or OpenMetrics, on the web server and on `probes.listen`."""

from __future__ import annotations

from fastapi import Depends, Request
from fastapi.responses import Response

from bridge.rules.access import Scope
from bridge.web.auth import Requirement, needs_tokens
from bridge.web.routing import api_router
from bridge.web.state import State, state_of


class UnlessOpen(Requirement):
    """A token with one of the scopes, where there is any token; without, `probes.listen` decides who may connect."""

    async def __call__(self, request: Request) -> None:
        """Refuse the request if it is not permitted.

        Raises:
            ProblemError: 401, 403 or 429.
        """
        if await needs_tokens(state_of(request)):
            await super().__call__(request)


router = api_router("", dependencies=[Depends(UnlessOpen((Scope.METRICS,)))])


@router.get("/metrics")
async def show_metrics(request: Request, state: State) -> Response:
    """Metrics of this process, and of the database."""
    await state.gauges.refresh(state.metrics, state.database, state.runtime.now)
    text, content_type = state.metrics.render(request.headers.get("accept", ""))
    return Response(text, media_type=content_type)

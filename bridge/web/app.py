"""The FastAPI app: the routers of all topics, guard and error responses. A new topic is a file and a line here."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import APIRouter, FastAPI

from bridge import __version__
from bridge.web import (
    attendance,
    audit,
    deliveries,
    endpoints,
    events,
    hooks,
    me,
    metrics,
    openapi,
    pages,
    people,
    pokes,
    presence,
    probes,
    rooms,
    samples,
    schemas,
    sessions,
    stream,
)
from bridge.web.cors import Cors
from bridge.web.guard import Guard
from bridge.web.pages.errors import as_page
from bridge.web.problems import UnexpectedErrors, add_problem_handlers
from bridge.web.state import AppState

ROUTERS: tuple[APIRouter, ...] = (
    me.router,
    rooms.router,
    presence.router,
    sessions.router,
    attendance.router,
    audit.router,
    people.router,
    pokes.router,
    schemas.router,
    stream.router,  # before events, whose ids could be `stream`
    events.router,
    endpoints.router,
    deliveries.router,
    hooks.router,
    samples.router,
    openapi.router,
    probes.router,
    metrics.router,
    *pages.ROUTERS,
)
PROBES: tuple[APIRouter, ...] = (probes.router, metrics.router)
"""The routers of `probes.listen`."""


def create_app(state: AppState, routers: Collection[APIRouter] = ROUTERS) -> FastAPI:
    """Return the app for one address of one process."""
    app = FastAPI(
        title="Presence bridge",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.state = state
    for router in routers:
        app.router.routes.extend(router.routes)
    add_problem_handlers(app, as_page)
    app.add_middleware(Cors, state=state)
    app.add_middleware(Guard, state=state)
    app.add_middleware(UnexpectedErrors)  # added last, so it is around the others
    return app

"""The FastAPI app: the routers of all topics, guard and error responses. A new topic is a file and a line here."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from bridge import __version__
from bridge.web import (
    deliveries,
    endpoints,
    events,
    hooks,
    me,
    openapi,
    pages,
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
from bridge.web.problems import UnexpectedErrors, add_problem_handlers
from bridge.web.state import AppState

ROUTERS: tuple[APIRouter, ...] = (
    me.router,
    stream.router,  # before the route of one event
    rooms.router,
    presence.router,
    sessions.router,
    schemas.router,
    events.router,
    endpoints.router,
    deliveries.router,
    hooks.router,
    samples.router,
    openapi.router,
    probes.router,
    pages.router,
)


def create_app(state: AppState) -> FastAPI:
    """Return the app for one process."""
    app = FastAPI(
        title="Presence bridge",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.state = state
    for router in ROUTERS:
        app.router.routes.extend(router.routes)
    add_problem_handlers(app)
    app.add_middleware(Cors, state=state)
    app.add_middleware(Guard, state=state)
    app.add_middleware(UnexpectedErrors)  # added last, so it is around the others
    return app

"""The FastAPI app. Handlers are plain functions of the module; what they need stands in `app.state.desk`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from jinja2 import Environment, PackageLoader, select_autoescape

from bridge import __version__
from bridge.errors import DatabaseError
from bridge.store.database import Database
from bridge.store.health import Health, look
from bridge.store.schema import schema_state

LATE = timedelta(seconds=60)
"""From when a poll or a delivery that is due makes the service not ready."""

router = APIRouter()
pages = Environment(loader=PackageLoader("bridge.api"), autoescape=select_autoescape(), trim_blocks=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the handlers work with."""

    name: str
    database: Database
    now: Callable[[], datetime]


def create_app(desk: Desk) -> FastAPI:
    """The app of one process."""
    app = FastAPI(title="Presence bridge", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.desk = desk
    app.include_router(router)
    return app


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


AtDesk = Annotated[Desk, Depends(_desk)]


@router.head("/healthz")
@router.get("/healthz")
async def healthz() -> Response:
    """Alive: the process answers."""
    return PlainTextResponse("ok\n")


@router.head("/readyz")
@router.get("/readyz")
async def readyz(desk: AtDesk) -> Response:
    """Ready: the database answers, its schema is current, nothing that is due waits for long. Else 503, with why."""
    reasons = await _reasons(desk)
    return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)


@router.head("/")
@router.get("/")
async def index(desk: AtDesk) -> Response:
    """A plain page: what the bridge is at."""
    now = desk.now()
    try:
        health = await desk.database.read(look, now)
    except DatabaseError:
        health = None
    text = pages.get_template("index.html").render(name=desk.name, version=__version__, health=health, now=now)
    return HTMLResponse(text, status_code=200 if health is not None else 503)


async def _reasons(desk: Desk) -> list[str]:
    now = desk.now()
    try:
        state = await desk.database.read(schema_state)
        if not state.is_current:
            return [f"the database has schema {state.current}, this version needs {state.head}: run `bridge migrate`"]
        return _lateness(await desk.database.read(look, now), now)
    except DatabaseError as error:
        return [str(error)]


def _lateness(health: Health, now: datetime) -> list[str]:
    reasons = [f"source {name} is {condition}" for name, condition in sorted(health.troubled_sources.items())]
    for work, since in (("polls", health.poll_due_since), ("deliveries", health.delivery_due_since)):
        if since is not None and now - since > LATE:
            late = (now - since).total_seconds()
            reasons.append(f"{work} are late: the longest waiting has been due for {late:.0f} s; is that role running?")
    return reasons

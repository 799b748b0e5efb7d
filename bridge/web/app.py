"""The FastAPI app. Handlers are module-level functions; they get `AppState` by dependency injection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from jinja2 import Environment, PackageLoader, select_autoescape

from bridge import __version__
from bridge.admin.health import Overdue, read_counts, read_overdue
from bridge.db.engine import Database
from bridge.db.schema import schema_state
from bridge.errors import DatabaseError
from bridge.web import schemas

LATE = timedelta(seconds=60)
"""A poll or delivery that is overdue by more than this makes the service not ready."""
UNWRITTEN_SECONDS = 8
"""So is a database that can be read and not be written to: perhaps a failover has made it read-only."""
DATABASE_SECONDS = 5

router = APIRouter()
pages = Environment(loader=PackageLoader("bridge.web"), autoescape=select_autoescape(), trim_blocks=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """Shared state of the handlers."""

    name: str
    database: Database
    now: Callable[[], datetime]


def create_app(state: AppState) -> FastAPI:
    app = FastAPI(title="Presence bridge", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.state = state
    app.include_router(router)
    app.include_router(schemas.router)
    return app


def _state(request: Request) -> AppState:
    state: AppState = request.app.state.state
    return state


State = Annotated[AppState, Depends(_state)]


@router.head("/healthz")
@router.get("/healthz")
async def healthz() -> Response:
    """Alive: the process responds."""
    return PlainTextResponse("ok\n")


@router.head("/readyz")
@router.get("/readyz")
async def readyz(state: State) -> Response:
    """Ready: the database responds, its schema is current, nothing is overdue. Otherwise 503 with the reasons."""
    reasons = await _reasons(state)
    return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)


@router.head("/")
@router.get("/")
async def index(state: State) -> Response:
    """A status page."""
    now = state.now()
    facts: dict[str, object] = {"counts": None}
    try:
        facts["overdue"] = await state.database.read(read_overdue, now)
        facts["counts"] = await state.database.read(read_counts)
    except DatabaseError:
        pass  # the page says so
    text = pages.get_template("index.html").render(name=state.name, version=__version__, now=now, **facts)
    return HTMLResponse(text, status_code=200 if facts["counts"] is not None else 503)


async def _reasons(state: AppState) -> list[str]:
    now = state.now()
    try:
        async with asyncio.timeout(DATABASE_SECONDS):
            schema = await state.database.read(schema_state)
            if not schema.is_current:
                advice = f"this version needs {schema.head}: run `bridge migrate`"
                return [f"the database has schema {schema.current}, {advice}"]
            reasons = _lateness(await state.database.read(read_overdue, now), now)
    except DatabaseError as error:
        return [str(error)]
    except TimeoutError:
        return [f"database {state.database.name}: no response for {DATABASE_SECONDS} s"]
    unwritten = state.database.unwritten_seconds
    if unwritten > UNWRITTEN_SECONDS:
        reasons.append(f"database {state.database.name}: nothing could be written for {unwritten:.0f} s")
    return reasons


def _lateness(overdue: Overdue, now: datetime) -> list[str]:
    reasons = [f"source {name} is {condition}" for name, condition in sorted(overdue.unavailable_sources.items())]
    for work, since in (("polls", overdue.poll_due_since), ("deliveries", overdue.delivery_due_since)):
        if since is not None and now - since > LATE:
            late = (now - since).total_seconds()
            reasons.append(f"{work} are late: the longest waiting has been due for {late:.0f} s; is that role running?")
    return reasons

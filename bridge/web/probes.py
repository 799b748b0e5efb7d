"""Probes: alive and ready. They need no token and accept any host."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel

from bridge.admin.health import Overdue, read_overdue
from bridge.db.schema import schema_state
from bridge.errors import DatabaseError
from bridge.web.auth import OPEN
from bridge.web.routing import api_router
from bridge.web.state import AppState, State

LATE = timedelta(seconds=60)
"""A poll or delivery that is overdue by more than this makes the service not ready."""
UNWRITTEN_SECONDS = 8
"""So is a database that can be read and not be written to: perhaps a failover has made it read-only."""
DATABASE_SECONDS = 5

router = api_router("", dependencies=[OPEN], tags=["probes"])


class Readiness(BaseModel):
    """Whether the service is ready, and the reasons if not."""

    ready: bool
    reasons: list[str]


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> Response:
    """Alive: the process responds."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "Not ready."}})
async def readyz(state: State) -> Response:
    """Ready: the database responds, its schema is current, nothing is overdue. Otherwise 503 with the reasons."""
    reasons = await _reasons(state)
    return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)


async def _reasons(state: AppState) -> list[str]:
    now = state.runtime.now()
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

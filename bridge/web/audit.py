"""Tamper evidence over HTTP: the heads of all logs, and verifications in the background."""

from __future__ import annotations

import asyncio
from datetime import datetime

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from bridge.attendance.audit import read_heads
from bridge.attendance.verify import AuditProblem
from bridge.events.bodies import rfc3339
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.problems import ProblemError
from bridge.web.routing import api_router
from bridge.web.state import State

router = api_router(tags=["audit"])


class LogHead(BaseModel):
    """The newest hash of one log; `source` and `room_id` are null for the bridge's own."""

    source: str | None
    room_id: str | None
    sequence: int
    hash: str


class LogHeads(BaseModel):
    """The newest hash of every log, and one over all: keep it where the administrator of the database cannot write."""

    at: datetime
    merkle_root: str
    events: int
    rooms: list[LogHead]


class VerificationStart(BaseModel):
    """When the verification under way was started: its result has the same `at`."""

    at: datetime


class VerificationResult(BaseModel):
    """Number of logs and events, and what is wrong with them (docs/attendance.md lists the kinds of problems)."""

    at: datetime
    ok: bool
    rooms: int
    events: int
    pruned: int
    erased: int
    problems: list[AuditProblem]


@router.get("/audit/head", dependencies=[requires(Scope.READ)], response_model=LogHeads)
async def head(state: State) -> Response:
    """The newest hash of every log, by source and room."""
    found = await state.database.read(read_heads, state.runtime.now())
    return await asyncio.to_thread(lambda: JSONResponse(found.document))  # there may be 100,000 rooms


@router.get("/audit/verify", dependencies=[requires(Scope.READ)], response_model=VerificationResult)
async def show_verification(state: State) -> Response:
    """The result of the last verification that was asked for in this process; 404 before the first."""
    verification = state.verification
    if verification.last is None:
        reason = f" (the last one failed: {verification.failure})" if verification.failure else ""
        raise ProblemError(404, f"no verification has ended in this process{reason}: start one with POST")
    last = verification.last
    return await asyncio.to_thread(lambda: JSONResponse(last.document))


@router.post("/audit/verify", dependencies=[requires(Scope.WRITE)], response_model=VerificationStart, status_code=202)
async def start_verification(state: State) -> Response:
    """Start a verification of every chain in the background, unless one is under way."""
    started_at = state.verification.start(state.database, state.runtime.now())
    return JSONResponse({"at": rfc3339(started_at)}, 202)

"""Attendance over HTTP, and reconciliation on demand.

An export is written to a temporary file (in memory while it is small) before it is sent: a client that reads slowly
keeps no transaction open, and an error is a proper response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from enum import StrEnum
from io import TextIOWrapper
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, Final

from fastapi import Query
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from bridge.attendance.export import ExportFormat, export_attendance, export_items
from bridge.attendance.query import Selection
from bridge.attendance.reconcile import ReconcileTerms, find_ended, reconcile_sessions
from bridge.config.checks import parse_timezone
from bridge.config.moments import parse_window
from bridge.errors import ConflictError
from bridge.rules.access import Scope
from bridge.rules.attendance import Report, View
from bridge.rules.reconcile import Outcome
from bridge.web.attendance_rows import PersonRow, TotalRow, VisitRow
from bridge.web.auth import requires
from bridge.web.paging import Items
from bridge.web.params import InPeriod, RoomFilter
from bridge.web.problems import invalid
from bridge.web.routing import api_router
from bridge.web.state import AppState, State

router = api_router(tags=["sessions"])

IN_MEMORY: Final = 512 * 1024
"""Bytes of an export beyond which it goes to a file."""
CHUNK: Final = 64 * 1024


class Format(StrEnum):
    """Formats of a report."""

    JSON = "json"
    CSV = "csv"


class ReconciledSession(BaseModel):
    """The outcome (docs/attendance.md lists them), and whether any time has changed."""

    session_id: str
    source: str
    room_id: str
    outcome: Outcome
    changed: bool
    notes: list[str]


ViewName = Annotated[View, Query(alias="view", description="Rows: visits, people per session, or people in total.")]
FormatName = Annotated[Format, Query(alias="format", description="`csv` is a download.")]
Zone = Annotated[
    str | None, Query(description="Time zone of the times; default: `bridge.timezone`.", examples=["Europe/Berlin"])
]
Percent = Annotated[
    float | None,
    Query(ge=0, le=100, allow_inf_nan=False, description="Only presence of at least so many per cent; not of visits."),
]
Window = Annotated[
    str | None,
    Query(description="Count only what lies within START/END.", examples=["2026-11-23T09:00/2026-11-23T10:30"]),
]
PersonFilter = Annotated[str | None, Query(description="Only the person with this key.")]
_ROWS: Final[dict[str, Any]] = {
    "dependencies": [requires(Scope.READ)],
    "response_model": Items[PersonRow] | Items[VisitRow] | Items[TotalRow],
    "responses": {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
}


@router.get("/sessions/{session_id}/attendance", **_ROWS)
async def show_of_session(
    state: State, session_id: str, view: ViewName = View.PERSON, form: FormatName = Format.JSON, tz: Zone = None
) -> Response:
    """Attendance of one session: every row."""
    report = await _report(state, view, tz)
    return await _response(state, Selection(session=session_id), view, report, form, f"attendance-{session_id}.csv")


@router.get("/attendance", **_ROWS)
async def show(
    state: State,
    period: InPeriod,
    room: RoomFilter = None,
    person: PersonFilter = None,
    view: ViewName = View.PERSON,
    form: FormatName = Format.JSON,
    tz: Zone = None,
    min_percent: Percent = None,
    window: Window = None,
) -> Response:
    """Attendance of all sessions that overlap [since, until): every row, on one page."""
    report = await _report(state, view, tz, min_percent, window)
    selection = Selection(room=room, person=person, since=period.since, until=period.until)
    return await _response(state, selection, view, report, form, "attendance.csv")


@router.post("/sessions/{session_id}/reconcile", dependencies=[requires(Scope.WRITE)], response_model=ReconciledSession)
async def reconcile(state: State, session_id: str) -> Response:
    """Ask the source for its own record of an ended session now, and correct its times."""
    ended = await state.database.read(find_ended, Selection(session=session_id))
    if not ended:
        raise ConflictError(f"session {session_id!r} is under way: its record is whole after it has ended")
    settings = state.settings()
    terms = ReconcileTerms(after=settings.attendance.reconcile_after, identity=settings.polling.policy.identity)
    (done,) = await reconcile_sessions(state.database, settings.sources, ended, state.runtime, terms)
    is_configured = any(account.name == done.session.source for account in settings.sources)
    if done.outcome is Outcome.NO_RECORD or not is_configured:
        raise ConflictError(f"session {session_id!r} has no record: {', '.join(done.notes)}")
    return JSONResponse(done.facts)


async def _report(
    state: AppState, view: View, tz: str | None, min_percent: float | None = None, window: str | None = None
) -> Report:
    zone = state.settings().bridge.timezone
    if tz is not None:
        try:
            zone = await asyncio.to_thread(parse_timezone, tz)
        except ValueError as problem:
            raise invalid(str(problem), "query", "tz") from None
    if min_percent is not None and view is View.VISIT:
        raise invalid("is about people: leave it out, or use view=person or view=total", "query", "min_percent")
    times = None
    if window is not None:
        try:
            times = parse_window(window, now=state.runtime.now(), zone=zone)
        except ValueError as problem:
            raise invalid(str(problem), "query", "window") from None
    return Report(zone=zone, window=times, min_percent=min_percent)


async def _response(
    state: AppState, selection: Selection, view: View, report: Report, form: Format, name: str
) -> Response:
    file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - the response closes it
    text = TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
    merge_gap = state.settings().attendance.merge_gap
    try:
        if form is Format.CSV:
            await state.database.read_long(
                export_attendance, selection, view, report, text, form=ExportFormat.CSV, merge_gap=merge_gap
            )
        else:
            await state.database.read_long(export_items, selection, view, report, text, merge_gap=merge_gap)
        text.detach()
        size = file.tell()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    headers = {"Content-Length": str(size)}
    if form is Format.JSON:
        return StreamingResponse(_chunks(file), media_type="application/json", headers=headers)
    headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return StreamingResponse(_chunks(file), media_type="text/csv; charset=utf-8; header=present", headers=headers)


def _chunks(file: SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield chunk

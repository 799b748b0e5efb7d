"""The page of a session: its timeline, and the attendance of each person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from fastapi.responses import Response
from sqlalchemy import Connection

from bridge.admin.sessions import ListedSession, show_session
from bridge.attendance.query import Selection, for_each_session
from bridge.rules.access import Scope
from bridge.rules.attendance import AttendedSession, AttendedVisit, Report, person_rows
from bridge.web.auth import requires
from bridge.web.pages.timeline import draw_timeline
from bridge.web.pages.view import PageView
from bridge.web.routing import api_router

router = api_router("", dependencies=[requires(Scope.READ)], include_in_schema=False)

Attended = tuple[AttendedSession, Sequence[AttendedVisit]]


@router.get("/sessions/{session_id}")
async def show(view: PageView, session_id: str) -> Response:
    """Timeline and attendance of a session."""
    report = Report(zone=view.state.settings().bridge.timezone)
    listed, (session, visits) = await view.state.database.read(_read, session_id, report)
    return view.page(
        "session.html",
        "Sessions",
        session=session,
        source=listed.source,
        outcome=listed.record_outcome,
        people=list(person_rows(session, visits, report)),
        timeline=draw_timeline(session, visits, report.zone),
        clock=_clock,
    )


def _read(connection: Connection, session_id: str, report: Report) -> tuple[ListedSession, Attended]:
    listed = show_session(connection, session_id)
    found: list[Attended] = []
    selection = Selection(session=session_id)
    for_each_session(connection, selection, report, timedelta(0), lambda *attended: found.append(attended))
    return listed, found[0]


def _clock(moment: str | None) -> str:
    """Return the local time of a cell of the attendance table."""
    return "" if moment is None else f"{datetime.fromisoformat(moment):%H:%M:%S}"

"""The page of a session: its timeline, and the attendance of each person."""

from __future__ import annotations

from datetime import datetime

from fastapi.responses import Response

from bridge.admin.sessions import show_session
from bridge.attendance.query import read_session
from bridge.rules.access import Scope
from bridge.rules.attendance import Report, person_rows
from bridge.web.auth import requires
from bridge.web.pages.timeline import draw_timeline
from bridge.web.pages.view import PageView
from bridge.web.routing import api_router

router = api_router("", dependencies=[requires(Scope.READ)], include_in_schema=False)


@router.get("/sessions/{session_id}")
async def show(view: PageView, session_id: str) -> Response:
    """Timeline and attendance of a session."""
    report = Report(zone=view.state.settings().bridge.timezone)
    listed = await view.state.database.read(show_session, session_id)
    session, visits = await view.state.database.read(read_session, session_id, report)
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


def _clock(moment: str | None) -> str:
    """Return the local time of a cell of the attendance table."""
    return "" if moment is None else f"{datetime.fromisoformat(moment):%H:%M:%S}"

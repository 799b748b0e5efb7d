"""Attendance on a terminal: a table per session, with a bar for the presence of each person over the session."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from rich.cells import cell_len

from bridge.attendance.query import Selection, for_each_session, list_attendance
from bridge.cli.output import Column, fit, print_message, print_table, terminal_width
from bridge.cli.screen import Screen
from bridge.config.words import printable
from bridge.db.engine import Database
from bridge.rules.attendance import (
    COLUMNS,
    AttendedSession,
    AttendedVisit,
    Report,
    Row,
    Span,
    View,
    person_rows,
    union,
)

PRESENT, UNCERTAIN, ABSENT = "█", "░", "·"
NAME_COLUMNS = 24
LEAST_BAR = 10
EMPTY = "there is no such session"


def print_attendance(
    database: Database, selection: Selection, view: View, report: Report, merge_gap: timedelta
) -> None:
    """Print the sessions of view `person`, else one plain table.

    Raises:
        NotFoundError: there is no such room or session.
    """
    if view is not View.PERSON:
        columns = [Column(title=name.upper(), right=name.endswith("_seconds")) for name in COLUMNS[view]]
        rows = database.read_now(list_attendance, selection, view, report, merge_gap=merge_gap)
        print_table(columns, [[row[name] for name in COLUMNS[view]] for row in rows], empty=EMPTY)
        return
    table = _Table(report)
    database.read_once(for_each_session, selection, report, merge_gap, table.show)
    if table.is_empty:
        print_message(EMPTY)


class _Table:
    """The tables of one listing."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._screen = Screen()
        self.is_empty = True

    def show(self, session: AttendedSession, visits: Sequence[AttendedVisit]) -> None:
        rows = list(person_rows(session, visits, self._report))
        if not rows:
            return
        if not self.is_empty:
            self._screen.show("")
        self.is_empty = False
        self._show_session(session)
        theirs: dict[str, list[AttendedVisit]] = defaultdict(list)
        for visit in visits:
            theirs[visit.person_key].append(visit)
        names = min(NAME_COLUMNS, max(cell_len(printable(row["display_name"])) for row in rows))
        hours = max(len(row["total_hms"]) for row in rows)
        brackets = {row["person_key"]: _bracket(row) for row in rows}
        width = terminal_width() - names - hours - max(map(len, brackets.values())) - len("    100.0%    ")
        whole = self._report.window_span or session.span
        for row in rows:
            present = bar(theirs[row["person_key"]], whole, max(LEAST_BAR, width))
            figures = f"  {row['total_hms']:>{hours}}  {row['percent_of_session']:5.1f}%  "
            name = fit(row["display_name"], names)
            self._screen.show(name, figures, (present, "green"), f"  {brackets[row['person_key']]}")

    def _show_session(self, session: AttendedSession) -> None:
        zone = self._report.zone
        name = session.room_id if session.room_name is None else f"{session.room_name} ({session.room_id})"
        end = "now" if session.ended_at is None else f"{session.ended_at.astimezone(zone):%Y-%m-%d %H:%M:%S}"
        period = f"{session.started_at.astimezone(zone):%Y-%m-%d %H:%M:%S} to {end} {zone.key}"
        self._screen.show((printable(name), "bold"), f"  {period}  {session.session_id}")


def _bracket(row: Row) -> str:
    seconds = row["uncertainty_seconds"]
    return f"±{seconds:.0f}s" if seconds >= 1 else f"±{seconds:.3f}s" if seconds else ""


def bar(visits: Sequence[AttendedVisit], whole: Span, width: int) -> str:
    """Presence over a span of time: full where it is certain, light where it may have been, dots where it was not."""
    widest = union(visit.widest for visit in visits)
    narrowest = union(visit.narrowest for visit in visits)
    start, end = whole
    cells = []
    for index in range(width):
        cell = start + (end - start) * index // width, start + (end - start) * (index + 1) // width
        half = (cell[1] - cell[0]) / 2
        if _overlap(narrowest, cell) >= half:
            cells.append(PRESENT)
        else:
            cells.append(UNCERTAIN if _overlap(widest, cell) > 0 else ABSENT)
    return "".join(cells)


def _overlap(spans: Sequence[Span], cell: Span) -> int:
    return sum(max(0, min(end, cell[1]) - max(start, cell[0])) for start, end in spans)

"""`bridge attendance show` and `export`: presence in sessions, with its uncertainty."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, TextIO

import typer

from bridge.attendance.export import ExportFormat, export_attendance
from bridge.attendance.query import Selection, count_visits
from bridge.cli.database import open_database
from bridge.cli.inputs import choose, parse_percent, parse_period, parse_window, parse_zone
from bridge.cli.options import ConfigOption, JsonOption, RoomFilter, SessionFilter, SinceFilter, UntilFilter
from bridge.cli.progress import progress_bar
from bridge.cli.settings import load_settings
from bridge.config import Settings
from bridge.errors import UsageError
from bridge.rules.attendance import Report, View
from bridge.runtime import system_runtime

PersonFilter = Annotated[str | None, typer.Option("--person", metavar="KEY", help="Only this person.")]
ViewOption = Annotated[str, typer.Option("--view", metavar="VIEW", help="visit, person (per session) or total.")]
ZoneOption = Annotated[str | None, typer.Option("--tz", metavar="ZONE", help="Time zone; default: bridge.timezone.")]
PercentOption = Annotated[
    str | None, typer.Option("--min-percent", metavar="N", help="Only presence of at least N per cent.")
]
WindowOption = Annotated[
    str | None, typer.Option("--window", metavar="START/END", help="Count only what lies within these times.")
]
RosterOption = Annotated[
    Path | None, typer.Option("--roster", metavar="FILE", help="People who are expected: one key a line, or CSV.")
]
FormatOption = Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="csv, json or jsonl.")]
BomOption = Annotated[bool, typer.Option("--bom", help="Begin with a byte order mark, for Excel.")]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write to this file.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of a report, checked."""

    selection: Selection
    view: View
    report: Report
    merge_gap: timedelta


def show(
    room: RoomFilter = None,
    session: SessionFilter = None,
    person: PersonFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    view: ViewOption = View.PERSON.value,
    form: FormatOption = None,
    tz: ZoneOption = None,
    min_percent: PercentOption = None,
    window: WindowOption = None,
    roster: RosterOption = None,
    bom: BomOption = False,
    out: OutOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show a table per session, with a bar for each person's presence; lighter ends are uncertain."""
    settings = load_settings(config)
    request = _request(settings, room, session, person, since, until, view, tz, min_percent, window, roster)
    if form is None and not as_json and out is None:
        from bridge.cli.attendance_table import print_attendance  # noqa: PLC0415 - it loads Rich

        with open_database(settings) as database:
            print_attendance(database, request.selection, request.view, request.report, request.merge_gap)
        return
    _export(settings, request, _format(form, ExportFormat.JSON if as_json else ExportFormat.CSV), out, bom=bom)


def export(
    room: RoomFilter = None,
    session: SessionFilter = None,
    person: PersonFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    view: ViewOption = View.PERSON.value,
    form: FormatOption = None,
    tz: ZoneOption = None,
    min_percent: PercentOption = None,
    window: WindowOption = None,
    roster: RosterOption = None,
    bom: BomOption = False,
    out: OutOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write the rows of a view as CSV, JSON or JSON lines."""
    settings = load_settings(config)
    request = _request(settings, room, session, person, since, until, view, tz, min_percent, window, roster)
    _export(settings, request, _format(form, ExportFormat.JSON if as_json else ExportFormat.CSV), out, bom=bom)


def _format(text: str | None, default: ExportFormat) -> ExportFormat:
    return default if text is None else choose("--format", text, ExportFormat)


def _request(
    settings: Settings,
    room: str | None,
    session: str | None,
    person: str | None,
    since: str | None,
    until: str | None,
    view: str,
    tz: str | None,
    min_percent: str | None,
    window: str | None,
    roster: Path | None,
) -> Request:
    zone = settings.bridge.timezone if tz is None else parse_zone(tz)
    now, chosen = system_runtime().now(), choose("--view", view, View)
    for option, value in (("--min-percent", min_percent), ("--roster", roster)):
        if value is not None and chosen is View.VISIT:
            raise UsageError(f"{option} is about people, not visits: leave it out, or use --view person or total")
    period = parse_period(since, until, now=now, zone=zone)
    return Request(
        selection=Selection(room=room, session=session, person=person, since=period.since, until=period.until),
        view=chosen,
        report=Report(
            zone=zone,
            window=None if window is None else parse_window(window, now=now, zone=zone),
            min_percent=None if min_percent is None else parse_percent("--min-percent", min_percent),
            roster=None if roster is None else _read_roster(roster, person),
        ),
        merge_gap=settings.attendance.merge_gap,
    )


def _read_roster(path: Path, person: str | None) -> dict[str, str | None]:
    """Return the name of each key, or only that of one person.

    A header row that has `person_key` names the columns, else the key is the first.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(map(str.strip, row))]
    except (OSError, UnicodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UsageError(f"--roster {path}: {reason}") from None
    key, name = 0, 1
    if rows and "person_key" in rows[0]:
        header = rows.pop(0)
        key = header.index("person_key")
        name = header.index("display_name") if "display_name" in header else len(header)
    listed = {row[key]: row[name] if len(row) > name and row[name] else None for row in rows if len(row) > key}
    return {key: name for key, name in listed.items() if person in (None, key)}


def _export(settings: Settings, request: Request, form: ExportFormat, out: Path | None, *, bom: bool) -> None:
    with open_database(settings) as database:
        total = database.read_now(count_visits, request.selection, request.report)
        with _output(out) as file, progress_bar("visits", total) as advance:
            database.read_once(
                export_attendance,
                request.selection,
                request.view,
                request.report,
                file,
                form=form,
                bom=bom,
                merge_gap=request.merge_gap,
                on_visits=advance,
            )


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Open the file, or standard output, for UTF-8 with line ends as they are written."""
    if path is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="")
        yield sys.stdout
        return
    try:
        with path.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
            yield file
    except OSError as error:
        if error.filename != str(path):
            raise
        raise UsageError(f"--out {path}: {error.strerror}") from None

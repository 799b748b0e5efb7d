"""Rows of attendance as CSV (RFC 4180), JSON or JSON lines, written one by one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Final, TextIO

from sqlalchemy import Connection

from bridge.attendance.query import Selection, attendance_rows
from bridge.rules.attendance import COLUMNS, Report, Row, View

BOM: Final = "\ufeff"
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a text that a spreadsheet would take for a formula."""


class ExportFormat(StrEnum):
    """Formats of an export."""

    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"


def export_attendance(
    connection: Connection,
    selection: Selection,
    view: View,
    report: Report,
    file: TextIO,
    *,
    form: ExportFormat,
    bom: bool = False,
    merge_gap: timedelta,
    on_visits: Callable[[int], object] = lambda _: None,
) -> None:
    """Write a view to a file that was opened with `newline=""`; `on_visits` gets the number of visits done.

    Raises:
        NotFoundError: there is no such room or session.
    """
    rows = attendance_rows(connection, selection, view, report, merge_gap=merge_gap, on_visits=on_visits)
    write_rows(rows, COLUMNS[view], form, file, bom=bom)


def export_items(
    connection: Connection, selection: Selection, view: View, report: Report, file: TextIO, *, merge_gap: timedelta
) -> None:
    """Write a view as the HTTP API has its lists: one page with every row.

    Raises:
        NotFoundError: there is no such room or session.
    """
    file.write('{"items": ')
    export_attendance(connection, selection, view, report, file, form=ExportFormat.JSON, merge_gap=merge_gap)
    file.write(', "next": null}\n')


def write_rows(
    rows: Iterable[Row], columns: Sequence[str], form: ExportFormat, file: TextIO, *, bom: bool = False
) -> None:
    """Write rows to a file that was opened with `newline=""`."""
    if bom:
        file.write(BOM)
    match form:
        case ExportFormat.CSV:
            writer = csv.writer(file, lineterminator="\r\n")
            writer.writerow(columns)
            for row in rows:
                writer.writerow([csv_cell(row[column]) for column in columns])
        case ExportFormat.JSON:
            file.write("[")
            for index, row in enumerate(rows):
                file.write((",\n" if index else "\n") + json.dumps(row, ensure_ascii=False))
            file.write("\n]\n")
        case ExportFormat.JSONL:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def csv_cell(value: object) -> object:
    """A cell: null is empty, booleans are words, and a text that looks like a formula is inert."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str() if value.startswith(FORMULA):
            return f"'{value}"
        case _:
            return value

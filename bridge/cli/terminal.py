"""How commands speak: data to stdout (a table for people, one JSON document for programs), talk to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]


def complain(message: str) -> None:
    """Say what went wrong."""
    for line in message.splitlines():
        sys.stderr.write(f"bridge: {line}\n")


def say(message: str) -> None:
    """Tell the person at the terminal something that is not data."""
    sys.stderr.write(f"{message}\n")


def print_json(document: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")


def print_rows(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print a listing: every key as JSON, or the named columns as a table; `empty` is said if there is nothing."""
    if as_json:
        print_json([dict(row) for row in rows])
        return
    if not rows:
        say(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    console = Console(file=sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # a file has no width: do not fold what a program may read line by line
    console.print(table)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return " ".join(map(str, value))
        case _:
            return str(value)

"""How commands speak: data to stdout (a table for people, one JSON document for programs), talk to stderr.

Names and metadata come from strangers: whatever could steer a terminal is escaped before it gets there.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any

from rich.console import Console
from rich.table import Table

from bridge.config.words import printable

Row = Mapping[str, Any]

WIDE = 120
"""From how many columns a terminal is wide enough for everything."""
_NO_WIDTH = 10_000
"""A file has no width: do not fold what a program may read line by line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column that is left out on a narrow terminal if `wide`."""

    title: str
    wide: bool = False
    right: bool = False


def complain(message: str) -> None:
    """Say what went wrong."""
    with contextlib.suppress(OSError, ValueError):  # nobody listens
        for line in message.splitlines():
            sys.stderr.write(f"bridge: {printable(line)}\n")


def say(message: str) -> None:
    """Tell the person at the terminal something that is not data."""
    with contextlib.suppress(OSError, ValueError):
        for line in message.splitlines():
            sys.stderr.write(f"{printable(line)}\n")


def print_line(text: str) -> None:
    """Print one line of data, at once: somebody may be waiting for it."""
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def print_json(document: object, *, compact: bool = False) -> None:
    """Print one JSON document; `compact` in one line, and at once."""
    if compact:
        sys.stdout.write(json.dumps(document, separators=(",", ":"), ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")


def print_rows(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print a listing: every key as JSON, or the named columns as a table; `empty` is said if there is nothing."""
    if as_json:
        print_json([dict(row) for row in rows])
        return
    print_table(
        [Column(title=column.replace("_", " ")) for column in columns],
        [[row[column] for column in columns] for row in rows],
        empty=empty,
    )


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table for people; `empty` is said if there is no row."""
    rows = list(rows)
    if not rows:
        say(empty)
        return
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _NO_WIDTH
    shown = [place for place, column in enumerate(columns) if not column.wide or console.width >= WIDE]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place in shown:
        table.add_column(columns[place].title, overflow="fold", justify="right" if columns[place].right else "left")
    for row in rows:
        table.add_row(*(_cell(row[place]) for place in shown))
    console.print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print what is known of one thing, a line for each fact."""
    width = max(map(len, facts))
    for name, value in facts.items():
        sys.stdout.write(f"{name:<{width}}  {_cell(value)}\n")


def short_time(moment: datetime | None, now: datetime, zone: tzinfo) -> str | None:
    """When it was, as short as it is clear from here: the time of today, else the day."""
    if moment is None:
        return None
    then, today = moment.astimezone(zone), now.astimezone(zone)
    if then.date() == today.date():
        return f"{then:%H:%M:%S}"
    return f"{then:%m-%d %H:%M}" if then.year == today.year else f"{then:%Y-%m-%d}"


def full_time(moment: datetime | None, zone: tzinfo) -> str | None:
    """When it was, with its time zone."""
    return None if moment is None else moment.astimezone(zone).isoformat(" ", timespec="seconds")


def from_now(moment: datetime | None, now: datetime) -> str | None:
    """How far away a moment is: `12s ago`, `just now`, `in 7s`."""
    if moment is None:
        return None
    distance = moment - now
    if abs(distance) < timedelta(seconds=1):
        return "just now" if distance <= timedelta() else "now"
    return f"in {span(distance)}" if distance > timedelta() else f"{span(-distance)} ago"


def span(length: timedelta) -> str:
    """A span in its two largest units: `850ms`, `12s`, `3m 5s`, `2h 10m`, `5d 3h`."""
    if length < timedelta(seconds=1):
        return f"{length / timedelta(milliseconds=1):.0f}ms"
    seconds = int(length.total_seconds())
    parts = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    largest = next(place for place, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count}{unit}" for count, unit in parts[largest : largest + 2] if count)


def count_of(assign_sequences: int, what: str) -> str:
    """`1 event`, `2 events`."""
    return f"{assign_sequences} {what}" if assign_sequences == 1 else f"{assign_sequences} {what}s"


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return printable(" ".join(map(str, value)))
        case _:
            return printable(str(value))

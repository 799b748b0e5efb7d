"""Output of the commands: data to stdout (text for people, JSON for programs), everything else to stderr.

Names and metadata are untrusted: characters that could control a terminal are escaped before they are written. Widths
are counted in columns, not characters, because names may be in any script; Rich, which knows how, is imported for
those that are not ASCII.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from bridge.config.words import printable
from bridge.events.wording import span

WIDE = 120
"""The number of columns from which a terminal shows every column of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table; a `wide` one is left out on a narrow terminal."""

    title: str
    wide: bool = False
    right: bool = False


def print_error(message: str) -> None:
    """Write an error message to stderr."""
    print_message("\n".join(f"bridge: {line}" for line in message.splitlines()))


def print_message(message: str) -> None:
    """Write a message, which is not data, to stderr; a closed stderr is ignored."""
    with contextlib.suppress(OSError, ValueError):
        for line in message.splitlines():
            sys.stderr.write(f"{printable(line)}\n")


def print_line(text: str) -> None:
    """Print one line of data and flush it."""
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def print_json(document: object, *, compact: bool = False) -> None:
    """Print one JSON document; a `compact` one is a single line, flushed."""
    if compact:
        sys.stdout.write(json.dumps(document, separators=(",", ":"), ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")


def print_json_array(documents: Iterable[object]) -> None:
    """Print one JSON document, an array, item by item."""
    separator = "[\n"
    for document in documents:
        text = json.dumps(document, indent=2, ensure_ascii=False, default=str)
        sys.stdout.write(separator + textwrap.indent(text, "  "))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table; if there is no row, write `empty` to stderr."""
    rows, has_room = list(rows), is_wide()
    if not rows:
        print_message(empty)
        return
    shown = []
    for index, column in enumerate(columns):
        if has_room or not column.wide:
            cells = [column.title, *(_cell(row[index]) for row in rows)]
            width = max(map(_cell_len, cells))
            shown.append([_filled(cell, width, right=column.right) for cell in cells])
    for line in zip(*shown, strict=True):
        sys.stdout.write("  ".join(line).rstrip() + "\n")


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one pair a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        sys.stdout.write(f"{name:<{width}}  {_cell(value)}\n")


def is_wide() -> bool:
    """Whether there is room for everything: on a wide terminal, or where the output is no terminal."""
    return not sys.stdout.isatty() or terminal_width() >= WIDE


def terminal_width() -> int:
    """The number of columns of the terminal, or of a usual one where the output is none."""
    return shutil.get_terminal_size().columns


def fit(text: str, width: int) -> str:
    """Return the text cut or filled to `width` columns, escaped."""
    from rich.cells import set_cell_size  # noqa: PLC0415 - see the head of this file

    safe = printable(text)
    if _cell_len(safe) > width:
        safe = set_cell_size(safe, width - 1) + "…"
    return set_cell_size(safe, width)


def short_time(moment: datetime | None, now: datetime, zone: tzinfo) -> str | None:
    """Return the time of today, else the day."""
    if moment is None:
        return None
    then, today = moment.astimezone(zone), now.astimezone(zone)
    if then.date() == today.date():
        return f"{then:%H:%M:%S}"
    return f"{then:%m-%d %H:%M}" if then.year == today.year else f"{then:%Y-%m-%d}"


def full_time(moment: datetime | None, zone: tzinfo) -> str | None:
    """Return date, time and offset."""
    return None if moment is None else moment.astimezone(zone).isoformat(" ", timespec="seconds")


def from_now(moment: datetime | None, now: datetime) -> str | None:
    """Return a time relative to now: `12s ago`, `just now`, `in 7s`."""
    if moment is None:
        return None
    distance = moment - now
    if abs(distance) < timedelta(seconds=1):
        return "just now" if distance <= timedelta() else "now"
    return f"in {span(distance)}" if distance > timedelta() else f"{span(-distance)} ago"


def _filled(cell: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - _cell_len(cell))
    return blanks + cell if right else cell + blanks


def _cell_len(text: str) -> int:
    """The number of columns that the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - see the head of this file

    return cell_len(text)


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

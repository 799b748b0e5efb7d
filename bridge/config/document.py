"""What the operator wrote, before it is judged: file, environment and flags laid over each other, and who said what.

Precedence is CONTRACT section 3: flag > environment > file > default. Tables merge key by key, everything else
replaces. Every problem is made here, because only here is known where a value came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bridge.config.lines import KeyPath, lines_of
from bridge.config.words import quoted
from bridge.errors import Problem

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_FILE = "_file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a value came from that is not in the file; `layer` orders, `name` is for the reader."""

    layer: int
    name: str


def dotted(path: KeyPath) -> str:
    """A path as messages write it: `endpoints[1].url`; odd keys are quoted, so that none can fool a terminal."""
    written = ""
    for part in path:
        if isinstance(part, int):
            written += f"[{part}]"
        else:
            written += f"{'.' if written else ''}{part if _BARE.fullmatch(part) else quoted(part)}"
    return written


class Document:
    """A tree of tables, arrays and values, each with its origin."""

    def __init__(self, *, name: str, tree: dict[str, Any], text: str = "") -> None:
        self.name = name
        self.tree = tree
        self._text = text
        self._origins: dict[KeyPath, Origin] = {}
        self._spellings: dict[KeyPath, KeyPath] = {}

    def get(self, path: KeyPath) -> Any:  # noqa: ANN401 - nothing is known of the tree until pydantic has seen it
        """What stands at a path, or None."""
        node: Any = self.tree
        for part in path:
            node = _step(node, part)
        return node

    def put(self, path: KeyPath, value: object, origin: Origin) -> None:
        """Lay a value over what is there; a file with something else where a table must be keeps its mistake."""
        if isinstance(value, dict) and isinstance(self.get(path), dict):
            for key, item in value.items():
                self.put((*path, key), item, origin)
            return
        holder = self._holder(path, origin)
        if _attach(holder, path[-1], value):
            for stale in [known for known in self._origins if known[: len(path)] == path]:
                del self._origins[stale]
            self._origins[path] = origin
            self._supersede(holder, path, origin)

    def spelled(self, path: KeyPath, written: KeyPath) -> None:
        """Remember that what stands at a path was given by another key: `x` as `x_file`."""
        self._spellings[path] = written

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Something wrong at a path, with the line in the file or the name of the variable."""
        path = self._spellings.get(path, path)
        if (origin := self._origin(path)) is not None:
            return Problem(key=dotted(path), message=f"{message} ({origin.name})")
        return Problem(key=dotted(path), message=message, line=self.line(path))

    def line(self, path: KeyPath) -> int | None:
        """The line in the file of a path, or of the nearest table around it; None for what is not in the file."""
        if self._origin(path) is not None:
            return None
        return next((self._lines[above] for above in _upwards(path) if above in self._lines), None)

    @cached_property
    def _lines(self) -> dict[KeyPath, int]:
        return lines_of(self._text)

    def _origin(self, path: KeyPath) -> Origin | None:
        return next((self._origins[above] for above in _upwards(path) if above in self._origins), None)

    def _holder(self, path: KeyPath, origin: Origin) -> Any:  # noqa: ANN401 - as in get
        """The table or array that holds the path's last part; made where there was none."""
        node: Any = self.tree
        for depth, part in enumerate(path[:-1], start=1):
            below = _step(node, part)
            if below is None:
                below = [] if isinstance(path[depth], int) else {}
                if not _attach(node, part, below):
                    return None
                self._origins[path[:depth]] = origin
            node = below
        return node

    def _supersede(self, holder: Any, path: KeyPath, origin: Origin) -> None:  # noqa: ANN401 - as in get
        """`x` and `x_file` are one setting: the flag's or the environment's spelling takes the place of the other."""
        key = path[-1]
        if not isinstance(key, str):
            return
        other = key.removesuffix(_FILE) if key.endswith(_FILE) else key + _FILE
        if other in holder:
            given_by = self._origin((*path[:-1], other))
            if given_by is None or given_by.layer < origin.layer:
                del holder[other]


def _step(node: Any, part: str | int) -> Any:  # noqa: ANN401 - as in get
    match node, part:
        case dict(), str():
            return node.get(part)
        case list(), int() if 0 <= part < len(node):
            return node[part]
        case _:
            return None


def _attach(holder: Any, part: str | int, value: object) -> bool:  # noqa: ANN401 - as in get
    match holder, part:
        case dict(), str():
            holder[part] = value
        case list(), int() if 0 <= part <= len(holder):
            holder[part : part + 1] = [value]
        case _:
            return False
    return True


def _upwards(path: KeyPath) -> Iterator[KeyPath]:
    return (path[:length] for length in range(len(path), 0, -1))

"""File, environment and flags laid over each other, and the line, variable or flag that each value came from.

Precedence: flag > environment > file > default. Tables merge key by key, everything else
replaces. `x` and `x_file` are one setting: either replaces the other of a lower layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from bridge.config.lines import KeyPath, lines_of
from bridge.config.words import quoted
from bridge.errors import Problem

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A value from outside the file; `origin` names the variable or flag."""

    path: KeyPath
    value: object
    origin: str

    def sets(self, path: KeyPath) -> bool:
        """Return whether the value at a path is given here: lists and values replace all below, tables merge."""
        depth = len(self.path)
        if path[:depth] != self.path:
            return False
        node = self.value
        for part in path[depth:]:
            if not isinstance(node, dict):
                return True
            if part not in node:
                return False
            node = node[part]
        return True


class Layers:
    """The merged tree; later assignments win over earlier ones and over the file."""

    def __init__(self, tree: dict[str, Any], text: str = "") -> None:
        self.tree = tree
        self._text = text
        self._assignments: list[Assignment] = []

    def assign(self, path: KeyPath, value: object, origin: str) -> None:
        """Lay a value over the tree; an index in the path may be at most the length of its list."""
        self.tree = _overlay(self.tree, path, value)
        self._assignments.append(Assignment(path=path, value=value, origin=origin))

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Return a mistake at a path, with its line in the file or the name of its variable or flag."""
        path, origin = self._locate(path)
        if isinstance(origin, str):
            return Problem(key=dotted(path), message=f"{message} ({origin})")
        return Problem(key=dotted(path), message=message, line=origin)

    def reference(self, path: KeyPath) -> str:
        """Return a path as the message about another one writes it, with its line if it is in the file."""
        path, origin = self._locate(path)
        return f"{dotted(path)} in line {origin}" if isinstance(origin, int) else dotted(path)

    @cached_property
    def _lines(self) -> dict[KeyPath, int]:
        return lines_of(self._text)

    def _locate(self, path: KeyPath) -> tuple[KeyPath, int | str | None]:
        """Return the path as it was written (`x` or `x_file`) with its line or origin.

        A key that is missing has the origin of the nearest table around it.
        """
        for find in (self._assigned, self._lines.get):
            for spelling in (path, (*path[:-1], f"{path[-1]}_file")):
                if (origin := find(spelling)) is not None:
                    return spelling, origin
        for depth in range(len(path), 0, -1):
            above = path[:depth]
            if (around := self._assigned(above) or self._lines.get(above) or self._assigned_below(above)) is not None:
                return path, around
        return path, None

    def _assigned(self, path: KeyPath) -> str | None:
        return next((given.origin for given in reversed(self._assignments) if given.sets(path)), None)

    def _assigned_below(self, path: KeyPath) -> str | None:
        return next((given.origin for given in self._assignments if given.path[: len(path)] == path), None)


def assign_flags(layers: Layers, flags: Mapping[str, object]) -> None:
    """Lay values given by flags, by dotted key, over the tree; None means that a flag was not given."""
    for key, value in flags.items():
        if value is not None:
            layers.assign(tuple(key.split(".")), value, "given on the command line")


def dotted(path: KeyPath) -> str:
    """Return a path as messages write it: `endpoints[1].url`; unusual keys are quoted and escaped."""
    written = ""
    for part in path:
        if isinstance(part, int):
            written += f"[{part}]"
        else:
            written += f"{'.' if written else ''}{part if _BARE.fullmatch(part) else quoted(part)}"
    return written


def other_spelling(key: str | int) -> str:
    """Return the other key of the same setting: `x_file` for `x`, `x` for `x_file`."""
    name = str(key)
    return name.removesuffix("_file") if name.endswith("_file") else f"{name}_file"


def _overlay(node: Any, path: KeyPath, value: object) -> Any:  # noqa: ANN401 - the tree is not validated yet
    """Return the node with a value laid over what is at the path; the node itself does not change."""
    if path and isinstance(index := path[0], int):
        items = list(node) if isinstance(node, list) else []
        items[index : index + 1] = [_overlay(items[index] if index < len(items) else None, path[1:], value)]
        return items
    if path:
        table = node if isinstance(node, dict) else {}
        return _overlay(table, (), {path[0]: _overlay(table.get(path[0]), path[1:], value)})
    if not isinstance(node, dict) or not isinstance(value, dict):
        return value
    kept = {key: item for key, item in node.items() if key in value or other_spelling(key) not in value}
    return kept | {key: _overlay(node.get(key), (), item) for key, item in value.items()}

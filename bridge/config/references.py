"""Secrets that stand elsewhere (CONTRACT section 3): `x_file` names a file, `"env:NAME"` a variable.

They are put in place before the models see the tree, so that a secret is checked the same wherever it stood.
No secret is ever part of a message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from bridge.config.document import Document
from bridge.config.lines import KeyPath
from bridge.config.schema import ROOT, Leaf, Listed, Named, Node, Table, keys_of
from bridge.config.words import quoted
from bridge.errors import Problem

_REFERENCE: Final = "env:"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _UnresolvedError(Exception):
    """A secret that cannot be had; `path` is the key to blame."""

    def __init__(self, path: KeyPath, message: str) -> None:
        self.path = path
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a secret stands, or may stand: the last part of the path is its key in the table."""

    table: dict[Any, Any]
    path: KeyPath
    may_be_file: bool


def resolve_secrets(document: Document, env: Mapping[str, str]) -> tuple[list[Problem], set[KeyPath]]:
    """Put every secret's value in its place.

    Returns:
        What could not be found, and the places that are empty for that reason: their emptiness is no second problem.
    """
    problems: list[Problem] = []
    emptied: set[KeyPath] = set()
    for place in _places(ROOT, document.tree, ()):
        try:
            _resolve(document, place, env)
        except _UnresolvedError as error:
            problems.append(document.problem(error.path, str(error)))
            emptied.add(place.path)
            place.table.pop(place.path[-1], None)
    return problems, emptied


def read_secret_file(name: str) -> str:
    """The text of a file without its trailing newline.

    Raises:
        ValueError: the file cannot be read; with a sentence for the operator.
    """
    try:
        text = Path(name).read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"the file {quoted(name)} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise ValueError(f"cannot read the file {quoted(name)}: {reason}") from None
    if not text:
        raise ValueError(f"the file {quoted(name)} is empty")
    return text


def _resolve(document: Document, place: _Place, env: Mapping[str, str]) -> None:
    table, key = place.table, place.path[-1]
    file = table.pop(f"{key}_file", None) if place.may_be_file else None
    if file is not None and key in table:
        raise _UnresolvedError(place.path, f"is given twice, as {key} and as {key}_file: keep one")
    try:
        if file is not None:
            table[key] = _file(file)
            document.spelled(place.path, (*place.path[:-1], f"{key}_file"))
        elif isinstance(value := table.get(key), str):
            table[key] = _value(value, env)
    except ValueError as error:
        blamed = place.path if file is None else (*place.path[:-1], f"{key}_file")
        raise _UnresolvedError(blamed, str(error)) from None


def _file(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError("must be the name of a file, in quotes")  # noqa: TRY004 - the operator's mistake, not the program's
    return read_secret_file(name)


def _value(text: str, env: Mapping[str, str]) -> str:
    if not text:
        raise ValueError("is empty")
    return _variable(text.removeprefix(_REFERENCE), env) if text.startswith(_REFERENCE) else text


def _variable(name: str, env: Mapping[str, str]) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError('"env:" must be followed by the name of an environment variable')
    if name not in env:
        raise ValueError(f"environment variable {name} is not set: export it before starting the bridge")
    if not env[name]:
        raise ValueError(f"environment variable {name} is empty: give it a value")
    return env[name]


def _places(node: Node, value: object, path: KeyPath) -> Iterator[_Place]:
    match node, value:
        case Table(), dict():
            for key, below in _secret_keys(node.model).items():
                if isinstance(below, Leaf) and below.textual:
                    yield _Place(table=value, path=(*path, key), may_be_file=True)
                else:
                    yield from _places(below, value.get(key), (*path, key))
        case Named(), dict():
            for name, item in value.items():
                yield from _places(node.table, item, (*path, name))
        case Listed(), list():
            for index, item in enumerate(value):
                yield from _places(node.table, item, (*path, index))
        case Leaf(), dict():
            for name in list(value):
                yield _Place(table=value, path=(*path, name), may_be_file=False)
        case _:
            return


@cache
def _secret_keys(model: type[BaseModel]) -> dict[str, Node]:
    """The keys of a table that are secrets or have some below: a hundred thousand rooms have none."""
    return {key: node for key, node in keys_of(model).items() if _holds_secrets(node)}


def _holds_secrets(node: Node) -> bool:
    match node:
        case Leaf():
            return node.secret
        case Table():
            return bool(_secret_keys(node.model))
        case Named() | Listed():
            return bool(_secret_keys(node.table.model))

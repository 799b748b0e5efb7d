"""Settings from outside the file: `BRIDGE__SECTION__KEY` variables and flags, laid over it (CONTRACT section 3).

Two underscores separate the parts of a key, upper or lower case, so that `BRIDGE__SOURCES__MAIN__API_KEY` is
`sources.main.api_key` and `BRIDGE__ENDPOINTS__0__URL` the URL of the first endpoint. Lists and tables are written as
JSON or TOML values. `BRIDGE_CONFIG` and other names with one underscore are not keys.
"""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from bridge.config.document import Document, Origin
from bridge.config.lines import KeyPath
from bridge.config.schema import ROOT, Leaf, Listed, Named, Node, Table, child, keys_of
from bridge.config.words import nearest, printable
from bridge.errors import Problem

PREFIX: Final = "BRIDGE__"
_SEPARATOR: Final = "__"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unknown:
    """A key that does not exist; `suggestion` has its parts as they may have been meant."""

    message: str
    suggestion: tuple[str, ...] | None = None


def apply_environment(document: Document, env: Mapping[str, str]) -> Iterator[Problem]:
    """Lay every `BRIDGE__…` variable over the document; yields those that name no key."""
    names = [name for name in env if name.startswith(PREFIX)]
    for name in sorted(names, key=lambda name: _order(_parts(name))):
        parts = _parts(name)
        found = _resolve(document, parts)
        if isinstance(found, _Unknown):
            yield Problem(key=printable(name), message=found.message + _meant_variable(found))
        else:
            path, node = found
            origin = Origin(layer=1, name=f"environment variable {printable(name)}")
            document.put(path, _value(env[name], node), origin)


def apply_overrides(document: Document, overrides: Mapping[str, object]) -> Iterator[Problem]:
    """Lay values given by flags, by dotted key, over the document; None means "not given"."""
    for key, value in overrides.items():
        if value is None:
            continue
        found = _resolve(document, key.replace("[", ".").replace("]", "").split("."))
        if isinstance(found, _Unknown):
            yield Problem(key=key, message=f"{found.message} (given on the command line)")
        else:
            path, node = found
            given = _value(value, node) if isinstance(value, str) else copy.deepcopy(value)
            document.put(path, given, Origin(layer=2, name="given on the command line"))


def _parts(name: str) -> list[str]:
    return name.removeprefix(PREFIX).split(_SEPARATOR)


def _order(parts: Iterable[str]) -> list[tuple[bool, int, str]]:
    """Tables before what is in them, and the tenth item of a list after the ninth."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _resolve(document: Document, parts: Iterable[str]) -> tuple[KeyPath, Node] | _Unknown:
    given = tuple(parts)
    path: KeyPath = ()
    node: Node = ROOT
    for depth, part in enumerate(given):
        step = _step(document, path, node, part)
        below = None if step is None else child(node, step)
        if step is None or below is None:
            return _unknown(node, given, depth)
        path, node = (*path, step), below
    return path, node


def _step(document: Document, path: KeyPath, node: Node, part: str) -> str | int | None:
    """The key that a part of a name means; sources are found by name, whatever its case and whether it has - or _."""
    match node:
        case Table():
            return part.lower()
        case Named():
            known = document.get(path)
            names = known if isinstance(known, dict) else {}
            if part in names:
                return part
            return next((name for name in names if _form(name) == _form(part)), part.lower() or None)
        case Listed():
            known = document.get(path)
            length = len(known) if isinstance(known, list) else 0
            return int(part) if part.isdecimal() and int(part) <= length else None
        case Leaf():
            return None


def _form(name: str) -> str:
    return name.lower().replace("-", "_")


def _unknown(node: Node, given: tuple[str, ...], depth: int) -> _Unknown:
    match node:
        case Table():
            key = nearest(given[depth], keys_of(node.model))
            if key is None:
                return _Unknown(message=f"unknown key; there are {', '.join(keys_of(node.model))}")
            return _Unknown(message="unknown key", suggestion=(*given[:depth], key, *given[depth + 1 :]))
        case Listed():
            return _Unknown(message="no such item: items are numbered from 0, without gaps")
        case Named():
            return _Unknown(message="unknown key: a name is missing")
        case Leaf():
            return _Unknown(message="unknown key: nothing is below this one", suggestion=given[:depth])


def _meant_variable(unknown: _Unknown) -> str:
    if unknown.suggestion is None:
        return ""
    return f"; did you mean {PREFIX}{printable(_SEPARATOR.join(unknown.suggestion).upper())}?"


def _value(text: str, node: Node) -> object:
    """A text as the key wants it. What is neither JSON nor TOML stays text: the models say what is wrong with that."""
    if isinstance(node, Leaf) and node.textual:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _toml_value(text)


def _toml_value(text: str) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text

"""`BRIDGE__SECTION__KEY` variables as keys of the configuration.

Two underscores separate the parts of a key, in upper or lower case: `BRIDGE__SOURCES__MAIN__API_KEY` is
`sources.main.api_key`, `BRIDGE__ENDPOINTS__0__URL` the URL of the first endpoint. Lists and tables are written as JSON
or TOML values. `BRIDGE_CONFIG` and other names with one underscore are not keys.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_origin

from bridge.config.keys import is_text, type_at
from bridge.config.layers import Layers, other_spelling
from bridge.config.lines import KeyPath
from bridge.config.models import Settings
from bridge.config.words import printable
from bridge.errors import Problem

PREFIX: Final = "BRIDGE__"
_LONGEST_INDEX: Final = 9


def assign_environment(layers: Layers, env: Mapping[str, str]) -> Iterator[Problem]:
    """Lay every `BRIDGE__…` variable over the tree; yield a problem for each that names no key."""
    given: set[KeyPath] = set()
    for name in sorted((name for name in env if name.startswith(PREFIX)), key=_order):
        try:
            path, kind = _resolve(_parts(name), layers.tree)
        except IndexError:
            message = "no such item: the items of a list are numbered from 0, without gaps"
            yield Problem(key=printable(name), message=message)
            continue
        *table, key = path
        if (*table, other := other_spelling(key)) in given:
            yield layers.problem((*table, other), f"is given twice, as {other} and as {key}: keep one")
            continue
        given.add(path)
        layers.assign(path, _value(env[name], kind), f"environment variable {printable(name)}")


def _parts(name: str) -> list[str]:
    return name.removeprefix(PREFIX).split("__")


def _order(name: str) -> list[str]:
    """Sort tables before their keys, and the tenth item of a list after the ninth."""
    return [part.zfill(_LONGEST_INDEX) for part in _parts(name)]


def _resolve(parts: list[str], tree: dict[str, Any]) -> tuple[KeyPath, Any]:
    """Return the path that the parts of a name mean, and the type of its value.

    Raises:
        IndexError: a list has no such item, and its next one would have another number.
    """
    path: KeyPath = ()
    kind: Any = Settings
    node: Any = tree
    for part in parts:
        key = _key(part, kind, node)
        path, kind = (*path, key), type_at(kind, (key,))
        try:
            node = node[key]
        except (LookupError, TypeError):
            node = None
    return path, kind


def _key(part: str, kind: object, node: object) -> str | int:
    """Return the key that a part means; names match in any case, and with an underscore for a hyphen."""
    if get_origin(kind) is tuple:
        length = len(node) if isinstance(node, list) else 0
        if not part.isdecimal() or len(part) > _LONGEST_INDEX or int(part) > length:
            raise IndexError(part)
        return int(part)
    names = node if isinstance(node, dict) and get_origin(kind) is dict else ()
    return next((name for name in names if _folded(name) == _folded(part)), part.lower())


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def _value(text: str, kind: object) -> object:
    """Return the value that a text means for a key of this type; the models reject what is neither JSON nor TOML."""
    if is_text(kind):
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

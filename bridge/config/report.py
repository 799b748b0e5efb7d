"""What pydantic found, said for the operator: each problem with its key, its origin and what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bridge.config.document import Document, dotted
from bridge.config.lines import KeyPath
from bridge.config.schema import Leaf, Table, every_key, keys_of, node_at
from bridge.config.words import nearest
from bridge.errors import Problem

_MESSAGES: Final = {
    "string_type": "must be a text in quotes",
    "string_unicode": "is not valid Unicode text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole assign_sequences",
    "float_type": "must be a assign_sequences",
    "finite_number": "must be a finite assign_sequences",
    "list_type": 'must be a list, like ["…", "…"]',
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "too_short": "must not be an empty list",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le:,}",
}
_TABLES: Final = ("rooms", "endpoints", "web.tokens")
_KEY_OF_A_TABLE: Final = "[key]"


def problems_in(error: ValidationError, document: Document, known: Collection[KeyPath]) -> Iterator[Problem]:
    """Each problem that pydantic found, except the places that are known to be empty for another reason."""
    for found in error.errors(include_url=False, include_input=False):
        path = tuple(part for part in found["loc"] if part != _KEY_OF_A_TABLE)
        if path not in known:
            yield document.problem(path, _message(found, path))


def _message(found: ErrorDetails, path: KeyPath) -> str:
    context: dict[str, Any] = found.get("ctx", {})
    match found["type"]:
        case "value_error":
            return str(context["error"])
        case "missing":
            return _missing(path)
        case "extra_forbidden":
            return _unknown_key(path)
        case "list_type" if dotted(path) in _TABLES:
            return f"must be a list of tables: write each as [[{dotted(path)}]], with two brackets"
        case kind if kind in _MESSAGES:
            return _MESSAGES[kind].format(**context)
        case _:
            return found["msg"]


def _missing(path: KeyPath) -> str:
    node, key = node_at(path), path[-1]
    if isinstance(node, Leaf) and node.secret:
        return f'is missing: write {key} = "…", {key} = "env:NAME" or {key}_file = "…"'
    return "is missing"


def _unknown_key(path: KeyPath) -> str:
    key = str(path[-1])
    table = node_at(path[:-1])
    siblings = keys_of(table.model) if isinstance(table, Table) else {}
    if (meant := nearest(key, siblings)) is not None:
        return f'unknown key; did you mean "{meant}"?'
    elsewhere = [known for known in every_key() if known.endswith(f".{key}")]
    if elsewhere:
        return f"unknown key here; did you mean {' or '.join(elsewhere)}?"
    where = f" of {dotted(path[:-1])}" if len(path) > 1 else ""
    return f"unknown key; the keys{where} are {', '.join(siblings)}"

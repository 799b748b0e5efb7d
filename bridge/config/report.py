"""The mistakes that pydantic found, in plain English: the key and the message of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bridge.config.keys import every_key, is_table, keys_of, secrets_of, type_at
from bridge.config.lines import KeyPath
from bridge.config.models import Settings
from bridge.config.words import nearest

_MESSAGES: Final = {
    "string_type": "must be a text in quotes",
    "string_unicode": "is not valid Unicode text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "tuple_type": 'must be a list, like ["…", "…"]',
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le:,}",
}
KEY_MARK: Final = "[key]"
"""pydantic's mark in a location: the mistake is the key of a dictionary, and not its value."""


def mistakes_in(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    """The path and the message of each mistake."""
    for found in error.errors(include_url=False, include_input=False):
        # The default of a key may depend on another one, whose mistake is reported.
        if found["type"] == "default_factory_not_called":
            continue
        path = tuple(part for part in found["loc"] if part != KEY_MARK)
        yield path, _message(found, path)


def _message(found: ErrorDetails, path: KeyPath) -> str:
    context: dict[str, Any] = found.get("ctx", {})
    match found["type"]:
        case "value_error":
            return str(context["error"])
        case "missing":
            return _missing(path)
        case "extra_forbidden":
            return _unknown_key(path)
        case "tuple_type" if path in (("rooms",), ("endpoints",)):
            return f"must be a list of tables: write each as [[{path[0]}]], with two brackets"
        case kind if kind in _MESSAGES:
            return _MESSAGES[kind].format(**context)
        case _:
            return found["msg"]


def _missing(path: KeyPath) -> str:
    table, key = type_at(Settings, path[:-1]), path[-1]
    if is_table(table) and key in secrets_of(table):
        return f'is missing: write {key} = "…", {key} = "env:NAME" or {key}_file = "…"'
    return "is missing"


def _unknown_key(path: KeyPath) -> str:
    key = str(path[-1])
    table = type_at(Settings, path[:-1])
    siblings = keys_of(table) if is_table(table) else {}
    if (meant := nearest(key, siblings)) is not None:
        return f'unknown key; did you mean "{meant}"?'
    elsewhere = [known for known in every_key(Settings) if known.endswith(f".{key}")]
    if elsewhere:
        return f"unknown key here; did you mean {' or '.join(elsewhere)}?"
    where = f" of {path[-2]}" if len(path) > 1 else ""
    return f"unknown key; the keys{where} are {', '.join(siblings)}"

"""The keys that the models define, read off pydantic's `model_fields`: for secrets, variables and misspelt keys."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel

from bridge.config.lines import KeyPath


def is_table(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


@cache
def keys_of(table: type[BaseModel]) -> dict[str, Any]:
    """Return the keys of a table, each with the type of its value; a secret `x` can be given as `x_file` too."""
    keys = {info.alias or name: info.annotation for name, info in table.model_fields.items()}
    return keys | {f"{key}_file": str for key in secrets_of(table)}


@cache
def secrets_of(table: type[BaseModel]) -> tuple[str, ...]:
    """Return the keys of a table whose value is a secret text: those that its `repr` leaves out."""
    return tuple(name for name, info in table.model_fields.items() if not info.repr and is_text(info.annotation))


def type_at(kind: Any, path: KeyPath) -> Any:  # noqa: ANN401 - an annotation can be anything
    """Return the type of the value at a path below a value of this type; None where nothing is allowed."""
    for part in path:
        kind = keys_of(kind).get(str(part)) if is_table(kind) else _item_type(kind)
    return kind


def is_text(kind: Any) -> bool:  # noqa: ANN401 - as in type_at
    """Return whether a value of this type is written as text, as durations, addresses and choices are."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return is_text(arguments[0])
    if origin in (UnionType, Union):
        return all(is_text(argument) for argument in arguments)
    return kind not in (bool, int, float) and origin not in (tuple, dict) and not is_table(kind)


def every_key(kind: Any, prefix: str = "") -> Iterator[str]:  # noqa: ANN401 - as in type_at
    """Yield all keys as documentation writes them: `polling.interval`, `sources.NAME.timeout`, `rooms[].id`."""
    if is_table(kind):
        for key, below in keys_of(kind).items():
            yield from every_key(below, f"{prefix}.{key}" if prefix else key)
    elif is_table(item := _item_type(kind)):
        yield from every_key(item, f"{prefix}[]" if get_origin(kind) is tuple else f"{prefix}.NAME")
    else:
        yield prefix


def _item_type(kind: Any) -> Any:  # noqa: ANN401 - as in type_at
    """Return the type of the items of a list or of the values of a dictionary; None for any other type."""
    match get_origin(kind), get_args(kind):
        case (origin, (item, _)) if origin is tuple:
            return item
        case (origin, (_, item)) if origin is dict:
            return item
    return None

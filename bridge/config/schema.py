"""Which keys the configuration has, read off the pydantic models: for misspelt keys, environment names and secrets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bridge.config.lines import KeyPath
from bridge.config.models import SECRET, Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A value; `textual` ones are taken from the environment as they stand, others are JSON or TOML there."""

    textual: bool
    secret: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with fixed keys."""

    model: type[BaseModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A table of tables, whose keys are names that the operator chose."""

    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An array of tables."""

    table: Table


Node = Leaf | Table | Named | Listed

ROOT = Table(model=Configuration)


@cache
def keys_of(model: type[BaseModel]) -> dict[str, Node]:
    """The keys of one table, and what is under each; a secret `x` can be given as `x_file` too."""
    keys: dict[str, Node] = {}
    for name, info in model.model_fields.items():
        keys[name] = node = _node(info)
        if isinstance(node, Leaf) and node.secret and node.textual:
            keys[f"{name}_file"] = Leaf(textual=True)
    return keys


def child(node: Node, segment: str | int) -> Node | None:
    """What is one step further down, or None when nothing can be there."""
    match node:
        case Table():
            return keys_of(node.model).get(str(segment))
        case Named():
            return node.table
        case Listed():
            return node.table if isinstance(segment, int) else None
        case Leaf():
            return None


def node_at(path: KeyPath) -> Node | None:
    """What the configuration has at a path, or None."""
    node: Node | None = ROOT
    for segment in path:
        if node is None:
            return None
        node = child(node, segment)
    return node


def every_key(node: Node = ROOT, prefix: str = "") -> Iterator[str]:
    """All keys as documentation writes them: `polling.interval`, `sources.NAME.timeout`, `rooms[].id`."""
    match node:
        case Table():
            for key, below in keys_of(node.model).items():
                yield from every_key(below, f"{prefix}.{key}" if prefix else key)
        case Named():
            yield from every_key(node.table, f"{prefix}.NAME")
        case Listed():
            yield from every_key(node.table, f"{prefix}[]")
        case Leaf():
            yield prefix


def _node(info: FieldInfo) -> Node:
    annotation: Any = info.annotation
    arguments = get_args(annotation)
    container = get_origin(annotation)
    if _is_model(annotation):
        return Table(model=annotation)
    if container is list and _is_model(arguments[0]):
        return Listed(table=Table(model=arguments[0]))
    if container is dict and _is_model(arguments[1]):
        return Named(table=Table(model=arguments[1]))
    return Leaf(textual=_is_textual(annotation), secret=SECRET in info.metadata)


def _is_model(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_textual(annotation: Any) -> bool:  # noqa: ANN401 - an annotation can be anything
    """Whether texts and durations are meant, also where None is allowed beside them."""
    match get_origin(annotation):
        case None:
            return annotation in (str, timedelta, NoneType)
        case origin if origin is Annotated:
            return _is_textual(get_args(annotation)[0])
        case origin if origin in (UnionType, Union):
            return all(_is_textual(argument) for argument in get_args(annotation))
        case _:
            return False

"""JSON Schemas (2020-12) of the bodies of style `standard`, one for each type of event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bridge.events.bodies import SCHEMA_VERSION
from bridge.events.fields import BODY, FIELDS, TYPES, Field, Kind
from bridge.events.types import EventType, matches

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TIME: Final = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"
_KINDS: Final[Mapping[Kind, Schema]] = {
    Kind.TEXT: {"type": "string"},
    Kind.TIME: {"type": "string", "format": "date-time", "pattern": _TIME},
    Kind.SECONDS: {"type": "number", "minimum": 0},
    Kind.INTEGER: {"type": "integer", "minimum": 0},
    Kind.BOOLEAN: {"type": "boolean"},
    Kind.LIST: {"type": "array"},
    Kind.OBJECT: {"type": "object"},
    Kind.JSON: {},
}


def event_schema(kind: EventType) -> Schema:
    """The schema of a type's body. Every field is required; others may be added without a new `schema_version`."""
    facts = TYPES[kind]
    body = _object(BODY, kind)
    body["properties"]["type"] = {"const": kind.value, "description": facts.when}
    body["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    body["properties"]["data"] = _object({name: FIELDS[name] for name in facts.fields}, kind)
    return {"$schema": DIALECT, "title": kind.value, "description": facts.when, **body}


def _object(fields: Mapping[str, Field], kind: EventType) -> Schema:
    properties = {name: _field(field, kind) for name, field in fields.items()}
    return {"type": "object", "properties": properties, "required": list(fields)}


def _field(field: Field, kind: EventType) -> Schema:
    schema: Schema = {**_KINDS[field.kind], "description": field.meaning}
    may_be_null = matches(kind, field.null_in)
    if field.pattern is not None:
        schema["pattern"] = field.pattern
    if field.values:
        schema["enum"] = [str(value) for value in field.values] + [None] * may_be_null
    if field.kind is Kind.LIST:
        schema["items"] = {"type": "string"} if field.items is None else _object(field.items, kind)
    if may_be_null:
        schema["type"] = [schema["type"], "null"]
    return schema

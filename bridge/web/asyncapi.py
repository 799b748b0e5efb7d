"""The AsyncAPI 3 document: the webhooks and the stream, generated from the table of events."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from bridge import __version__
from bridge.events.fields import TYPES
from bridge.events.schemas import event_schema
from bridge.events.types import EventType

Document = dict[str, Any]

_TEXT: Final = {"type": "string"}
_HEADERS: Final = {
    "type": "object",
    "required": ["webhook-id", "webhook-timestamp", "webhook-signature"],
    "properties": {
        "webhook-id": {**_TEXT, "description": "the event's id, the same on every attempt and replay"},
        "webhook-timestamp": {**_TEXT, "description": "Unix seconds of this attempt"},
        "webhook-signature": {**_TEXT, "description": "Standard Webhooks signatures, separated by spaces"},
        "bridge-chain": {**_TEXT, "description": "the hash of this event in the chain of its room, in hex"},
        "bridge-chain-proof": {**_TEXT, "description": "what is needed to check it: the hash before it and its salt"},
        "bridge-replay": {"const": "true", "description": "only in a redelivery that an operator asked for"},
        "bridge-test": {"const": "true", "description": "only in a sample from `bridge endpoints test`"},
    },
}
_STREAM: Final = (
    "Server-Sent Events: `id` is the event's id, `event` its type, `data` its body. It begins now, or after the event "
    "that the header `Last-Event-ID` names, without a gap or a repeat; 410 if that is unknown or pruned."
)


def describe_events(public_url: str = "") -> Document:
    """The document; `public_url` is where the bridge is reached, if that is known."""
    document: Document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Presence bridge",
            "version": __version__,
            "description": "Events of the rooms that the bridge polls, in the order of `sequence` for each room.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "webhooks": {
                "address": None,
                "title": "Webhooks",
                "description": "The URL of an endpoint. The shape is that of style `standard`.",
                "messages": {kind.value: _reference("messages", f"webhook.{kind}") for kind in EventType},
            },
            "stream": {
                "address": "/api/v1/events/stream",
                "title": "Stream",
                "description": _STREAM,
                "messages": {kind.value: _reference("messages", kind) for kind in EventType},
            },
        },
        "operations": {
            "deliver": {
                "action": "send",
                "channel": {"$ref": "#/channels/webhooks"},
                "summary": "POST an event to an endpoint until it responds 2xx.",
                "bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
            },
            "stream": {
                "action": "send",
                "channel": {"$ref": "#/channels/stream"},
                "summary": "Send events as they are written to the log.",
                "security": [{"$ref": "#/components/securitySchemes/token"}],
                "bindings": {"http": {"method": "GET", "query": _query(), "bindingVersion": "0.3.0"}},
            },
        },
        "components": {
            "messages": {
                **{kind.value: _message(kind) for kind in EventType},
                **{f"webhook.{kind}": {**_message(kind), "headers": _HEADERS} for kind in EventType},
            },
            "schemas": {kind.value: _schema(kind) for kind in EventType},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
    url = urlsplit(public_url)
    if url.netloc:
        server = {"host": url.netloc, "protocol": url.scheme, "pathname": url.path or "/"}
        document["servers"] = {"bridge": server}
        document["channels"]["stream"]["servers"] = [{"$ref": "#/servers/bridge"}]
    return document


def _message(kind: EventType) -> Document:
    return {
        "name": kind.value,
        "title": kind.value,
        "summary": TYPES[kind].when,
        "payload": _reference("schemas", kind),
    }


def _schema(kind: EventType) -> Document:
    """The JSON Schema, in what it has in common with AsyncAPI's own schemas."""
    return {name: value for name, value in event_schema(kind).items() if name != "$schema"}


def _query() -> Document:
    return {
        "type": "object",
        "properties": {
            "room": {**_TEXT, "description": "only events of the room with this id"},
            "type": {**_TEXT, "description": "only events of this type; globs and several are possible"},
        },
    }


def _reference(section: str, name: str) -> Document:
    return {"$ref": f"#/components/{section}/{name}"}

"""Formats of a delivery, the values of an endpoint's `style`: one canonical body in, the bytes to send out.

Pure and without memory: the same event in the same style is the same bytes on every attempt.

- `standard`: the canonical body itself.
- `flat`: one level. The fields of `data` move to the top, objects and lists become JSON text, and metadata that is an
  object becomes one key per entry, `metadata_<key>`; any other metadata stays `metadata`. An event's own keys win.
- `huddle01`: Huddle01's own webhooks, `{id, event, payload}` as text/plain, with names in
  camelCase and colons for full stops. Their receiver compares the body with JavaScript's JSON.stringify of it, so
  there are only texts, booleans and whole numbers: moments in epoch milliseconds, spans in milliseconds (Huddle01 does
  not document the unit of its `duration`; here it is `leftAt - joinedAt`), metadata as JSON text in ASCII. Unknown
  values are left out.
- `cloudevents`: CloudEvents 1.0, structured mode. `source` names the room and `subject` the peer; `type` is the event
  type unchanged, because the bridge has no domain to reverse; `sequence` has ten digits, so that it sorts as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from urllib.parse import quote

from bridge.rules.presence import Json


class Format(StrEnum):
    """Values of an endpoint's `style`."""

    STANDARD = "standard"
    FLAT = "flat"
    HUDDLE01 = "huddle01"
    CLOUDEVENTS = "cloudevents"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The bytes to sign and send."""

    body: bytes
    content_type: str
    event_id: str


Event = dict[str, Any]
"""A canonical body, parsed."""

SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer that JavaScript prints unchanged."""

_ID: Final = re.compile(rb'\{"id":"([^"\\]+)"')
_METADATA: Final = ("metadata", "previous_metadata")
_MOMENTS: Final = ("timestamp", "since")


def render(style: Format, body: bytes) -> Rendered:
    """Write a canonical body, as `bodies.encode` makes it, in a format."""
    match style:
        case Format.STANDARD:
            return Rendered(body=body, content_type="application/json", event_id=_event_id(body))
        case Format.FLAT:
            document, content_type = flatten(json.loads(body)), "application/json"
        case Format.HUDDLE01:
            document, content_type = imitate_huddle01(json.loads(body)), "text/plain"
        case Format.CLOUDEVENTS:
            document, content_type = wrap_cloudevent(json.loads(body)), "application/cloudevents+json"
    return Rendered(body=_encode(document).encode(), content_type=content_type, event_id=str(document["id"]))


def flatten(event: Event) -> dict[str, Json]:
    """One level of scalars; apart from `metadata_…`, an event type always has the same keys."""
    flat: dict[str, Json] = {key: value for key, value in event.items() if key != "data"}
    entries: dict[str, Json] = {}
    for key, value in event["data"].items():
        if key in _METADATA and isinstance(value, dict):
            entries |= {f"{key}_{name}": entry for name, entry in value.items()}
        else:
            flat.setdefault(key, _scalar(value))
    return {**flat, **{key: _scalar(entry) for key, entry in entries.items() if key not in flat}}


def imitate_huddle01(event: Event) -> dict[str, Json]:
    """A body that `WebhookReceiver` of `@huddle01/server-sdk` accepts, in the shape of its own type if it has one."""
    kind: str = event["type"]
    facts = {"timestamp": event["timestamp"], "schema_version": event["schema_version"], **event["data"]}
    payload: dict[str, Json] = {
        _huddle01_name(key): _huddle01_value(key, value) for key, value in facts.items() if value is not None
    }
    if kind == "peer.joined":
        payload |= {"browser": {}, "device": {}}
    return {"id": event["id"], "event": kind.replace(".", ":"), "payload": payload}


def wrap_cloudevent(event: Event) -> dict[str, Json]:
    """The context attributes, two extensions (`sequence`, with its type, and `schemaversion`), and the data."""
    data: Mapping[str, Any] = event["data"]
    peer_id = data.get("peer_id")
    return {
        "specversion": "1.0",
        "id": event["id"],
        "source": _cloudevent_source(data),
        "type": event["type"],
        **({"subject": peer_id} if isinstance(peer_id, str) and peer_id.isprintable() else {}),
        "time": event["timestamp"],
        "datacontenttype": "application/json",
        **_cloudevent_sequence(data),
        "schemaversion": event["schema_version"],
        "data": event["data"],
    }


def _encode(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _event_id(body: bytes) -> str:
    start = _ID.match(body)
    return str(json.loads(body)["id"]) if start is None else start[1].decode()


def _scalar(value: Json) -> Json:
    return _encode(value) if isinstance(value, dict | list) else value


def _huddle01_name(key: str) -> str:
    if key == "peer_id":
        return "id"
    first, *others = key.removesuffix("_seconds").split("_")
    return first + "".join(other.title() for other in others)


def _huddle01_value(key: str, value: Json) -> Json:
    if key in _METADATA:
        return _ascii(value)
    if isinstance(value, str) and (key in _MOMENTS or key.endswith("_at")):
        return _epoch_milliseconds(value)
    if key.endswith("_seconds") and isinstance(value, int | float):
        value = round(value * 1000)
    match value:
        case str() | bool():
            return value
        case int() if abs(value) <= SAFE_INTEGER:
            return value
        case _:
            return _ascii(value)


def _ascii(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _epoch_milliseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


def _cloudevent_source(data: Mapping[str, Any]) -> str:
    """A URI reference without an authority: the bridge does not know its public name."""
    source, room_id = data.get("source"), data.get("room_id")
    if source is None:
        return "/bridge"
    path = f"/sources/{quote(source, safe='')}"
    return path if room_id is None else f"{path}/rooms/{quote(room_id, safe='')}"


def _cloudevent_sequence(data: Mapping[str, Any]) -> dict[str, Json]:
    """A test delivery is not in a log, so it may have no sequence."""
    sequence = data.get("sequence")
    return {} if sequence is None else {"sequence": f"{sequence:010d}", "sequencetype": "Integer"}

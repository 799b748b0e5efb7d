"""What a delivery says, for a line on a terminal: read leniently, whatever its style, true or forged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MISSING = "-"
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is worth a line; `sequence` is None where the body has none that is a assign_sequences."""

    event_id: str
    type: str
    room_id: str | None
    room_name: str
    sequence: int | None
    who: str


def read_json(body: bytes) -> object:
    """The body as JSON; None when it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def read_facts(document: object) -> Facts:
    """Find the facts where the formats have them: in `data` (standard, cloudevents), `payload` (huddle01), or flat."""
    event: Mapping[str, Any] = document if isinstance(document, dict) else {}
    nested: Mapping[str, Any] = next(
        (event[key] for key in ("data", "payload") if isinstance(event.get(key), dict)), {}
    )
    found = {**event, **nested}
    room_id = _text(found, "room_id", "roomId")
    return Facts(
        event_id=_text(event, "id") or MISSING,
        type=_text(event, "type", "event") or MISSING,
        room_id=room_id,
        room_name=_text(found, "room_name", "roomName") or room_id or MISSING,
        sequence=_number(found.get("sequence")),
        who=_who(found, nested),
    )


def _who(found: Mapping[str, Any], nested: Mapping[str, Any]) -> str:
    named = _text(found, "display_name", "displayName", "peer_id") or _text(nested, "id")
    if named is not None:
        return named
    for key, what in (("unique_peers", "had been there"), ("peer_count", "there now")):
        count = _number(found.get(key))
        if count is not None:
            return f"{count} {what}"
    return MISSING


def _text(found: Mapping[str, Any], *keys: str) -> str | None:
    return next((found[key] for key in keys if isinstance(found.get(key), str) and found[key]), None)


def _number(value: object) -> int | None:
    match value:
        case bool():
            return None
        case int():
            return value
        case str() if _NUMBER.fullmatch(value):
            return int(value)
        case _:
            return None

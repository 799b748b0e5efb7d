"""The body of a delivery, read leniently for a line on a terminal: of any style, genuine or forged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MISSING = "-"
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedEvent:
    """The parts of an event that a line shows; `document` is the whole body, or its text if it is not JSON."""

    document: object
    event_id: str
    type: str
    room_id: str | None
    room_name: str
    sequence: int | None
    subject: str
    """The peer, or the number of peers."""


def parse_event(body: bytes) -> ParsedEvent:
    """Find the facts where the styles have them: in `data` (standard, cloudevents), `payload` (huddle01), or flat."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = body.decode(errors="replace")
    event: Mapping[str, Any] = document if isinstance(document, dict) else {}
    nested: Mapping[str, Any] = next(
        (event[key] for key in ("data", "payload") if isinstance(event.get(key), dict)), {}
    )
    found = {**event, **nested}
    room_id = _text(found, "room_id", "roomId")
    return ParsedEvent(
        document=document,
        event_id=_text(event, "id") or MISSING,
        type=_text(event, "type", "event") or MISSING,
        room_id=room_id,
        room_name=_text(found, "room_name", "roomName") or room_id or MISSING,
        sequence=_number(found.get("sequence")),
        subject=_subject(found, nested),
    )


def _subject(found: Mapping[str, Any], nested: Mapping[str, Any]) -> str:
    name = _text(found, "display_name", "displayName", "peer_id") or _text(nested, "id")
    if name is not None:
        return name
    for key, label in (("unique_peers", "in all"), ("peer_count", "present")):
        count = _number(found.get(key))
        if count is not None:
            return f"{count} {label}"
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

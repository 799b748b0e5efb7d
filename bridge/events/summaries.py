"""Events and changes in a few words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from bridge.events.types import EventType
from bridge.events.wording import count_of, span

Data = Mapping[str, Any]


def log_name(room_id: str | None) -> str:
    """Return the room id of a log; the bridge's own log has none."""
    return "(bridge)" if room_id is None else room_id


def summarize(kind: str, data: Data) -> str:
    """Return the content of an event beyond its type and room; nothing for a type without a summary."""
    summary = _SUMMARIES.get(kind)
    return "" if summary is None else summary(data)


def _joined(data: Data) -> str:
    return f"{_name(data)}{' (already present)' if data['initial'] else ''}, {_present(data)}"


def _left(data: Data) -> str:
    return f"{_name(data)} after {_duration(data)} ({data['leave_reason']}), {_present(data)}"


def _emptied(data: Data) -> str:
    return f"after {_duration(data)} ({data['empty_reason']}), {count_of(data['unique_peers'], 'peer')} in all"


def _source(data: Data) -> str:
    return f"{data['affected_source']} ({data['condition']})"


def _endpoint(data: Data) -> str:
    return f"{data['endpoint']} ({data['reason']})" if data["reason"] else str(data["endpoint"])


def _reconciled(data: Data) -> str:
    changed = sum(visit["change"] != "none" for visit in data["visits"])
    return f"{changed} of {count_of(len(data['visits']), 'visit')} changed"


def _checkpoint(data: Data) -> str:
    return f"{count_of(data['event_count'], 'event')} in {count_of(data['room_count'], 'log')}"


def _erased(data: Data) -> str:
    return f"{count_of(len(data['visit_ids']), 'visit')}, {count_of(len(data['events']), 'event')}"


def _present(data: Data) -> str:
    return f"{data['peer_count']} present"


def _name(data: Data) -> str:
    return str(data["display_name"])


def _duration(data: Data) -> str:
    return span(timedelta(seconds=data["duration_seconds"]))


_SUMMARIES: Final[Mapping[str, Callable[[Data], str]]] = {
    EventType.PEER_JOINED: _joined,
    EventType.PEER_LEFT: _left,
    EventType.PEER_UPDATED: _name,
    EventType.ROOM_OCCUPIED: _present,
    EventType.ROOM_SNAPSHOT: _present,
    EventType.ROOM_EMPTY: _emptied,
    EventType.SOURCE_UNAVAILABLE: _source,
    EventType.SOURCE_RECOVERED: _source,
    EventType.ENDPOINT_DISABLED: _endpoint,
    EventType.ENDPOINT_RECOVERED: _endpoint,
    EventType.SESSION_RECONCILED: _reconciled,
    EventType.AUDIT_CHECKPOINT: _checkpoint,
    EventType.PERSON_ERASED: _erased,
}

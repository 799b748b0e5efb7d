"""Events and changes in a few words, for a line on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from bridge.cli.output import count_of, span
from bridge.events.types import EventType

Data = Mapping[str, Any]


def room_of(data: Data) -> str:
    """Whose log an event stands in: a room's, or the bridge's own."""
    return name_log(data["room_id"])


def name_log(room_id: str | None) -> str:
    """A room's log by its id; the bridge's own has none."""
    return "(bridge)" if room_id is None else room_id


def what_happened(kind: str, data: Data) -> str:
    """What an event says beyond its type and room; of a type that has no words here, nothing."""
    tell = _TELLERS.get(kind)
    return "" if tell is None else tell(data)


def _joined(data: Data) -> str:
    before = " was there already" if data["initial"] else ""
    return f"{_who(data)}{before}, {data['peer_count']} there"


def _left(data: Data) -> str:
    return f"{_who(data)} after {_stay(data)} ({data['leave_reason']}), {data['peer_count']} there"


def _emptied(data: Data) -> str:
    return f"after {_stay(data)} ({data['empty_reason']}), {count_of(data['unique_peers'], 'peer')} in all"


def _source(data: Data) -> str:
    return f"{data['affected_source']} ({data['condition']})"


def _endpoint(data: Data) -> str:
    return f"{data['endpoint']} ({data['reason']})" if data["reason"] else str(data["endpoint"])


def _count(data: Data) -> str:
    return f"{data['peer_count']} there"


def _who(data: Data) -> str:
    return str(data["display_name"])


def _stay(data: Data) -> str:
    return span(timedelta(seconds=data["duration_seconds"]))


_TELLERS: Final[Mapping[str, Callable[[Data], str]]] = {
    EventType.PEER_JOINED: _joined,
    EventType.PEER_LEFT: _left,
    EventType.PEER_UPDATED: _who,
    EventType.ROOM_OCCUPIED: _count,
    EventType.ROOM_SNAPSHOT: _count,
    EventType.ROOM_EMPTY: _emptied,
    EventType.SOURCE_UNAVAILABLE: _source,
    EventType.SOURCE_RECOVERED: _source,
    EventType.ENDPOINT_DISABLED: _endpoint,
    EventType.ENDPOINT_RECOVERED: _endpoint,
}

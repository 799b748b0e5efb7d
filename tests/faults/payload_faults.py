"""Faults in the document: each changes an otherwise true one in place (upstream.md 5 and 6.6)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tests.faults.kinds import Fault, FaultKind

Document = dict[str, Any]
Change = Callable[[Document, Fault, Random], object]

TIME_KEYS = frozenset({"joinTime", "exitTime", "startTime", "starttime", "endTime", "createdAt"})
HUGE_CHARACTERS = 16 * 1024
FUTURE_SECONDS = 3600.0
EXIT_AFTER_MILLISECONDS = 60_000
DUPLICATE_LATER_MILLISECONDS = 1000


def iso_time(milliseconds: float) -> str:
    """Return a time as the upstream wrote it before September 2024."""
    moment = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _each(change: Callable[[Document, Fault], object]) -> Change:
    def change_all(document: Document, fault: Fault, _rng: Random) -> None:
        for item in document["participants"]:
            if isinstance(item, dict):
                change(item, fault)

    return change_all


def _first(change: Callable[[list[Any]], object]) -> Change:
    """Change the list at its first item, if it has one."""
    return lambda document, _fault, _rng: document["participants"] and change(document["participants"])


def _metadata(value: Callable[[Any], Any]) -> Change:
    return _each(lambda item, _fault: item.update(metadata=value(item["metadata"])))


def _join_time(value: Callable[[float, Fault], Any]) -> Change:
    return _each(lambda item, fault: item.update(joinTime=value(item["joinTime"], fault)))


def _replace_item_by_its_id(items: list[Any]) -> None:
    items[0] = items[0]["peerId"]


def _duplicate_item(document: Document, _fault: Fault, _rng: Random) -> None:
    first = document["participants"][0]
    document["participants"].append({**first, "joinTime": first["joinTime"] + DUPLICATE_LATER_MILLISECONDS})
    document["count"] += 1


def _extra_fields(document: Document, _fault: Fault, _rng: Random) -> None:
    document |= {"requestId": "req_1", "page": {"next": None}}
    for item in document["participants"]:
        item |= {"role": "guest", "tracks": ["audio", "video"]}


def _array(document: Document, _fault: Fault, _rng: Random) -> None:
    spelt = {"roomId": "roomid", "startTime": "starttime"}
    document["liveSessions"] = [{spelt.get(key, key): value for key, value in document["liveSessions"].items()}]


def _iso_times(document: Document, _fault: Fault, _rng: Random) -> None:
    for key, value in document.items():
        if key in TIME_KEYS and isinstance(value, int | float):
            document[key] = iso_time(value)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict) and key != "metadata":
                _iso_times(part, _fault, _rng)


PAYLOAD_FAULTS: dict[FaultKind, Change] = {
    FaultKind.COUNT_MISMATCH: lambda document, fault, _rng: document.update(count=document["count"] + fault.by),
    FaultKind.COUNT_MISSING: lambda document, _fault, _rng: document.pop("count"),
    FaultKind.ITEM_WITHOUT_ID: _first(lambda items: items[0].pop("peerId")),
    FaultKind.ITEM_NOT_OBJECT: _first(_replace_item_by_its_id),
    FaultKind.DUPLICATE_ITEM: _duplicate_item,
    FaultKind.JOIN_TIME_MISSING: _each(lambda item, _fault: item.pop("joinTime")),
    FaultKind.JOIN_TIME_NULL: _join_time(lambda _time, _fault: None),
    FaultKind.JOIN_TIME_FUTURE: _join_time(lambda time, fault: time + round(1000 * (fault.seconds or FUTURE_SECONDS))),
    FaultKind.JOIN_TIME_ISO: _join_time(lambda time, _fault: iso_time(time)),
    FaultKind.JOIN_TIME_FLOAT: _join_time(lambda time, _fault: float(time)),
    FaultKind.EXIT_TIME: _each(lambda item, _fault: item.update(exitTime=item["joinTime"] + EXIT_AFTER_MILLISECONDS)),
    FaultKind.METADATA_STRING: _metadata(lambda value: json.dumps(value, ensure_ascii=False)),
    FaultKind.METADATA_NOT_JSON: _metadata(lambda _value: "displayName=Ann; not JSON"),
    FaultKind.METADATA_NULL: _metadata(lambda _value: None),
    FaultKind.METADATA_ABSENT: _each(lambda item, _fault: item.pop("metadata")),
    FaultKind.METADATA_ARRAY: _metadata(lambda value: [value]),
    FaultKind.METADATA_NUMBER: _metadata(lambda _value: 42),
    FaultKind.METADATA_HUGE: _metadata(lambda _value: {"displayName": "Ann", "notes": "x" * HUGE_CHARACTERS}),
    FaultKind.METADATA_SURROGATE: _metadata(lambda _value: {"displayName": "Ann \ud83d"}),
    FaultKind.EXTRA_FIELDS: _extra_fields,
    FaultKind.SHUFFLED: lambda document, _fault, rng: rng.shuffle(document["participants"]),
    FaultKind.API_V2_ARRAY: _array,
    FaultKind.ISO_TIMES: _iso_times,
}

"""Faults in what is said: each changes the document of an otherwise true response (upstream.md 5 and 6.6).

Documents are built anew for every request that a fault concerns, so they are changed in place.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bridge.simulator.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

Document = dict[str, Any]

TIME_KEYS = frozenset({"joinTime", "exitTime", "startTime", "starttime", "endTime", "createdAt"})
HUGE_CHARACTERS = 16 * 1024
FUTURE_SECONDS = 3600.0
EXIT_AFTER_MILLISECONDS = 60_000
DUPLICATE_LATER_MILLISECONDS = 1000


def distort(document: Document, fault: Fault, chance: Random) -> None:
    """Change the document as the fault says; a fault of another sort changes nothing."""
    distortion = DISTORTIONS.get(fault.kind)
    if distortion is not None:
        distortion(document, fault, chance)


def iso_time(milliseconds: float) -> str:
    """Epoch milliseconds as the upstream wrote times before September 2024."""
    try:
        moment = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return f"{milliseconds:g} ms"  # no calendar reaches so far
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _objects(document: Document) -> list[Document]:
    return [item for item in document["participants"] if isinstance(item, dict)]


def _each(change: Callable[[Document, Fault], None]) -> Callable[[Document, Fault, Random], None]:
    def distortion(document: Document, fault: Fault, _chance: Random) -> None:
        for item in _objects(document):
            change(item, fault)

    return distortion


def _metadata(value: Callable[[Any], Any]) -> Callable[[Document, Fault, Random], None]:
    def change(item: Document, _fault: Fault) -> None:
        item["metadata"] = value(item.get("metadata"))

    return _each(change)


def _join_time(value: Callable[[float, Fault], Any]) -> Callable[[Document, Fault, Random], None]:
    def change(item: Document, fault: Fault) -> None:
        said = item.get("joinTime")
        if isinstance(said, int | float):
            item["joinTime"] = value(said, fault)

    return _each(change)


def _count_mismatch(document: Document, fault: Fault, _chance: Random) -> None:
    document["count"] += fault.by


def _count_missing(document: Document, _fault: Fault, _chance: Random) -> None:
    document.pop("count", None)


def _item_without_id(document: Document, _fault: Fault, _chance: Random) -> None:
    for item in _objects(document)[:1]:
        item.pop("peerId", None)


def _item_not_object(document: Document, _fault: Fault, _chance: Random) -> None:
    document["participants"][:1] = [item.get("peerId") for item in _objects(document)[:1]]


def _duplicate_item(document: Document, _fault: Fault, _chance: Random) -> None:
    for item in _objects(document)[:1]:
        double = dict(item)
        if isinstance(double.get("joinTime"), int | float):
            double["joinTime"] += DUPLICATE_LATER_MILLISECONDS
        document["participants"].append(double)
        document["count"] = document.get("count", 0) + 1


def _join_time_missing(item: Document, _fault: Fault) -> None:
    item.pop("joinTime", None)


def _join_time_null(item: Document, _fault: Fault) -> None:
    item["joinTime"] = None


def _exit_time(item: Document, _fault: Fault) -> None:
    said = item.get("joinTime")
    item["exitTime"] = (said if isinstance(said, int | float) else 0) + EXIT_AFTER_MILLISECONDS


def _metadata_absent(item: Document, _fault: Fault) -> None:
    item.pop("metadata", None)


def _extra_fields(document: Document, _fault: Fault, _chance: Random) -> None:
    document["requestId"] = "req_1"
    document["page"] = {"next": None}
    for item in _objects(document):
        item["role"] = "guest"
        item["tracks"] = ["audio", "video"]


def _shuffled(document: Document, _fault: Fault, chance: Random) -> None:
    chance.shuffle(document["participants"])


def _api_v2_array(document: Document, _fault: Fault, _chance: Random) -> None:
    said = document["liveSessions"]
    spelt = {"roomId": "roomid", "startTime": "starttime"}
    document["liveSessions"] = [{spelt.get(key, key): value for key, value in said.items()}]


def _iso_times(document: Document, _fault: Fault, _chance: Random) -> None:
    for key, value in document.items():
        if key in TIME_KEYS and isinstance(value, int | float):
            document[key] = iso_time(value)
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            if isinstance(part, dict) and key != "metadata":
                _iso_times(part, _fault, _chance)


DISTORTIONS: dict[FaultKind, Callable[[Document, Fault, Random], None]] = {
    FaultKind.COUNT_MISMATCH: _count_mismatch,
    FaultKind.COUNT_MISSING: _count_missing,
    FaultKind.ITEM_WITHOUT_ID: _item_without_id,
    FaultKind.ITEM_NOT_OBJECT: _item_not_object,
    FaultKind.DUPLICATE_ITEM: _duplicate_item,
    FaultKind.JOIN_TIME_MISSING: _each(_join_time_missing),
    FaultKind.JOIN_TIME_NULL: _each(_join_time_null),
    FaultKind.JOIN_TIME_FUTURE: _join_time(lambda said, fault: said + round(fault.seconds_or(FUTURE_SECONDS) * 1000)),
    FaultKind.JOIN_TIME_ISO: _join_time(lambda said, _fault: iso_time(said)),
    FaultKind.JOIN_TIME_FLOAT: _join_time(lambda said, _fault: float(said)),
    FaultKind.EXIT_TIME: _each(_exit_time),
    FaultKind.METADATA_STRING: _metadata(lambda value: json.dumps(value, ensure_ascii=False)),
    FaultKind.METADATA_NOT_JSON: _metadata(lambda _value: "displayName=Ann; not JSON"),
    FaultKind.METADATA_NULL: _metadata(lambda _value: None),
    FaultKind.METADATA_ABSENT: _each(_metadata_absent),
    FaultKind.METADATA_ARRAY: _metadata(lambda value: [value]),
    FaultKind.METADATA_NUMBER: _metadata(lambda _value: 42),
    FaultKind.METADATA_HUGE: _metadata(lambda _value: {"displayName": "Ann", "notes": "x" * HUGE_CHARACTERS}),
    FaultKind.METADATA_SURROGATE: _metadata(lambda _value: {"displayName": "Ann \ud83d"}),
    FaultKind.EXTRA_FIELDS: _extra_fields,
    FaultKind.SHUFFLED: _shuffled,
    FaultKind.API_V2_ARRAY: _api_v2_array,
    FaultKind.ISO_TIMES: _iso_times,
}

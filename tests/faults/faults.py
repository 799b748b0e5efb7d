"""The faults of the simulated upstream: the effect of each, on which requests, and their turns.

Faults with `times` queue up: a request uses up one turn of the first that acts on it. Faults without `times` last until
they are replaced, and all of them that act on a request do so together. The faults of a room come before those of all
rooms. Those of connections (slow, timeout, reset, cut, repeated) and stale lists are in server.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from bridge.simulator.documents import NO_SESSION, UNAUTHORIZED, Response, encode, failure
from bridge.simulator.rooms import Json
from bridge.simulator.routes import Route, Target

Document = dict[str, Any]
HUGE_CHARACTERS = 16 * 1024
FUTURE_SECONDS = 3600.0
LATER_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: without `times` it lasts. The other options belong to single kinds."""

    kind: str
    times: int | None = None
    status: int = 500
    body: Json = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    by: int = 1
    seconds: float | None = None
    retry_after: float | str | None = None

    def __post_init__(self) -> None:
        assert self.kind in KINDS, f"no fault is of the kind {self.kind!r}"


# --- faults in the document of a room's participants, which change a true one in place

Change = Callable[[Document, Fault, Random], object]


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
    document["participants"].append({**first, "joinTime": first["joinTime"] + LATER_MILLISECONDS})
    document["count"] += 1


def _extra_fields(document: Document, _fault: Fault, _rng: Random) -> None:
    document |= {"requestId": "req_1", "page": {"next": None}}
    for item in document["participants"]:
        item |= {"role": "guest", "tracks": ["audio", "video"]}


PAYLOAD_FAULTS: dict[str, Change] = {
    "count_mismatch": lambda document, fault, _rng: document.update(count=document["count"] + fault.by),
    "count_missing": lambda document, _fault, _rng: document.pop("count"),
    "item_without_id": _first(lambda items: items[0].pop("peerId")),
    "item_not_object": _first(_replace_item_by_its_id),
    "duplicate_item": _duplicate_item,
    "join_time_missing": _each(lambda item, _fault: item.pop("joinTime")),
    "join_time_null": _join_time(lambda _time, _fault: None),
    "join_time_future": _join_time(lambda time, fault: time + round(1000 * (fault.seconds or FUTURE_SECONDS))),
    "join_time_iso": _join_time(lambda time, _fault: iso_time(time)),
    "join_time_float": _join_time(lambda time, _fault: float(time)),
    "exit_time": _each(lambda item, _fault: item.update(exitTime=item["joinTime"] + LATER_MILLISECONDS)),
    "metadata_string": _metadata(lambda value: json.dumps(value, ensure_ascii=False)),
    "metadata_not_json": _metadata(lambda _value: "displayName=Ann; not JSON"),
    "metadata_null": _metadata(lambda _value: None),
    "metadata_absent": _each(lambda item, _fault: item.pop("metadata")),
    "metadata_array": _metadata(lambda value: [value]),
    "metadata_number": _metadata(lambda _value: 42),
    "metadata_huge": _metadata(lambda _value: {"displayName": "Ann", "notes": "x" * HUGE_CHARACTERS}),
    "metadata_surrogate": _metadata(lambda _value: {"displayName": "Ann \ud83d"}),
    "extra_fields": _extra_fields,
    "shuffled": lambda document, _fault, rng: rng.shuffle(document["participants"]),
}

# --- faults in the response, and responses that a proxy gives in place of the upstream

Replace = Callable[[Response, Fault], Response]


def page(status: int, title: str) -> Response:
    """Return an HTML page of the kind that proxies send."""
    text = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return Response(status=status, raw=text.encode(), content_type="text/html; charset=utf-8")


def _status(_truth: Response, fault: Fault) -> Response:
    match fault.body:
        case None:
            response = page(fault.status, f"Simulated {fault.status}")
        case str(text):
            response = Response(status=fault.status, raw=text.encode(), content_type="text/plain; charset=utf-8")
        case document:
            response = Response(status=fault.status, document=document)
    return replace(response, headers=fault.headers, content_type=fault.content_type or response.content_type)


def _rate_limited(_truth: Response, fault: Fault) -> Response:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return replace(failure(429, "Too Many Requests"), headers=headers)


def _always(response: Response) -> Replace:
    return lambda _truth, _fault: response


def _no_session_as(response: Response) -> Replace:
    return lambda truth, _fault: response if truth == NO_SESSION else truth


RESPONSE_FAULTS: dict[str, Replace] = {
    "status": _status,
    "html_200": _always(page(200, "Welcome")),
    "truncated_json": lambda truth, _fault: replace(truth, raw=truth.body[: len(truth.body) // 2]),
    "not_json": _always(Response(raw=b"upstream connect error")),
    "unauthorized": _always(UNAUTHORIZED),
    "rate_limited": _rate_limited,
    "not_found_page": _always(page(404, "Not Found")),
    "not_found_other_json": _always(
        Response(status=404, document={"message": "No route matches this path", "code": "NOT_FOUND"})
    ),
    "no_session_412": _no_session_as(failure(412, "No ongoing meeting found")),
    "empty_200": _no_session_as(Response(raw=encode({"count": 0, "participants": []}))),
    "redirect": _always(replace(page(302, "Moved"), headers={"Location": "/moved-away"})),
    "ok_false_200": _always(failure(200, "Something went wrong")),
}
KINDS = {*PAYLOAD_FAULTS, *RESPONSE_FAULTS, "slow", "timeout", "reset", "cut", "repeated", "stale"}


@dataclass(slots=True)
class _Active:
    fault: Fault
    turns: int | None


class FaultBoard:
    """The faults that are switched on, for all rooms (None) and for single ones."""

    def __init__(self) -> None:
        self._by_room: dict[str | None, list[_Active]] = {}

    def replace(self, faults: Sequence[Fault], *, room_id: str | None = None) -> None:
        """Switch on exactly these."""
        self._by_room[room_id] = [_Active(fault, fault.times) for fault in faults]

    def __bool__(self) -> bool:
        return any(self._by_room.values())

    def take(self, target: Target, truth: Response) -> list[Fault]:
        """Return the faults that act on a request, foremost first, and use up the turn of the one that queues."""
        rooms = [None] if target.room_id is None else [target.room_id, None]
        active = [one for room in rooms for one in self._by_room.get(room, ()) if _acts(one.fault.kind, target, truth)]
        lasting = [one.fault for one in active if one.turns is None]
        for one in active:
            if one.turns:
                one.turns -= 1
                return [one.fault, *lasting]
        return lasting


def _acts(kind: str, target: Target, truth: Response) -> bool:
    """Whether a fault of this kind can act on a request whose true response is `truth`."""
    polled = target.route is Route.PARTICIPANTS
    match kind:
        case "no_session_412" | "empty_200":
            return polled and truth.status == 404
        case "stale":
            return polled
        case _ if kind in PAYLOAD_FAULTS:
            return polled and truth.status < 300
        case _:
            return True

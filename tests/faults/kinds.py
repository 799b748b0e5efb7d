"""The faults of the simulated upstream, the requests that each acts on, and their turns.

Faults with `times` queue up: a request uses up one turn of the first that acts on it. Faults without `times` last until
they are replaced, and all of them that act on a request do so together. The faults of a room come before those of all
rooms. What each does: payload_faults.py (documents), response_faults.py, and server.py (connections).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from bridge.simulator.documents import Response
from bridge.simulator.rooms import Json
from bridge.simulator.routes import Route, Target


class FaultKind(StrEnum):
    STATUS = "status"
    HTML_200 = "html_200"
    TRUNCATED_JSON = "truncated_json"
    NOT_JSON = "not_json"
    COUNT_MISMATCH = "count_mismatch"
    COUNT_MISSING = "count_missing"
    TIMEOUT = "timeout"
    SLOW = "slow"
    RESET = "reset"
    CUT = "cut"
    REPEATED = "repeated"
    UNAUTHORIZED = "unauthorized"
    RATE_LIMITED = "rate_limited"
    NOT_FOUND_PAGE = "not_found_page"
    NOT_FOUND_OTHER_JSON = "not_found_other_json"
    NO_SESSION_412 = "no_session_412"
    EMPTY_200 = "empty_200"
    REDIRECT = "redirect"
    OK_FALSE_200 = "ok_false_200"
    ITEM_WITHOUT_ID = "item_without_id"
    ITEM_NOT_OBJECT = "item_not_object"
    DUPLICATE_ITEM = "duplicate_item"
    JOIN_TIME_MISSING = "join_time_missing"
    JOIN_TIME_NULL = "join_time_null"
    JOIN_TIME_FUTURE = "join_time_future"
    JOIN_TIME_ISO = "join_time_iso"
    JOIN_TIME_FLOAT = "join_time_float"
    EXIT_TIME = "exit_time"
    METADATA_STRING = "metadata_string"
    METADATA_NOT_JSON = "metadata_not_json"
    METADATA_NULL = "metadata_null"
    METADATA_ABSENT = "metadata_absent"
    METADATA_ARRAY = "metadata_array"
    METADATA_NUMBER = "metadata_number"
    METADATA_HUGE = "metadata_huge"
    METADATA_SURROGATE = "metadata_surrogate"
    EXTRA_FIELDS = "extra_fields"
    SHUFFLED = "shuffled"
    STALE = "stale"
    API_V2_ARRAY = "api_v2_array"
    ISO_TIMES = "iso_times"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: without `times` it lasts. The other options belong to single kinds."""

    kind: FaultKind
    times: int | None = None
    status: int = 500
    body: Json = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    by: int = 1
    seconds: float | None = None
    retry_after: float | str | None = None


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

    def take(self, room_id: str | None, target: Target, truth: Response) -> list[Fault]:
        """Return the faults that act on a request, foremost first, and use up the turn of the one that queues."""
        rooms = [None] if room_id is None else [room_id, None]
        active = [one for room in rooms for one in self._by_room.get(room, ()) if _acts(one.fault.kind, target, truth)]
        lasting = [one.fault for one in active if one.turns is None]
        for one in active:
            if one.turns:
                one.turns -= 1
                return [one.fault, *lasting]
        return lasting


PARTICIPANT_FAULTS = frozenset(
    kind
    for kind in FaultKind
    if kind.startswith(("count_", "item_", "duplicate_", "join_time_", "exit_", "metadata_", "extra_", "shuffled"))
)


def _acts(kind: FaultKind, target: Target, truth: Response) -> bool:
    """Whether a fault of this kind can act on a request whose true response is `truth`."""
    polled, ok = target.route is Route.PARTICIPANTS, truth.status < 300
    match kind:
        case FaultKind.NO_SESSION_412 | FaultKind.EMPTY_200:
            return polled and truth.status == 404
        case FaultKind.STALE:
            return polled
        case FaultKind.API_V2_ARRAY:
            return target.route is Route.LIVE_SESSION and ok
        case _ if kind in PARTICIPANT_FAULTS:
            return polled and ok
        case _:
            return True

"""The faults that can be switched on, which requests each concerns, and whose turn it is.

Faults with `times` queue up: a request uses up one turn of the first that concerns it. Faults without `times` last
until they are replaced, and all of them that concern a request act on it together. A room's own faults come before
those for everywhere. What a fault does to an response: distortions.py (what is said) and breakages.py (how it arrives).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet


class Scope(StrEnum):
    """Which requests a fault concerns; a fault's turns are only used up by those."""

    ANY = "any request"
    PARTICIPANTS = "the participants of a room that the key owns"
    LIST = "the participants of a room, answered with a list"
    NO_SESSION = "the participants of a room without a session, unknown rooms included"
    LIVE_SESSION = "the live session of one room"


class FaultKind(StrEnum):
    """Everything that can go wrong."""

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


OPTIONS: dict[FaultKind, frozenset[str]] = {
    FaultKind.STATUS: frozenset({"status", "body", "content_type", "headers"}),
    FaultKind.COUNT_MISMATCH: frozenset({"by"}),
    FaultKind.TIMEOUT: frozenset({"seconds"}),
    FaultKind.SLOW: frozenset({"seconds"}),
    FaultKind.RATE_LIMITED: frozenset({"retry_after"}),
    FaultKind.JOIN_TIME_FUTURE: frozenset({"seconds"}),
    FaultKind.STALE: frozenset({"seconds"}),
}

SCOPES: dict[FaultKind, Scope] = {
    FaultKind.NO_SESSION_412: Scope.NO_SESSION,
    FaultKind.EMPTY_200: Scope.NO_SESSION,
    FaultKind.STALE: Scope.PARTICIPANTS,
    FaultKind.API_V2_ARRAY: Scope.LIVE_SESSION,
    FaultKind.COUNT_MISMATCH: Scope.LIST,
    FaultKind.COUNT_MISSING: Scope.LIST,
    FaultKind.ITEM_WITHOUT_ID: Scope.LIST,
    FaultKind.ITEM_NOT_OBJECT: Scope.LIST,
    FaultKind.DUPLICATE_ITEM: Scope.LIST,
    FaultKind.JOIN_TIME_MISSING: Scope.LIST,
    FaultKind.JOIN_TIME_NULL: Scope.LIST,
    FaultKind.JOIN_TIME_FUTURE: Scope.LIST,
    FaultKind.JOIN_TIME_ISO: Scope.LIST,
    FaultKind.JOIN_TIME_FLOAT: Scope.LIST,
    FaultKind.EXIT_TIME: Scope.LIST,
    FaultKind.METADATA_STRING: Scope.LIST,
    FaultKind.METADATA_NOT_JSON: Scope.LIST,
    FaultKind.METADATA_NULL: Scope.LIST,
    FaultKind.METADATA_ABSENT: Scope.LIST,
    FaultKind.METADATA_ARRAY: Scope.LIST,
    FaultKind.METADATA_NUMBER: Scope.LIST,
    FaultKind.METADATA_HUGE: Scope.LIST,
    FaultKind.METADATA_SURROGATE: Scope.LIST,
    FaultKind.EXTRA_FIELDS: Scope.LIST,
    FaultKind.SHUFFLED: Scope.LIST,
}
"""The kinds that are not here concern any request."""


class Fault(BaseModel):
    """One fault as the control API takes it; options belong to certain kinds only (OPTIONS)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Annotated[FaultKind, Field(strict=False)]
    times: int | None = Field(default=None, ge=1)
    status: int = Field(default=500, ge=200, le=599)
    body: Any = None
    content_type: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    by: int = 1
    seconds: float | None = Field(default=None, ge=0)
    retry_after: int | float | str | None = None

    @model_validator(mode="after")
    def _options_belong_to_the_kind(self) -> Self:
        allowed = OPTIONS.get(self.kind, frozenset())
        strangers = sorted(self.model_fields_set - allowed - {"kind", "times"})
        if strangers:
            takes = ", ".join(sorted(allowed)) or "nothing but times"
            raise ValueError(f"{self.kind.value} takes {takes}; it does not know {', '.join(strangers)}")
        if self.kind is FaultKind.STATUS and "status" not in self.model_fields_set:
            raise ValueError('status needs a status, as in {"kind": "status", "status": 503}')
        return self

    @property
    def scope(self) -> Scope:
        """Which requests this fault concerns."""
        return SCOPES.get(self.kind, Scope.ANY)

    def seconds_or(self, default: float) -> float:
        """The option `seconds`, in seconds."""
        return default if self.seconds is None else self.seconds


@dataclass(slots=True)
class _Armed:
    """A fault and the turns it has left; None is forever."""

    fault: Fault
    turns: int | None


class FaultBoard:
    """The faults that are switched on, for everywhere and for single rooms."""

    def __init__(self) -> None:
        self._everywhere: list[_Armed] = []
        self._by_room: dict[str, list[_Armed]] = {}

    def replace(self, faults: Sequence[Fault], *, room_id: str | None = None) -> None:
        """Switch on exactly these, for one room or (None) for everywhere."""
        armed = [_Armed(fault, fault.times) for fault in faults]
        if room_id is None:
            self._everywhere = armed
        elif armed:
            self._by_room[room_id] = armed
        else:
            self._by_room.pop(room_id, None)

    def clear(self) -> None:
        """Switch everything off, for all rooms."""
        self._everywhere.clear()
        self._by_room.clear()

    def __bool__(self) -> bool:
        return bool(self._everywhere or self._by_room)

    def take(self, room_id: str | None, scopes: AbstractSet[Scope]) -> list[Fault]:
        """The faults for one request, foremost first; the turn of the one that queues is used up by this."""
        on = self._everywhere if room_id is None else [*self._by_room.get(room_id, ()), *self._everywhere]
        concerned = [armed for armed in on if armed.fault.scope in scopes]
        lasting = [armed.fault for armed in concerned if armed.turns is None]
        for armed in concerned:
            if armed.turns:
                armed.turns -= 1
                return [armed.fault, *lasting]
        return lasting

"""The facts of events: one table of fields, and one of the types that have them.

`bodies.encode` writes exactly the fields of a type, in this order; JSON Schemas and AsyncAPI are generated from here,
and a test compares docs/events.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bridge.events.types import OWN_LOG, EventType
from bridge.rules.delivery import DisableReason
from bridge.rules.polling import UNAVAILABLE
from bridge.rules.presence import EmptyReason, LeaveReason, TimeSource
from bridge.rules.reconcile import RECONCILED, VisitChange


class Kind(StrEnum):
    """Types of values, by the words of docs/events.md."""

    TEXT = "text"
    TIME = "time"
    SECONDS = "seconds"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    LIST = "list"
    OBJECT = "object"
    JSON = "JSON"


@dataclass(frozen=True, slots=True)
class Field:
    """A field, with its meaning in Markdown.

    `null_in`: globs of the types in which it may be null. `values`: all that a text can be. `pattern`: what it looks
    like. `items`: the fields of each item of a list; without them, the items are texts.
    """

    kind: Kind
    meaning: str
    null_in: Collection[str] = ()
    values: Collection[str] = ()
    pattern: str | None = None
    items: Mapping[str, Field] | None = None


@dataclass(frozen=True, slots=True)
class TypeFacts:
    """A type of event: when it happens, and the fields of its `data`."""

    when: str
    fields: tuple[str, ...]


BODY: Final[Mapping[str, Field]] = {
    "id": Field(
        Kind.TEXT, "the event's id, the same as the header `webhook-id`: `evt_` and a ULID", pattern="^evt_[0-9a-z]+$"
    ),
    "type": Field(Kind.TEXT, "one of the types above", values=tuple(EventType)),
    "timestamp": Field(Kind.TIME, "when it happened, not when it was noticed or sent"),
    "schema_version": Field(Kind.INTEGER, "1"),
    "data": Field(Kind.OBJECT, "the fields below"),
}
"""Fields of every body."""

_PERSON: Final[Mapping[str, Field]] = {
    "visit_id": Field(
        Kind.TEXT,
        "one continuous presence of a peer: its joined, updated and left events have the same",
        pattern="^vis_[0-9a-z]+$",
    ),
    "peer_id": Field(Kind.TEXT, "the upstream's `peerId`: one connection, not one person"),
    "person_key": Field(
        Kind.TEXT,
        "the person, by `identity.person_key`: the first text at these paths of the metadata that is not empty; else "
        "what the source calls the person; else the peer id. Decided when the visit begins, and kept for it",
    ),
    "display_name": Field(
        Kind.TEXT,
        "the name, by `identity.display_name`: the first text at these paths, even if the metadata is cut; else what "
        "the source calls the peer; else the peer id",
    ),
}
_JOINED_AT: Final = Field(Kind.TIME, "the beginning of the visit")
_METADATA: Final = Field(
    Kind.JSON,
    "the peer's metadata from the upstream. JSON text that is an object is decoded. Null if there is none; "
    '`{"_truncated": true}` if it is larger than 8 KiB or nested deeper than 100 levels. `identity.metadata` may keep '
    "less of it",
)
_ROOM: Final[Mapping[str, Field]] = {
    "source": Field(
        Kind.TEXT, "the name of the source in the configuration; null in the bridge's own log", null_in=OWN_LOG
    ),
    "room_id": Field(Kind.TEXT, "the upstream's room id, unchanged; null in the bridge's own log", null_in=OWN_LOG),
}
_SEQUENCE: Final = Field(Kind.INTEGER, "the event's number in the log of its room: 1, 2, 3 … without gaps")

PEER_ITEM: Final[Mapping[str, Field]] = {**_PERSON, "joined_at": _JOINED_AT, "metadata": _METADATA}
"""Fields of each of the `peers` of a `room.snapshot`."""
VISIT_ITEM: Final[Mapping[str, Field]] = {
    **_PERSON,
    "joined_at": Field(Kind.TIME, "the beginning by the record, or as it was seen if the record lacks it"),
    "left_at": Field(Kind.TIME, "the end, likewise"),
    "left_at_source": Field(Kind.TEXT, "`reconciled`: by the record. Else as above", values=(*TimeSource, RECONCILED)),
    "duration_seconds": Field(Kind.SECONDS, "the difference of the two"),
    "change": Field(
        Kind.TEXT,
        "`none`. `corrected`: within the stated uncertainty. `added`: no poll saw the visit. `contradicted`: the "
        "record differs by more than the uncertainty, and its figures count",
        values=tuple(VisitChange),
    ),
}
"""Fields of each of the `visits` of a `session.reconciled`."""

FIELDS: Final[Mapping[str, Field]] = {
    **_ROOM,
    "room_name": Field(Kind.TEXT, "the room's `name` when the event was written; null if it has none", null_in=("*",)),
    "session_id": Field(
        Kind.TEXT,
        "one occupied period of the room, from the first join until it is empty. Null only in a `room.snapshot` of an "
        "empty room",
        null_in=("room.snapshot",),
        pattern="^ses_[0-9a-z]+$",
    ),
    "sequence": _SEQUENCE,
    **_PERSON,
    "joined_at": _JOINED_AT,
    "joined_at_source": Field(
        Kind.TEXT,
        "`upstream`: the upstream's `joinTime` (a number below 10¹¹ is in seconds, otherwise in milliseconds). "
        "`observed`: the poll that first saw the peer, because `joinTime` was missing or more than 5 minutes in the "
        "future",
        values=tuple(TimeSource),
    ),
    "left_at": Field(
        Kind.TIME,
        "the end of the visit: the first complete poll that missed the peer; with `rejoined`, usually the new "
        "`joinTime`",
    ),
    "left_at_source": Field(
        Kind.TEXT, "`observed`: by a poll. `upstream`: by the `joinTime` of the return", values=tuple(TimeSource)
    ),
    "last_seen_at": Field(Kind.TIME, "the last poll that saw the peer"),
    "duration_seconds": Field(Kind.SECONDS, "`joined_at` to `left_at`, or `started_at` to `ended_at`; never negative"),
    "uncertainty_seconds": Field(
        Kind.SECONDS, "how much earlier than `left_at` or `ended_at` the true end may have been"
    ),
    "leave_reason": Field(
        Kind.TEXT,
        "`absent`: no longer in the list. `session_ended`: the upstream knows of no session. `rejoined`: the same peer "
        "id is back with a `joinTime` that is newer by a second or more. `unwatched`: the room is no longer tracked",
        values=tuple(LeaveReason),
    ),
    "peer_count": Field(
        Kind.INTEGER,
        "the number of peers after this event, absolute: copy it instead of counting. In `peer.updated`, "
        "`room.occupied` and `room.snapshot`: after the whole poll",
    ),
    "initial": Field(
        Kind.BOOLEAN,
        "the visit was under way when tracking began, by its `joinTime`; without one, because the first poll saw the "
        "peer",
    ),
    "observed_at": Field(
        Kind.TIME,
        "when the bridge noticed it: at the poll; in `endpoint.*` at the delivery, in the last three types at the work",
    ),
    "metadata": _METADATA,
    "previous_metadata": Field(Kind.JSON, "the metadata before"),
    "started_at": Field(Kind.TIME, "`joined_at` of the session's first visit"),
    "ended_at": Field(Kind.TIME, "the latest `left_at` of the peers that left in this poll, or of the record"),
    "unique_peers": Field(Kind.INTEGER, "the number of different peer ids in the session"),
    "peak_peer_count": Field(Kind.INTEGER, "the largest number of peers at once that a poll saw"),
    "visit_count": Field(Kind.INTEGER, "the number of visits in the session: a peer that returned has several"),
    "empty_reason": Field(
        Kind.TEXT,
        "`no_session`: the upstream knows of no session. `absent`: the list is empty, or the room is no longer tracked "
        "(see `leave_reason` of its leaves)",
        values=tuple(EmptyReason),
    ),
    "part": Field(Kind.INTEGER, "the number of this part, from 1. The parts of a snapshot follow one another"),
    "parts": Field(Kind.INTEGER, "the number of parts; 1 up to 500 peers"),
    "peers": Field(Kind.LIST, "the peers of this part, by `joined_at`, then `peer_id`; see below", items=PEER_ITEM),
    "visits": Field(Kind.LIST, "every visit of the session as it is now; see below", items=VISIT_ITEM),
    "affected_source": Field(Kind.TEXT, "the name of the source"),
    "condition": Field(
        Kind.TEXT,
        "`unauthorized`: the API key is rejected. `failing`: most polls fail. In a `source.recovered`, the condition "
        "that has ended",
        values=tuple(sorted(UNAVAILABLE)),
    ),
    "detail": Field(Kind.TEXT, "the last failure in words; null in `source.recovered`", null_in=("source.*",)),
    "endpoint": Field(Kind.TEXT, "the endpoint's name. Not its URL, which may contain a token"),
    "reason": Field(
        Kind.TEXT,
        "`gone`: it responded 410. `failing`: no success for `disable_after`. Null in `endpoint.recovered`",
        null_in=("endpoint.recovered",),
        values=tuple(DisableReason),
    ),
    "since": Field(Kind.TIME, "the first failure that led to it", null_in=("endpoint.*",)),
    "merkle_root": Field(
        Kind.TEXT,
        "the hash over the ends of all logs just before this event, in hex",
        pattern="^[0-9a-f]{64}$",
    ),
    "room_count": Field(Kind.INTEGER, "the number of logs with events"),
    "event_count": Field(Kind.INTEGER, "the number of events that were ever written to them"),
    "visit_ids": Field(Kind.LIST, "the visits of the person"),
    "events": Field(
        Kind.LIST,
        "the events whose bodies are gone, each with `source`, `room_id` and `sequence`",
        items={**_ROOM, "sequence": _SEQUENCE},
    ),
}
"""Fields of `data`."""

_OWN: Final = ("source", "room_id", "room_name", "sequence")
_SESSION: Final = ("source", "room_id", "room_name", "session_id", "sequence")
_VISIT: Final = (*_SESSION, *_PERSON, "joined_at", "joined_at_source")
_STATE: Final = ("peer_count", "initial", "observed_at", "metadata")
_END: Final = ("left_at", "left_at_source", "last_seen_at", "duration_seconds", "uncertainty_seconds", "leave_reason")
_OCCUPIED: Final = (*_SESSION, "started_at", "peer_count", "observed_at")
_EMPTY: Final = (
    "ended_at", "duration_seconds", "uncertainty_seconds", "unique_peers", "peak_peer_count", "visit_count",
    "empty_reason",
)  # fmt: skip
_SOURCE: Final = (*_OWN, "affected_source", "condition", "since", "detail", "observed_at")
_ENDPOINT: Final = (*_OWN, "endpoint", "reason", "since", "observed_at")

TYPES: Final[Mapping[EventType, TypeFacts]] = {
    EventType.PEER_JOINED: TypeFacts("a peer is in the room that was not there before", (*_VISIT, *_STATE)),
    EventType.PEER_LEFT: TypeFacts("a peer is no longer in the room", (*_VISIT, *_END, *_STATE)),
    EventType.ROOM_EMPTY: TypeFacts(
        "the last peer has left: once per session, after the last `peer.left`", (*_OCCUPIED, *_EMPTY)
    ),
    EventType.ROOM_OCCUPIED: TypeFacts(
        "the first peer is there: once per session, before its first `peer.joined`", _OCCUPIED
    ),
    EventType.PEER_UPDATED: TypeFacts("the metadata of a peer has changed", (*_VISIT, *_STATE, "previous_metadata")),
    EventType.ROOM_SNAPSHOT: TypeFacts(
        "an endpoint starts to subscribe to this type: the peers in the room, to start from",
        (*_SESSION, "peer_count", "observed_at", "part", "parts", "peers"),
    ),
    EventType.SOURCE_UNAVAILABLE: TypeFacts("a source rejects its API key, or most of its polls fail", _SOURCE),
    EventType.SOURCE_RECOVERED: TypeFacts("a source responds again", _SOURCE),
    EventType.ENDPOINT_DISABLED: TypeFacts(
        "the bridge disabled an endpoint: it responded 410, or there was no success for `disable_after`", _ENDPOINT
    ),
    EventType.ENDPOINT_RECOVERED: TypeFacts(
        "the circuit of an endpoint has closed: it accepts deliveries again", _ENDPOINT
    ),
    EventType.SESSION_RECONCILED: TypeFacts(
        "the source's own record has corrected an ended session",
        (*_SESSION, "started_at", "ended_at", "observed_at", "visits"),
    ),
    EventType.AUDIT_CHECKPOINT: TypeFacts(
        "the state of all logs was recorded, as one hash",
        (*_OWN, "merkle_root", "room_count", "event_count", "observed_at"),
    ),
    EventType.PERSON_ERASED: TypeFacts(
        "a person was erased: the bodies of the listed events are gone", (*_OWN, "visit_ids", "events", "observed_at")
    ),
}

"""Bodies of events: from a change of presence to the canonical bytes that every attempt and replay carries.

The keys are those of `bridge.events.fields`: within one type and `schema_version` every key is always present. Times
are RFC 3339 in UTC, cut to milliseconds; spans are differences of the times as printed, so that a reader's arithmetic
agrees.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from bridge.events.fields import TYPES
from bridge.events.types import EventType
from bridge.rules.presence import (
    Change,
    Json,
    PeerJoined,
    PeerLeft,
    PeerUpdated,
    RoomEmptied,
    RoomOccupied,
    Session,
    Visit,
)

SCHEMA_VERSION = 1
SNAPSHOT_PEERS = 500
"""Most peers of one `room.snapshot`: with 8 KiB of metadata each, 4 MiB, which receivers take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomName:
    """Names of a room in events; all None in the bridge's own log."""

    source: str | None = None
    room_id: str | None = None
    room_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event that has no sequence yet; `audience` as in bridge.events.subscription."""

    type: EventType
    timestamp: datetime
    facts: Mapping[str, Json]
    audience: int | None = None


def rfc3339(moment: datetime) -> str:
    """UTC with milliseconds (cut, not rounded) and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def seconds_between(start: datetime, end: datetime) -> float:
    """Seconds between two times as printed, never negative: the clocks of two machines may disagree."""
    return max(0, _milliseconds(end) - _milliseconds(start)) / 1000


def draft(change: Change, observed_at: datetime) -> Draft:
    """The event of a change of presence."""
    match change:
        case RoomOccupied():
            return _occupied(change, observed_at)
        case PeerLeft():
            return _left(change, observed_at)
        case PeerJoined():
            facts = _peer_facts(change, observed_at)
            return Draft(type=EventType.PEER_JOINED, timestamp=change.visit.joined_at, facts=facts)
        case PeerUpdated():
            facts = {**_peer_facts(change, observed_at), "previous_metadata": change.previous_metadata}
            return Draft(type=EventType.PEER_UPDATED, timestamp=observed_at, facts=facts)
        case RoomEmptied():
            return _emptied(change, observed_at)


def draft_snapshots(session: Session | None, visits: Iterable[Visit], observed_at: datetime) -> list[Draft]:
    """The `room.snapshot` of a room, for an endpoint that has not followed it so far; one for each 500 peers."""
    peers: list[Json] = [
        {
            "visit_id": visit.visit_id,
            "peer_id": visit.peer_id,
            "person_key": visit.person_key,
            "display_name": visit.display_name,
            "joined_at": rfc3339(visit.joined_at),
            "metadata": visit.metadata,
        }
        for visit in sorted(visits, key=lambda visit: (visit.joined_at, visit.peer_id))
    ]
    parts = [peers[start : start + SNAPSHOT_PEERS] for start in range(0, len(peers), SNAPSHOT_PEERS)] or [[]]
    return [
        Draft(
            type=EventType.ROOM_SNAPSHOT,
            timestamp=observed_at,
            facts={
                "session_id": None if session is None else session.session_id,
                "peer_count": len(peers),
                "observed_at": rfc3339(observed_at),
                "part": number,
                "parts": len(parts),
                "peers": part,
            },
        )
        for number, part in enumerate(parts, 1)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciledVisit:
    """One of the `visits` of a `session.reconciled`."""

    visit_id: str
    peer_id: str
    person_key: str
    display_name: str
    joined_at: datetime
    left_at: datetime
    left_at_source: str
    change: str


def draft_reconciled(
    *,
    session_id: str,
    started_at: datetime,
    ended_at: datetime,
    visits: Iterable[ReconciledVisit],
    observed_at: datetime,
) -> Draft:
    """The event of a session that was corrected by the source's own record: all its visits as they are now."""
    return Draft(
        type=EventType.SESSION_RECONCILED,
        timestamp=observed_at,
        facts={
            "session_id": session_id,
            "started_at": rfc3339(started_at),
            "ended_at": rfc3339(ended_at),
            "observed_at": rfc3339(observed_at),
            "visits": [
                {
                    "visit_id": visit.visit_id,
                    "peer_id": visit.peer_id,
                    "person_key": visit.person_key,
                    "display_name": visit.display_name,
                    "joined_at": rfc3339(visit.joined_at),
                    "left_at": rfc3339(visit.left_at),
                    "left_at_source": visit.left_at_source,
                    "duration_seconds": seconds_between(visit.joined_at, visit.left_at),
                    "change": visit.change,
                }
                for visit in visits
            ],
        },
    )


def draft_checkpoint(*, merkle_root: bytes, room_count: int, event_count: int, at: datetime) -> Draft:
    """The event of a checkpoint over all logs as they were just before it."""
    return Draft(
        type=EventType.AUDIT_CHECKPOINT,
        timestamp=at,
        facts={
            "merkle_root": merkle_root.hex(),
            "room_count": room_count,
            "event_count": event_count,
            "observed_at": rfc3339(at),
        },
    )


def draft_erased(
    *, visit_ids: Iterable[str], events: Iterable[tuple[str | None, str | None, int]], at: datetime
) -> Draft:
    """The event of an erasure; `events` are (source, room id, sequence) of those whose bodies are gone."""
    erased: list[Json] = [
        {"source": source, "room_id": room_id, "sequence": sequence} for source, room_id, sequence in events
    ]
    return Draft(
        type=EventType.PERSON_ERASED,
        timestamp=at,
        facts={"visit_ids": list(visit_ids), "events": erased, "observed_at": rfc3339(at)},
    )


def encode(draft: Draft, room: RoomName, *, event_id: str, sequence: int) -> bytes:
    """The canonical body: style `standard`, compact UTF-8 JSON."""
    facts = {
        "source": room.source,
        "room_id": room.room_id,
        "room_name": room.room_name,
        "sequence": sequence,
        **draft.facts,
    }
    data = {name: facts[name] for name in TYPES[draft.type].fields}
    body = {
        "id": event_id,
        "type": draft.type.value,
        "timestamp": rfc3339(draft.timestamp),
        "schema_version": SCHEMA_VERSION,
        "data": data,
    }
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


def _occupied(change: RoomOccupied, observed_at: datetime) -> Draft:
    return Draft(
        type=EventType.ROOM_OCCUPIED,
        timestamp=change.session.started_at,
        facts={
            "session_id": change.session.session_id,
            "started_at": rfc3339(change.session.started_at),
            "peer_count": change.peer_count,
            "observed_at": rfc3339(observed_at),
        },
    )


def _emptied(change: RoomEmptied, observed_at: datetime) -> Draft:
    session = change.session
    return Draft(
        type=EventType.ROOM_EMPTY,
        timestamp=change.ended_at,
        facts={
            "session_id": session.session_id,
            "started_at": rfc3339(session.started_at),
            "peer_count": 0,
            "observed_at": rfc3339(observed_at),
            "ended_at": rfc3339(change.ended_at),
            "duration_seconds": seconds_between(session.started_at, change.ended_at),
            "uncertainty_seconds": seconds_between(change.last_seen_at, change.ended_at),
            "unique_peers": session.unique_peers,
            "peak_peer_count": session.peak_peer_count,
            "visit_count": session.visit_count,
            "empty_reason": change.reason.value,
        },
    )


def _visit_facts(session_id: str, visit: Visit) -> dict[str, Json]:
    return {
        "session_id": session_id,
        "visit_id": visit.visit_id,
        "peer_id": visit.peer_id,
        "person_key": visit.person_key,
        "display_name": visit.display_name,
        "joined_at": rfc3339(visit.joined_at),
        "joined_at_source": visit.joined_at_source.value,
    }


def _peer_facts(change: PeerJoined | PeerUpdated, observed_at: datetime) -> dict[str, Json]:
    return {
        **_visit_facts(change.session_id, change.visit),
        "peer_count": change.peer_count,
        "initial": change.visit.initial,
        "observed_at": rfc3339(observed_at),
        "metadata": change.visit.metadata,
    }


def _left(change: PeerLeft, observed_at: datetime) -> Draft:
    visit = change.visit
    return Draft(
        type=EventType.PEER_LEFT,
        timestamp=change.left_at,
        facts={
            **_visit_facts(change.session_id, visit),
            "left_at": rfc3339(change.left_at),
            "left_at_source": change.left_at_source.value,
            "last_seen_at": rfc3339(visit.last_seen_at),
            "duration_seconds": seconds_between(visit.joined_at, change.left_at),
            "uncertainty_seconds": seconds_between(visit.last_seen_at, change.left_at),
            "leave_reason": change.reason.value,
            "peer_count": change.peer_count,
            "initial": visit.initial,
            "observed_at": rfc3339(observed_at),
            "metadata": visit.metadata,
        },
    )


def draft_source(
    *, available: bool, source: str, condition: str, since: datetime, detail: str | None, observed_at: datetime
) -> Draft:
    """The event of a source that became unavailable or recovered; `since` is the time of the first failure."""
    return Draft(
        type=EventType.SOURCE_RECOVERED if available else EventType.SOURCE_UNAVAILABLE,
        timestamp=observed_at,
        facts={
            "affected_source": source,
            "condition": condition,
            "since": rfc3339(since),
            "detail": detail,
            "observed_at": rfc3339(observed_at),
        },
    )


def draft_endpoint(
    *, recovered: bool, endpoint: str, reason: str | None, since: datetime | None, at: datetime
) -> Draft:
    """The event of an endpoint that was disabled (`reason`: gone, failing) or recovered.

    It has the name, not the URL, which may contain a token: the event goes to other endpoints.
    """
    return Draft(
        type=EventType.ENDPOINT_RECOVERED if recovered else EventType.ENDPOINT_DISABLED,
        timestamp=at,
        facts={
            "endpoint": endpoint,
            "reason": reason,
            "since": None if since is None else rfc3339(since),
            "observed_at": rfc3339(at),
        },
    )

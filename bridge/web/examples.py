"""Examples for the OpenAPI document, made of the records themselves, so that they have the keys of real responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from bridge.admin.attempts import ListedAttempt, ListedDeadLetter
from bridge.admin.endpoints import HIDDEN, ListedEndpoint, ShownEndpoint, ShownSecret
from bridge.admin.listing import document
from bridge.admin.presence import OccupiedRoom
from bridge.admin.rooms import CurrentSession, ListedRoom, PresentPeer, RoomState, ShownRoom
from bridge.admin.sessions import ListedSession
from bridge.attendance.audit import Heads
from bridge.delivery.hooks import AddedHook
from bridge.events.bodies import RoomName, encode
from bridge.events.samples import draft_sample
from bridge.events.types import DEFAULT_TYPES, OF_BRIDGE, EventType
from bridge.rules.attendance import AttendedSession, AttendedVisit, Report, person_rows, total_row, visit_rows
from bridge.rules.chain import ChainHead, merkle_root
from bridge.rules.polling import Condition

_NOW: Final = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
_ID: Final = "01kb4r6m3qv8y2c5t7w9x0z1an"
_PEER: Final = PresentPeer(
    visit_id=f"vis_{_ID}",
    peer_id="peerId-4cRF64LOB6dWF_d0qEzQs",
    display_name="akmo3.eth",
    joined_at=_NOW - timedelta(minutes=30),
    joined_at_source="upstream",
    last_seen_at=_NOW,
    initial=False,
    metadata={"displayName": "akmo3.eth"},
)
_ROOM: Final[Mapping[str, Any]] = {
    "room_id": "abc-defg-hij",
    "name": "Weekly stand-up",
    "source": "main",
    "origin": "manual",
    "enabled": True,
    "state": RoomState.OCCUPIED,
    "peer_count": 1,
    "session_id": f"ses_{_ID}",
    "interval_seconds": None,
    "leave_after_missed": None,
    "added_at": _NOW - timedelta(days=30),
    "polled_at": _NOW,
    "next_poll_at": _NOW + timedelta(seconds=10),
    "failures": 0,
    "last_failure": None,
}
_SESSION: Final = CurrentSession(
    id=f"ses_{_ID}", started_at=_NOW - timedelta(minutes=30), visit_count=1, unique_peers=1, peak_peer_count=1
)
_ATTENDED: Final = AttendedSession(
    room_id="abc-defg-hij",
    room_name="Weekly stand-up",
    session_id=f"ses_{_ID}",
    started_at=_NOW - timedelta(minutes=30),
    ended_at=_NOW,
)
_VISIT: Final = AttendedVisit(
    visit_id=_PEER.visit_id,
    peer_id=_PEER.peer_id,
    person_key=_PEER.peer_id,
    display_name=_PEER.display_name,
    joined_at=_NOW - timedelta(minutes=30),
    joined_at_source="upstream",
    joined_after=None,
    last_seen_at=_NOW - timedelta(seconds=10),
    left_at=_NOW,
    left_at_source="observed",
    leave_reason="absent",
)
_HEAD: Final = ChainHead(source="main", room_id="abc-defg-hij", sequence=42, hash=bytes(range(32)))
_HEADS: Final = Heads(at=_NOW, merkle_root=merkle_root([_HEAD]), event_count=42, heads=(_HEAD,))
_PROBLEM: Final = {
    "source": "main",
    "room_id": "abc-defg-hij",
    "sequence": 7,
    "problem": "changed",
    "detail": "the body is not the one that was committed to",
}

_URL: Final = "https://crm.example.com/hooks/presence"
_ENDPOINT: Final[Mapping[str, Any]] = {
    "id": f"ep_{_ID}",
    "name": "crm",
    "url": _URL,
    "events": DEFAULT_TYPES,
    "rooms": ("*",),
    "style": "standard",
    "signature": "v1",
    "origin": "manual",
    "created_at": _NOW - timedelta(days=30),
    "state": "active",
    "state_reason": None,
    "circuit": "closed",
    "failures_in_row": 0,
    "failing_since": None,
    "last_success_at": _NOW,
    "paused_until": None,
    "owed_rooms": 0,
    "owed_events": 0,
    "dead_letters": 1,
    "rate_per_second": 0.0,
    "max_concurrency": 8,
    "timeout_seconds": None,
}
_OF_EVENT: Final[Mapping[str, Any]] = {
    "event_id": f"evt_{_ID}",
    "type": EventType.PEER_LEFT.value,
    "source": "main",
    "room_id": "abc-defg-hij",
    "sequence": 42,
    "endpoint": "crm",
    "endpoint_id": f"ep_{_ID}",
}
_ATTEMPT: Final = ListedAttempt(
    **_OF_EVENT,
    id="att_7",
    kind="live",
    started_at=_NOW,
    duration_seconds=0.031,
    outcome="delivered",
    status=200,
    cause=None,
    detail="",
    response="ok",
)
_SECRET: Final = ShownSecret(
    secret=f"whsec_{HIDDEN}", public_key=None, generated=True, created_at=_NOW, expires_at=None
)
_SHOWN_ENDPOINT: Final = document(ShownEndpoint(**_ENDPOINT, headers={}, secrets=(_SECRET,), last_attempt=_ATTEMPT))
_MADE: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_HOOK: Final = AddedHook(
    id=f"ep_{_ID}",
    name=f"hook_{_ID}",
    url="https://hooks.example.com/catch/1",
    events=(EventType.PEER_JOINED.value,),
    room_id="abc-defg-hij",
    secret=_MADE,
)


def example_body(kind: EventType) -> Any:  # noqa: ANN401 - a JSON document
    """Return the body of an event in style `standard`."""
    about_room = kind not in OF_BRIDGE
    room = RoomName(source="main", room_id="abc-defg-hij", room_name="Weekly stand-up") if about_room else RoomName()
    draft = draft_sample(kind, _NOW, lambda prefix: f"{prefix}_{_ID}")
    return json.loads(encode(draft, room, event_id=f"evt_{_ID}", sequence=42))


EXAMPLES: Final[Mapping[str, Any]] = {
    "Me": {"name": "ops", "scopes": ["read", "write"]},
    "PresentPeer": document(_PEER),
    "ListedRoom": document(ListedRoom(**_ROOM)),
    "ShownRoom": document(ShownRoom(**_ROOM, source_condition=Condition.OK, session=_SESSION, peers=(_PEER,))),
    "NewRoom": {"room_id": "abc-defg-hij", "name": "Weekly stand-up", "interval": "5s"},
    "OccupiedRoom": document(
        OccupiedRoom(
            source="main",
            room_id="abc-defg-hij",
            room_name="Weekly stand-up",
            state=RoomState.OCCUPIED,
            peer_count=1,
            peers=(_PEER,),
        )
    ),
    "ListedSession": document(
        ListedSession(
            id=f"ses_{_ID}",
            source="main",
            room_id="abc-defg-hij",
            room_name="Weekly stand-up",
            started_at=_NOW - timedelta(minutes=30),
            ended_at=_NOW,
            duration_seconds=1800.0,
            empty_reason="absent",
            visit_count=3,
            unique_peers=2,
            peak_peer_count=2,
            record_outcome="reconciled",
        )
    ),
    "PolledRoom": {
        "room_id": "abc-defg-hij",
        "source": "main",
        "polled_at": "2026-11-23T09:30:00.000Z",
        "outcome": "complete",
        "detail": None,
        "notes": [],
        "peer_count": 1,
        "peers": [document(_PEER)],
        "changes": [],
        "event_count": 0,
    },
    "Event": example_body(EventType.PEER_LEFT),
    "ListedAttempt": document(_ATTEMPT),
    "ListedDeadLetter": document(ListedDeadLetter(**_OF_EVENT, parked_at=_NOW, reason="rejected", tries=3)),
    "AtEndpoint": {"endpoint": "crm"},
    "Count": {"count": 1},
    "ListedEndpoint": document(ListedEndpoint(**_ENDPOINT)),
    "ShownSecret": document(_SECRET),
    "ShownEndpoint": _SHOWN_ENDPOINT,
    "AddedEndpoint": {**_SHOWN_ENDPOINT, "secret": _MADE, "public_key": None},
    "NewEndpoint": {"name": "crm", "url": _URL, "events": ["peer.*", "room.empty"], "timeout": "10s"},
    "Rotation": {"grace": "24h"},
    "TestRequest": {"type": "peer.joined"},
    "SentSample": {
        "event_id": f"evt_{_ID}",
        "type": "peer.joined",
        "outcome": "delivered",
        "status": 200,
        "cause": None,
        "detail": "",
        "duration_seconds": 0.031,
        "response": "ok",
    },
    "Replay": {"since": "2026-11-23T09:00:00Z", "failed": True, "dry_run": True},
    "NewHook": {"hookUrl": "https://hooks.example.com/catch/1", "event": "peer.joined", "room_id": "abc-defg-hij"},
    "AddedHook": document(_HOOK),
    "ReconciledSession": {
        "session_id": f"ses_{_ID}",
        "source": "main",
        "room_id": "abc-defg-hij",
        "outcome": "reconciled",
        "changed": True,
        "notes": ["1 corrected"],
    },
    "VisitRow": next(visit_rows(_ATTENDED, [_VISIT], Report(zone=ZoneInfo("UTC")))),
    "PersonRow": next(person_rows(_ATTENDED, [_VISIT], Report(zone=ZoneInfo("UTC")))),
    "TotalRow": total_row([(_ATTENDED, _VISIT)], Report(zone=ZoneInfo("UTC"))),
    "LogHead": _HEADS.document["rooms"][0],
    "LogHeads": _HEADS.document,
    "VerificationStart": {"at": "2026-11-23T09:30:00.000Z"},
    "AuditProblem": _PROBLEM,
    "VerificationResult": {
        "at": "2026-11-23T09:30:00.000Z",
        "ok": False,
        "rooms": 1,
        "events": 42,
        "pruned": 0,
        "erased": 0,
        "problems": [_PROBLEM],
    },
    "ErasedVisits": {"visits": 3},
}
"""By the name of the schema. A new topic adds its own."""

"""Examples for the OpenAPI document, made of the records themselves, so that they have the keys of real responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bridge.admin.listing import document
from bridge.admin.presence import OccupiedRoom
from bridge.admin.rooms import CurrentSession, ListedRoom, PresentPeer, RoomState, ShownRoom
from bridge.admin.sessions import ListedSession
from bridge.events.bodies import RoomName, encode
from bridge.events.samples import draft_sample
from bridge.events.types import EventType
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
}
"""By the name of the schema. A new topic adds its own."""


def example_body(kind: EventType) -> Any:  # noqa: ANN401 - a JSON document
    """Return the body of an event in style `standard`."""
    about_room = kind.value.startswith(("peer.", "room.", "session."))
    room = RoomName(source="main", room_id="abc-defg-hij", room_name="Weekly stand-up") if about_room else RoomName()
    draft = draft_sample(kind, _NOW, lambda prefix: f"{prefix}_{_ID}")
    return json.loads(encode(draft, room, event_id=f"evt_{_ID}", sequence=42))

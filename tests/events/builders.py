"""Parts of events: a room, a session, a visit and its end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bridge.events.bodies import RoomName
from bridge.rules.presence import Json, LeaveReason, PeerLeft, Session, TimeSource, Visit

ROOM = RoomName(source="main", room_id="abc-defg-hij", room_name="Weekly stand-up")
JOINED = datetime(2026, 11, 23, 9, 0, 4, 512_000, tzinfo=UTC)
SEEN = datetime(2026, 11, 23, 9, 29, 49, 2_000, tzinfo=UTC)
LEFT = datetime(2026, 11, 23, 9, 29, 59, 7_000, tzinfo=UTC)
SESSION = Session(session_id="ses_1", started_at=JOINED, visit_count=7, unique_peers=5, peak_peer_count=4)


def visit(metadata: Json = None, **changes: Any) -> Visit:  # noqa: ANN401 - any field of a visit
    fields: dict[str, Any] = {
        "visit_id": "vis_1",
        "peer_id": "peerId-4cRF64LOB6dWF_d0qEzQs",
        "display_name": "akmo3.eth",
        "joined_at": JOINED,
        "joined_at_source": TimeSource.UPSTREAM,
        "join_time": JOINED,
        "last_seen_at": SEEN,
        "metadata": metadata,
        "initial": False,
    }
    return Visit(**fields | changes)


def left(of: Visit | None = None, **changes: Any) -> PeerLeft:  # noqa: ANN401 - any field of a leave
    fields: dict[str, Any] = {
        "visit": of or visit({"displayName": "akmo3.eth"}),
        "session_id": "ses_1",
        "left_at": LEFT,
        "left_at_source": TimeSource.OBSERVED,
        "reason": LeaveReason.ABSENT,
        "peer_count": 2,
    }
    return PeerLeft(**fields | changes)

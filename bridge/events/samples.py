"""Sample events for testing endpoints: the shapes of real ones, with invented people."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from bridge.events.bodies import Draft, draft, draft_endpoint, draft_snapshots, draft_source
from bridge.events.types import EventType
from bridge.rules.presence import (
    Change,
    EmptyReason,
    LeaveReason,
    PeerJoined,
    PeerLeft,
    PeerUpdated,
    RoomEmptied,
    RoomOccupied,
    Session,
    TimeSource,
    Visit,
)

VISIT = timedelta(minutes=30)
INTERVAL = timedelta(seconds=10)
SAMPLED = (
    EventType.PEER_JOINED,
    EventType.PEER_LEFT,
    EventType.ROOM_EMPTY,
    EventType.ROOM_OCCUPIED,
    EventType.PEER_UPDATED,
    EventType.ROOM_SNAPSHOT,
    EventType.SOURCE_UNAVAILABLE,
    EventType.SOURCE_RECOVERED,
    EventType.ENDPOINT_DISABLED,
    EventType.ENDPOINT_RECOVERED,
)
"""Types with samples."""


def draft_sample(wanted: EventType, now: datetime, new_id: Callable[[str], str]) -> Draft:
    """A sample of an event type, as if it happened at `now`.

    Raises:
        KeyError: there are no samples of that type (see `SAMPLED`).
    """
    session = Session(
        session_id=new_id("ses"), started_at=now - VISIT, visit_count=1, unique_peers=1, peak_peer_count=1
    )
    visit = Visit(
        visit_id=new_id("vis"),
        peer_id="peerId-0000000000000000sample",
        display_name="Ada Sample",
        joined_at=now - VISIT,
        joined_at_source=TimeSource.UPSTREAM,
        join_time=now - VISIT,
        last_seen_at=now - INTERVAL,
        metadata={"displayName": "Ada Sample"},
        initial=False,
    )
    named = {"session_id": session.session_id}
    changes: dict[EventType, Change] = {
        EventType.PEER_JOINED: PeerJoined(visit=visit, peer_count=1, **named),
        EventType.PEER_UPDATED: PeerUpdated(visit=visit, previous_metadata=None, peer_count=1, **named),
        EventType.PEER_LEFT: PeerLeft(
            visit=visit,
            left_at=now,
            left_at_source=TimeSource.OBSERVED,
            reason=LeaveReason.ABSENT,
            peer_count=0,
            **named,
        ),
        EventType.ROOM_OCCUPIED: RoomOccupied(session=session, peer_count=1),
        EventType.ROOM_EMPTY: RoomEmptied(
            session=session, ended_at=now, last_seen_at=visit.last_seen_at, reason=EmptyReason.ABSENT
        ),
    }
    if wanted in changes:
        return draft(changes[wanted], now)
    return {
        EventType.ROOM_SNAPSHOT: draft_snapshots(session, [visit], now)[0],
        EventType.SOURCE_UNAVAILABLE: _source(now, available=False),
        EventType.SOURCE_RECOVERED: _source(now, available=True),
        EventType.ENDPOINT_DISABLED: _endpoint(now, recovered=False),
        EventType.ENDPOINT_RECOVERED: _endpoint(now, recovered=True),
    }[wanted]


def _source(now: datetime, *, available: bool) -> Draft:
    detail = None if available else "timeout: no whole response within 8 s"
    return draft_source(
        available=available, source="main", condition="failing", since=now - VISIT, detail=detail, observed_at=now
    )


def _endpoint(now: datetime, *, recovered: bool) -> Draft:
    reason = None if recovered else "failing"
    return draft_endpoint(recovered=recovered, endpoint="sample", reason=reason, since=now - VISIT, at=now)

"""Sample events for testing endpoints: the shapes of real ones, with invented people."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from bridge.events.bodies import (
    Draft,
    ReconciledVisit,
    draft,
    draft_checkpoint,
    draft_endpoint,
    draft_erased,
    draft_reconciled,
    draft_snapshots,
    draft_source,
)
from bridge.events.types import EventType
from bridge.rules.identity import IdentityPolicy, keep_metadata
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
DEFAULT_IDENTITY = IdentityPolicy()
SAMPLED = tuple(EventType)
"""Types with samples: all."""


def draft_sample(
    wanted: EventType, now: datetime, new_id: Callable[[str], str], identity: IdentityPolicy = DEFAULT_IDENTITY
) -> Draft:
    """A sample of an event type, as if it happened at `now`; it has the metadata that `identity` keeps.

    Raises:
        KeyError: there are no samples of that type (see `SAMPLED`).
    """
    session = Session(
        session_id=new_id("ses"), started_at=now - VISIT, visit_count=1, unique_peers=1, peak_peer_count=1
    )
    visit = Visit(
        visit_id=new_id("vis"),
        peer_id="peerId-0000000000000000sample",
        person_key="ada@example.com",
        display_name="Ada Sample",
        joined_at=now - VISIT,
        joined_at_source=TimeSource.UPSTREAM,
        join_time=now - VISIT,
        last_seen_at=now - INTERVAL,
        metadata=keep_metadata({"displayName": "Ada Sample", "email": "ada@example.com"}, identity),
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
        EventType.SESSION_RECONCILED: _reconciled(session, visit, now),
        EventType.AUDIT_CHECKPOINT: draft_checkpoint(merkle_root=bytes(32), room_count=1, event_count=4, at=now),
        EventType.PERSON_ERASED: draft_erased(
            visit_ids=[visit.visit_id], events=[("main", "abc-defg-hij", 2), ("main", "abc-defg-hij", 3)], at=now
        ),
        EventType.SOURCE_UNAVAILABLE: _source(now, available=False),
        EventType.SOURCE_RECOVERED: _source(now, available=True),
        EventType.ENDPOINT_DISABLED: _endpoint(now, recovered=False),
        EventType.ENDPOINT_RECOVERED: _endpoint(now, recovered=True),
    }[wanted]


def _reconciled(session: Session, visit: Visit, now: datetime) -> Draft:
    corrected = ReconciledVisit(
        visit_id=visit.visit_id,
        peer_id=visit.peer_id,
        person_key=visit.person_key,
        display_name=visit.display_name,
        joined_at=visit.joined_at,
        left_at=now - INTERVAL / 2,
        left_at_source="reconciled",
        change="corrected",
    )
    return draft_reconciled(
        session_id=session.session_id,
        started_at=session.started_at,
        ended_at=corrected.left_at,
        visits=[corrected],
        observed_at=now,
    )


def _source(now: datetime, *, available: bool) -> Draft:
    detail = None if available else "timeout: no whole response within 8 s"
    return draft_source(
        available=available, source="main", condition="failing", since=now - VISIT, detail=detail, observed_at=now
    )


def _endpoint(now: datetime, *, recovered: bool) -> Draft:
    reason = None if recovered else "failing"
    return draft_endpoint(recovered=recovered, endpoint="sample", reason=reason, since=now - VISIT, at=now)

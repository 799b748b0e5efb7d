"""Snapshots, peers and rooms in a few words; seconds count from START."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count

from bridge.rules.presence import (
    ABSENT,
    Absent,
    Change,
    FirstSnapshot,
    Json,
    Peer,
    PeerJoined,
    PeerLeft,
    PeerUpdated,
    Presence,
    PresenceDiff,
    PresencePolicy,
    RoomEmptied,
    RoomOccupied,
    Snapshot,
    diff,
)

START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def peer(peer_id: str, joined: float | None = None, metadata: Json | Absent = ABSENT) -> Peer:
    return Peer(peer_id=peer_id, join_time=None if joined is None else at(joined), metadata=metadata)


def seen(*peers: Peer | str, complete: bool = True, no_session: bool = False) -> Snapshot:
    """A snapshot with these peers; as from Huddle01, equal ones have equal fingerprints."""
    found = tuple(peer(one) if isinstance(one, str) else one for one in peers)
    fingerprint = repr((found, complete, no_session)).encode()
    return Snapshot(peers=found, complete=complete, no_session=no_session, fingerprint=fingerprint)


def ids() -> Callable[[str], str]:
    numbers = count(1)
    return lambda prefix: f"{prefix}_{next(numbers)}"


def policy(missed: int = 1, first: FirstSnapshot = FirstSnapshot.EMIT) -> PresencePolicy:
    return PresencePolicy(leave_after_missed=missed, first_snapshot=first)


@dataclass(slots=True, kw_only=True)
class Room:
    """A room that takes snapshots; between sessions it forgets the peers that have departed, as the database does."""

    policy: PresencePolicy = field(default_factory=PresencePolicy)
    presence: Presence = field(default_factory=lambda: Presence(tracked_since=START))
    new_id: Callable[[str], str] = field(default_factory=ids)

    def diff(self, seconds: float, *peers: Peer | str, complete: bool = True, no_session: bool = False) -> PresenceDiff:
        snapshot = seen(*peers, complete=complete, no_session=no_session)
        difference = diff(self.presence, snapshot, self.policy, at(seconds), self.new_id)
        after = difference.after
        self.presence = after if after.session is not None else replace(after, departed=frozenset())
        return difference

    def see(
        self, seconds: float, *peers: Peer | str, complete: bool = True, no_session: bool = False
    ) -> tuple[Change, ...]:
        return self.diff(seconds, *peers, complete=complete, no_session=no_session).changes


def brief(changes: tuple[Change, ...]) -> list[str]:
    """Return the changes in order, each with its peer and the count after it."""
    return [_brief(change) for change in changes]


def _brief(change: Change) -> str:
    match change:
        case RoomOccupied():
            return f"occupied {change.peer_count}"
        case PeerLeft():
            return f"left {change.visit.peer_id} {change.reason.value} {change.peer_count}"
        case PeerJoined():
            return f"joined {change.visit.peer_id} {change.peer_count}"
        case PeerUpdated():
            return f"updated {change.visit.peer_id} {change.peer_count}"
        case RoomEmptied():
            return f"empty {change.reason.value}"

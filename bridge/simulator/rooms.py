"""Rooms of the simulated upstream, their sessions and visits. Every rule about them lives here; times are arguments.

A session starts at the first join into a room without one, and ends some lag after the last leave; a peer that joins
while it is present has left and come back. Times are epoch milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bridge.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


@dataclass(slots=True, kw_only=True)
class Visit:
    """One stay of a peer, from `joined_at` (the upstream's `joinTime`) to `left_at` (its `exitTime`)."""

    peer_id: str
    joined_at: int
    metadata: Json
    left_at: int | None = None


@dataclass(slots=True, kw_only=True)
class Session:
    """One occupied period of a room, as the upstream counts them."""

    session_id: str
    started_at: int
    visits: list[Visit] = field(default_factory=list)
    empty_since: int | None = None
    ended_at: int | None = None


@dataclass(slots=True, kw_only=True)
class Room:
    """A room of one project (`api_key`), with all its sessions."""

    room_id: str
    api_key: str = field(repr=False)
    created_at: int
    metadata: Json = None
    present: dict[str, Visit] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    listing: bytes | None = field(default=None, repr=False)
    """The list of participants as last serialized (upstream.py); every change clears it."""

    @property
    def session(self) -> Session | None:
        """The session under way, if there is one."""
        newest = self.sessions[-1] if self.sessions else None
        return newest if newest is not None and newest.ended_at is None else None

    def join(self, visit: Visit, *, now: int, new_session_id: Callable[[], str]) -> None:
        """Let a peer in, starting a session if none is under way."""
        if visit.peer_id in self.present:
            self.leave(visit.peer_id, now=now)
        session = self.session
        if session is None:
            session = Session(session_id=new_session_id(), started_at=visit.joined_at)
            self.sessions.append(session)
        session.empty_since = None
        session.visits.append(visit)
        self.present[visit.peer_id] = visit
        self.listing = None

    def leave(self, peer_id: str, *, now: int) -> None:
        """Let a peer go.

        Raises:
            NotFoundError: the peer is not in the room.
        """
        self._visit_of(peer_id).left_at = now
        del self.present[peer_id]
        session = self.session
        if session is not None and not self.present:
            session.empty_since = now
        self.listing = None

    def change_metadata(self, peer_id: str, metadata: Json) -> None:
        """Give a peer new metadata.

        Raises:
            NotFoundError: the peer is not in the room.
        """
        self._visit_of(peer_id).metadata = metadata
        self.listing = None

    def end(self, *, now: int) -> None:
        """Let all peers go and end the session at once, whatever the lag."""
        for peer_id in list(self.present):
            self.leave(peer_id, now=now)
        session = self.session
        if session is not None:
            session.ended_at = now

    def expire(self, *, now: int, lag: int) -> None:
        """End the session if the room has been empty for `lag` milliseconds."""
        session = self.session
        if session is not None and session.empty_since is not None and now >= session.empty_since + lag:
            session.ended_at = session.empty_since + lag

    def _visit_of(self, peer_id: str) -> Visit:
        visit = self.present.get(peer_id)
        if visit is None:
            present = ", ".join(self.present) or "none"
            raise NotFoundError(f"peer {peer_id!r} is not in room {self.room_id!r} (peers in it: {present})")
        return visit

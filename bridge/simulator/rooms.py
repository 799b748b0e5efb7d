"""What is true in a simulated room: visits, sessions, history. Every rule about them lives here; times are arguments.

Rules (upstream.md 6.4, 6.5): a session starts at the first join into a room without one, and ends some lag after the
last leave; a peer that joins while it is already there has left and come back. Times are epoch milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from bridge.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
JoinTime = int | float | str | None


class What(StrEnum):
    """What can happen in a room."""

    JOIN = "join"
    LEAVE = "leave"
    METADATA = "metadata"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One line of a room's history; `peer_id` is None when it is about the session."""

    at: int
    what: What
    peer_id: str | None = None


@dataclass(slots=True, kw_only=True)
class Visit:
    """One stay of a peer. `joined_at` is the truth, `join_time` what the upstream says, if `says_join_time`."""

    peer_id: str
    joined_at: int
    join_time: JoinTime
    metadata_changes: list[tuple[int, Json]]
    says_join_time: bool = True
    says_metadata: bool = True
    left_at: int | None = None

    def was_there(self, when: int) -> bool:
        """Whether the peer was in the room at `when`; the moment of leaving is no longer part of the visit."""
        return self.joined_at <= when and (self.left_at is None or when < self.left_at)

    def metadata_at(self, when: int) -> Json:
        """The metadata that held at `when`."""
        return next((value for at, value in reversed(self.metadata_changes) if at <= when), self.metadata_changes[0][1])

    @property
    def metadata(self) -> Json:
        """The newest metadata."""
        return self.metadata_changes[-1][1]


@dataclass(slots=True, kw_only=True)
class Session:
    """One occupied period of a room, as the upstream counts them."""

    session_id: str
    started_at: int
    visits: list[Visit] = field(default_factory=list)
    empty_since: int | None = None
    ended_at: int | None = None

    def was_live(self, when: int) -> bool:
        """Whether the session was under way at `when`."""
        return self.started_at <= when and (self.ended_at is None or when < self.ended_at)


@dataclass(slots=True, kw_only=True)
class Room:
    """A room of one project (`api_key`), and all that ever happened in it."""

    room_id: str
    api_key: str = field(repr=False)
    created_at: int
    metadata: Json = None
    locked: bool = False
    present: dict[str, Visit] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    history: list[Happening] = field(default_factory=list)
    listing: bytes | None = field(default=None, repr=False)
    """The list of participants as last serialised (answers.py); every change clears it."""

    @property
    def session(self) -> Session | None:
        """The session under way, if there is one."""
        newest = self.sessions[-1] if self.sessions else None
        return newest if newest is not None and newest.ended_at is None else None

    def join(self, visit: Visit, *, new_session_id: Callable[[], str]) -> None:
        """Let a peer in, starting a session if none is under way."""
        if visit.peer_id in self.present:
            self.leave(visit.peer_id, now=visit.joined_at)
        session = self.session
        if session is None:
            session = Session(session_id=new_session_id(), started_at=visit.joined_at)
            self.sessions.append(session)
        session.empty_since = None
        session.visits.append(visit)
        self.present[visit.peer_id] = visit
        self._record(What.JOIN, now=visit.joined_at, peer_id=visit.peer_id)

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
        self._record(What.LEAVE, now=now, peer_id=peer_id)

    def change_metadata(self, peer_id: str, metadata: Json, *, now: int) -> None:
        """Give a peer new metadata.

        Raises:
            NotFoundError: the peer is not in the room.
        """
        self._visit_of(peer_id).metadata_changes.append((now, metadata))
        self._record(What.METADATA, now=now, peer_id=peer_id)

    def end(self, *, now: int) -> None:
        """Send everybody home and end the session at once; nothing happens without a session."""
        for peer_id in list(self.present):
            self.leave(peer_id, now=now)
        session = self.session
        if session is not None:
            self._close(session, at=now)

    def settle(self, *, now: int, lag: int) -> None:
        """End the session whose room has been empty for `lag` milliseconds."""
        session = self.session
        if session is None or session.empty_since is None or now < session.empty_since + lag:
            return
        self._close(session, at=session.empty_since + lag)

    def visits_at(self, when: int) -> list[Visit] | None:
        """Who was there at `when`, by order of joining; None if no session was under way."""
        session = next((session for session in reversed(self.sessions) if session.was_live(when)), None)
        return None if session is None else [visit for visit in session.visits if visit.was_there(when)]

    def _close(self, session: Session, *, at: int) -> None:
        session.ended_at = at
        self._record(What.END, now=at)

    def _visit_of(self, peer_id: str) -> Visit:
        visit = self.present.get(peer_id)
        if visit is None:
            there = ", ".join(self.present) or "nobody"
            raise NotFoundError(f"peer {peer_id!r} is not in room {self.room_id!r} (there now: {there})")
        return visit

    def _record(self, what: What, *, now: int, peer_id: str | None = None) -> None:
        self.listing = None
        self.history.append(Happening(at=now, what=what, peer_id=peer_id))

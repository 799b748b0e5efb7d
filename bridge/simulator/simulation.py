"""The simulated upstream as a whole: projects and their keys, and the rooms of each.

Deterministic: the clock is an argument, and with a seed so are the ids: the same calls in the same order give the same
ones. No I/O; server.py serves it.
"""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING

from bridge.errors import NotFoundError, UsageError
from bridge.simulator.identity import new_peer_id, new_session_id
from bridge.simulator.rooms import Json, Room, Session, Visit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_API_KEY = "simulated-key"


def wall_now() -> int:
    """Return the machine's time in epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Simulation:
    """The rooms of one or several Huddle01 projects."""

    def __init__(
        self,
        *,
        api_keys: Sequence[str] = (DEFAULT_API_KEY,),
        now: Callable[[], int] = wall_now,
        seed: int | str | None = None,
        end_lag_seconds: float = 0.0,
    ) -> None:
        self.api_keys = list(api_keys)
        self.now = now
        self.end_lag_seconds = end_lag_seconds
        """Seconds from the last leave to the end of the session."""
        self.rooms: dict[str, Room] = {}
        self._rng = Random(seed)

    def add_room(self, room_id: str, *, api_key: str | None = None, metadata: Json = None) -> Room:
        """Create a room in the project of the key, by default the first one; a new key makes a new project.

        Raises:
            UsageError: the room exists.
        """
        key = self.api_keys[0] if api_key is None else api_key
        if room_id in self.rooms:
            raise UsageError(f"room {room_id!r} exists already")
        if key not in self.api_keys:
            self.api_keys.append(key)
        room = Room(room_id=room_id, api_key=key, created_at=self.now(), metadata=metadata)
        self.rooms[room_id] = room
        return room

    def room(self, room_id: str) -> Room:
        """Return the room as it is now.

        Raises:
            NotFoundError: the room does not exist.
        """
        room = self.rooms.get(room_id)
        if room is None:
            raise NotFoundError(f"there is no room {room_id!r}; a join creates it")
        self._expire(room)
        return room

    def owned_room(self, room_id: str, api_key: str) -> Room | None:
        """Return the room if it belongs to the key's project; a foreign room looks like an unknown one."""
        room = self.rooms.get(room_id)
        if room is None or room.api_key != api_key:
            return None
        self._expire(room)
        return room

    def owned_rooms(self, api_key: str) -> list[Room]:
        """Return all rooms of the key's project, oldest first."""
        owned = [room for room in self.rooms.values() if room.api_key == api_key]
        for room in owned:
            self._expire(room)
        return owned

    def owned_session(self, session_id: str, api_key: str) -> Session | None:
        """Return the session, past or present, if its room belongs to the key's project."""
        sessions = (session for room in self.owned_rooms(api_key) for session in room.sessions)
        return next((session for session in sessions if session.session_id == session_id), None)

    def join(
        self, room_id: str, *, peer_id: str | None = None, metadata: Json = None, joined_at: int | None = None
    ) -> Visit:
        """Let a peer in, creating the room if needed; default: a new peer id, joined now."""
        now = self.now()
        room = self.room(room_id) if room_id in self.rooms else self.add_room(room_id)
        visit = Visit(
            peer_id=new_peer_id(self._rng) if peer_id is None else peer_id,
            joined_at=now if joined_at is None else joined_at,
            metadata=metadata,
        )
        room.join(visit, now=now, new_session_id=lambda: new_session_id(self._rng))
        return visit

    def leave(self, room_id: str, peer_id: str) -> None:
        """Let a peer go.

        Raises:
            NotFoundError: the room does not exist, or the peer is not in it.
        """
        self.room(room_id).leave(peer_id, now=self.now())

    def change_metadata(self, room_id: str, peer_id: str, metadata: Json) -> None:
        """Give a peer new metadata.

        Raises:
            NotFoundError: the room does not exist, or the peer is not in it.
        """
        self.room(room_id).change_metadata(peer_id, metadata)

    def end(self, room_id: str) -> None:
        """Let all peers go and end the session at once.

        Raises:
            NotFoundError: the room does not exist.
        """
        self.room(room_id).end(now=self.now())

    def _expire(self, room: Room) -> None:
        room.expire(now=self.now(), lag=round(self.end_lag_seconds * 1000))

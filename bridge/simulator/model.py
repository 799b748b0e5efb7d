"""The simulated upstream as a whole: projects and their keys, rooms, settings, faults, the requests it has seen.

Deterministic: the clock is an argument, and with a seed so is chance. The same calls in the same order then give the
same ids. No I/O; server.py puts it on a socket, control.py lets other processes steer it.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, StrEnum
from random import Random
from typing import TYPE_CHECKING

from bridge.errors import NotFoundError, UsageError
from bridge.simulator.clock import Clock
from bridge.simulator.faults import FaultBoard
from bridge.simulator.identity import new_peer_id, new_room_id, new_session_id
from bridge.simulator.requests import RequestLog
from bridge.simulator.rooms import JoinTime, Json, Room, Session, Visit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

DEFAULT_API_KEY = "simulated-key"


class EmptyAs(StrEnum):
    """How the upstream says that a room of ours has no session: which of the two is true is not known."""

    NOT_FOUND = "404"
    EMPTY_LIST = "200"


class Said(Enum):
    """What stands for a joinTime that nobody gave."""

    BY_THE_CLOCK = "by the clock"


@dataclass(slots=True, kw_only=True)
class Settings:
    """What can be changed while it runs. `end_lag_seconds`: from the last leave to the end of the session."""

    end_lag_seconds: float = 0.0
    empty_as: EmptyAs = EmptyAs.NOT_FOUND


class Simulation:
    """A Huddle01 that nobody has an account with."""

    def __init__(
        self,
        *,
        api_keys: Sequence[str] = (DEFAULT_API_KEY,),
        clock: Clock | None = None,
        seed: int | str | None = None,
    ) -> None:
        if not api_keys:
            raise UsageError("a simulation needs at least one API key")
        self.api_keys = list(dict.fromkeys(api_keys))
        self.clock = clock or Clock()
        self.chance = Random(seed)
        self.wire_chance = Random(self.chance.random())  # of its own, so that polling does not change ids to come
        self.settings = Settings()
        self.faults = FaultBoard()
        self.requests = RequestLog()
        self.rooms: dict[str, Room] = {}
        self._room_of_session: dict[str, str] = {}

    def add_room(
        self,
        room_id: str | None = None,
        *,
        api_key: str | None = None,
        metadata: Json = None,
        locked: bool = False,
    ) -> Room:
        """Create a room; a key that is new becomes another project's.

        Raises:
            UsageError: there is such a room already.
        """
        key = self.api_keys[0] if api_key is None else api_key
        name = new_room_id(self.chance) if room_id is None else room_id
        if name in self.rooms:
            raise UsageError(f"room {name!r} exists already")
        if key not in self.api_keys:
            self.api_keys.append(key)
        room = Room(room_id=name, api_key=key, created_at=self.clock.now(), metadata=metadata, locked=locked)
        self.rooms[name] = room
        return room

    def room(self, room_id: str) -> Room:
        """The room as it stands now.

        Raises:
            NotFoundError: there is no such room.
        """
        room = self.rooms.get(room_id)
        if room is None:
            raise NotFoundError(f"there is no room {room_id!r}; a join creates it")
        self.settle(room)
        return room

    def settle(self, room: Room) -> None:
        """End a session whose time is up."""
        room.settle(now=self.clock.now(), lag=round(self.settings.end_lag_seconds * 1000))

    def owned_room(self, room_id: str, api_key: str) -> Room | None:
        """The room if it belongs to the key's project; foreign and unknown rooms read_health the same."""
        room = self.rooms.get(room_id)
        if room is None or room.api_key != api_key:
            return None
        self.settle(room)
        return room

    def owned_rooms(self, api_key: str) -> list[Room]:
        """All rooms of the key's project, oldest first."""
        owned = [room for room in self.rooms.values() if room.api_key == api_key]
        for room in owned:
            self.settle(room)
        return owned

    def owned_session(self, session_id: str, api_key: str) -> Session | None:
        """The session, past or present, if its room belongs to the key's project."""
        room = self.owned_room(self._room_of_session.get(session_id, ""), api_key)
        sessions = room.sessions if room is not None else ()
        return next((session for session in sessions if session.session_id == session_id), None)

    def room_of_session(self, session_id: str) -> str | None:
        """The id of the room that the session is or was in."""
        return self._room_of_session.get(session_id)

    def join(
        self,
        room_id: str,
        *,
        peer_id: str | None = None,
        metadata: Json = None,
        join_time: JoinTime | Said = Said.BY_THE_CLOCK,
        says_join_time: bool = True,
        says_metadata: bool = True,
    ) -> Visit:
        """Let a peer in (a new id if none is given), creating the room for the first key if it is unknown."""
        now = self.clock.now()
        room = self.room(room_id) if room_id in self.rooms else self.add_room(room_id)
        visit = Visit(
            peer_id=new_peer_id(self.chance) if peer_id is None else peer_id,
            joined_at=now,
            join_time=now if join_time is Said.BY_THE_CLOCK else join_time,
            metadata_changes=[(now, metadata)],
            says_join_time=says_join_time,
            says_metadata=says_metadata,
        )
        room.join(visit, new_session_id=lambda: self._new_session_id(room_id))
        return visit

    def leave(self, room_id: str, peer_id: str) -> None:
        """Let a peer go.

        Raises:
            NotFoundError: no such room, or the peer is not there.
        """
        self.room(room_id).leave(peer_id, now=self.clock.now())

    def change_metadata(self, room_id: str, peer_id: str, metadata: Json) -> None:
        """Give a peer new metadata.

        Raises:
            NotFoundError: no such room, or the peer is not there.
        """
        self.room(room_id).change_metadata(peer_id, metadata, now=self.clock.now())

    def end(self, room_id: str) -> None:
        """Send everybody home and end the session at once, whatever the lag.

        Raises:
            NotFoundError: there is no such room.
        """
        self.room(room_id).end(now=self.clock.now())

    @contextmanager
    def all_or_nothing(self, room_ids: Iterable[str]) -> Iterator[None]:
        """Put the named rooms back as they were if the block fails."""
        before = {room_id: copy.deepcopy(self.rooms.get(room_id)) for room_id in room_ids}
        try:
            yield
        except Exception:
            for room_id, room in before.items():
                if room is None:
                    self.rooms.pop(room_id, None)
                else:
                    self.rooms[room_id] = room
            raise

    def _new_session_id(self, room_id: str) -> str:
        session_id = new_session_id(self.chance)
        self._room_of_session[session_id] = room_id
        return session_id

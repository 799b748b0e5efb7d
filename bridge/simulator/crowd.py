"""A crowd with a life of its own: people come, go, drop out and come back, raise hands; now and then a session ends.

Every choice is made by the crowd's own dice: the same seed and the same calls give the same life.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from bridge.simulator.identity import new_peer_id, new_person, new_room_id
from bridge.simulator.rooms import Json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bridge.simulator.model import Simulation
    from bridge.simulator.rooms import Room, Visit

FULL = 6  # nobody joins a room with so many in it

JOIN, LEAVE, RAISE_HAND, DROP_OUT, END = 5, 4, 2, 2, 1
"""How often each happens in a room where it can, in relation to the others."""
COME_BACK = 6

Person = dict[str, Json]


def room_ids(seed: int | str, count: int) -> tuple[str, ...]:
    """The ids of a seed's first rooms: whoever else knows the seed knows them."""
    chance = Random(f"rooms of {seed}")
    return tuple(new_room_id(chance) for _ in range(count))


class Crowd:
    """People in some rooms of a simulation; each `step` is one thing that one of them does."""

    def __init__(self, simulation: Simulation, *, seed: int | str, rooms: Sequence[str]) -> None:
        self._simulation = simulation
        self._chance = Random(f"crowd of {seed}")
        self._rooms = list(rooms)
        for name in rooms:
            if name not in simulation.rooms:
                simulation.add_room(name)
        self._dropped_out: dict[str, tuple[str, Json]] = {}

    def step(self) -> str:
        """Let one thing happen, and say what: `abc-defg-hij: Noa joins`."""
        room = self._simulation.room(self._chance.choice(self._rooms))
        possible = self._possible_in(room)
        (act,) = self._chance.choices([act for act, _ in possible], weights=[weight for _, weight in possible])
        return f"{room.room_id}: {act(room)}"

    def pause(self, rate: float) -> float:
        """Seconds until the next step, at `rate` steps a second on the average."""
        return self._chance.uniform(0.5, 1.5) / rate

    def _possible_in(self, room: Room) -> list[tuple[Callable[[Room], str], int]]:
        possible: list[tuple[Callable[[Room], str], int]] = []
        if room.room_id in self._dropped_out:
            possible.append((self._come_back, COME_BACK))
        if len(room.present) < FULL:
            possible.append((self._join, JOIN))
        if room.present:
            possible += [(self._leave, LEAVE), (self._raise_hand, RAISE_HAND), (self._drop_out, DROP_OUT)]
            possible.append((self._end, END))
        return possible

    def _join(self, room: Room) -> str:
        there = {_name(visit.metadata) for visit in room.present.values()}
        person = new_person(self._chance)
        while person["displayName"] in there:
            person = new_person(self._chance)
        self._simulation.join(room.room_id, peer_id=new_peer_id(self._chance), metadata=person)
        return f"{person['displayName']} joins"

    def _leave(self, room: Room) -> str:
        visit = self._somebody_in(room)
        self._simulation.leave(room.room_id, visit.peer_id)
        return f"{_name(visit.metadata)} leaves"

    def _raise_hand(self, room: Room) -> str:
        visit = self._somebody_in(room)
        if not isinstance(visit.metadata, dict):
            return f"{visit.peer_id} waits"
        raised = not visit.metadata.get("isHandRaised")
        self._simulation.change_metadata(room.room_id, visit.peer_id, {**visit.metadata, "isHandRaised": raised})
        return f"{_name(visit.metadata)} {'raises' if raised else 'lowers'} a hand"

    def _drop_out(self, room: Room) -> str:
        visit = self._somebody_in(room)
        self._simulation.leave(room.room_id, visit.peer_id)
        self._dropped_out[room.room_id] = (visit.peer_id, visit.metadata)
        return f"{_name(visit.metadata)} drops out"

    def _come_back(self, room: Room) -> str:
        peer_id, metadata = self._dropped_out.pop(room.room_id)
        self._simulation.join(room.room_id, peer_id=peer_id, metadata=metadata)
        return f"{_name(metadata)} is back, under the same peer id"

    def _end(self, room: Room) -> str:
        self._simulation.end(room.room_id)
        return "the session ends"

    def _somebody_in(self, room: Room) -> Visit:
        return self._chance.choice(list(room.present.values()))


def _name(metadata: Json) -> str:
    name = metadata.get("displayName") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else "somebody"

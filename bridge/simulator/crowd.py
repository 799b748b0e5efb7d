"""A crowd in some rooms: people join, leave, drop out and come back, raise hands; now and then a session ends.

Every choice comes from the crowd's own random numbers: the same seed and the same calls give the same changes.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from bridge.simulator.identity import new_peer_id, new_person, new_room_id
from bridge.simulator.rooms import Json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bridge.simulator.rooms import Room, Visit
    from bridge.simulator.simulation import Simulation

FULL = 6
"""The number of people in a full room."""
JOIN, LEAVE, RAISE_HAND, DROP_OUT, ALL_LEAVE, END = 10, 8, 4, 4, 1, 2
"""The relative frequency of each change in a room where it is possible."""
COME_BACK = 12


def room_ids(seed: int | str, count: int) -> tuple[str, ...]:
    """Return the ids of a seed's first rooms."""
    rng = Random(f"rooms of {seed}")
    return tuple(new_room_id(rng) for _ in range(count))


class Crowd:
    """People in some rooms of a simulation; each `step` is one change."""

    def __init__(self, simulation: Simulation, *, seed: int | str, rooms: Sequence[str]) -> None:
        self._simulation = simulation
        self._rng = Random(f"crowd of {seed}")
        self._rooms = list(rooms)
        for name in rooms:
            if name not in simulation.rooms:
                simulation.add_room(name)
        self._dropped_out: dict[str, tuple[str, Json]] = {}

    def step(self) -> str:
        """Make one change and return its description: `abc-defg-hij: Noa joins`."""
        room = self._simulation.room(self._rng.choice(self._rooms))
        possible = self._possible_in(room)
        (act,) = self._rng.choices([act for act, _ in possible], weights=[weight for _, weight in possible])
        return f"{room.room_id}: {act(room)}"

    async def run(self, rate: float, on_step: Callable[[str], object] = lambda _: None) -> None:
        """Make about `rate` changes per second until cancelled; `on_step` gets the description of each."""
        while True:
            on_step(self.step())
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) / rate)

    def _possible_in(self, room: Room) -> list[tuple[Callable[[Room], str], int]]:
        possible: list[tuple[Callable[[Room], str], int]] = []
        if room.room_id in self._dropped_out:
            possible.append((self._come_back, COME_BACK))
        if len(room.present) < FULL:
            possible.append((self._join, JOIN))
        if room.present:
            possible += [(self._leave, LEAVE), (self._raise_hand, RAISE_HAND), (self._drop_out, DROP_OUT)]
            possible += [(self._all_leave, ALL_LEAVE), (self._end, END)]
        return possible

    def _join(self, room: Room) -> str:
        taken = {_name(visit.metadata) for visit in room.present.values()}
        person = new_person(self._rng)
        while person["displayName"] in taken:
            person = new_person(self._rng)
        self._simulation.join(room.room_id, peer_id=new_peer_id(self._rng), metadata=person)
        return f"{person['displayName']} joins"

    def _leave(self, room: Room) -> str:
        visit = self._anyone_in(room)
        self._simulation.leave(room.room_id, visit.peer_id)
        return f"{_name(visit.metadata)} leaves"

    def _raise_hand(self, room: Room) -> str:
        visit = self._anyone_in(room)
        if not isinstance(visit.metadata, dict):
            return f"{visit.peer_id} waits"
        raised = not visit.metadata.get("isHandRaised")
        self._simulation.change_metadata(room.room_id, visit.peer_id, {**visit.metadata, "isHandRaised": raised})
        return f"{_name(visit.metadata)} {'raises' if raised else 'lowers'} a hand"

    def _drop_out(self, room: Room) -> str:
        visit = self._anyone_in(room)
        self._simulation.leave(room.room_id, visit.peer_id)
        self._dropped_out[room.room_id] = (visit.peer_id, visit.metadata)
        return f"{_name(visit.metadata)} drops out"

    def _come_back(self, room: Room) -> str:
        peer_id, metadata = self._dropped_out.pop(room.room_id)
        self._simulation.join(room.room_id, peer_id=peer_id, metadata=metadata)
        return f"{_name(metadata)} is back, under the same peer id"

    def _all_leave(self, room: Room) -> str:
        for peer_id in list(room.present):
            self._simulation.leave(room.room_id, peer_id)
        return "everyone leaves"

    def _end(self, room: Room) -> str:
        self._simulation.end(room.room_id)
        return "the session ends"

    def _anyone_in(self, room: Room) -> Visit:
        return self._rng.choice(list(room.present.values()))


def _name(metadata: Json) -> str:
    name = metadata.get("displayName") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else "a guest"

"""A lively afternoon in several simulated rooms: random, by a seed, in a thread of its own until it is told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import TracebackType
from typing import Any, Self

from tests.harness.simulator import SimulatorClient
from tests.harness.waiting import PATIENCE, wait_until

Step = dict[str, Any]
CROWD = 8
"""Above so many peers nobody joins a room."""


class BusyRooms:
    """People come, go, swap, return and leave together; `steps` counts what happened. Use as a context manager."""

    def __init__(self, simulator: SimulatorClient, rooms: Sequence[str], *, seed: int, pause: float = 0.03) -> None:
        self.steps = 0
        self._simulator = simulator
        self._rooms = rooms
        self._chance = Random(seed)  # noqa: S311 - a scenario wants a seed, not secrecy
        self._pause = pause
        self._present: dict[str, list[str]] = {room: [] for room in rooms}
        self._newcomers = 0
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="busy rooms", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(PATIENCE)
        if error is None:
            assert self._failure is None, f"the rooms fell silent: {self._failure!r}"

    def wait_for_steps(self, count: int) -> None:
        """Wait until that much more has happened."""
        target = self.steps + count
        wait_until(lambda: self.steps >= target or self._failure, what=f"{count} more steps in the rooms")

    def truth(self) -> Mapping[str, set[str]]:
        """Who is in each room according to the simulator itself."""
        return {room: self._simulator.members(room) for room in self._rooms}

    def _run(self) -> None:
        try:
            for room in self._rooms:
                self._simulator.script(*self._join(room))
            while not self._over.wait(self._pause):
                self._simulator.script(*self._next())
                self.steps += 1
        except BaseException as failure:  # noqa: BLE001 - the test's thread says it
            self._failure = failure

    def _next(self) -> list[Step]:
        room = self._chance.choice(self._rooms)
        crowd = self._present[room]
        if not crowd:
            return self._join(room)
        if len(crowd) >= CROWD:
            return self._all_leave(room)
        kinds: Sequence[Callable[[str], list[Step]]] = (
            self._join, self._leave, self._swap, self._return, self._rename, self._all_leave, self._end
        )  # fmt: skip
        (kind,) = self._chance.choices(kinds, weights=(40, 25, 10, 8, 8, 4, 3))
        return kind(room)

    def _join(self, room: str) -> list[Step]:
        self._newcomers += 1
        peer = f"peer-{self._newcomers}"
        self._present[room].append(peer)
        return [{"room": room, "do": "join", "peer_id": peer, "metadata": {"displayName": f"Person {peer}"}}]

    def _leave(self, room: str) -> list[Step]:
        crowd = self._present[room]
        return [{"room": room, "do": "leave", "peer_id": crowd.pop(self._chance.randrange(len(crowd)))}]

    def _swap(self, room: str) -> list[Step]:
        return [*self._leave(room), *self._join(room)]

    def _return(self, room: str) -> list[Step]:
        peer = self._chance.choice(self._present[room])
        return [{"room": room, "do": "leave", "peer_id": peer}, {"room": room, "do": "join", "peer_id": peer}]

    def _rename(self, room: str) -> list[Step]:
        peer = self._chance.choice(self._present[room])
        return [{"room": room, "do": "metadata", "peer_id": peer, "metadata": {"step": self.steps}}]

    def _all_leave(self, room: str) -> list[Step]:
        crowd, self._present[room] = self._present[room], []
        return [{"room": room, "do": "leave", "peer_id": peer} for peer in crowd]

    def _end(self, room: str) -> list[Step]:
        self._present[room] = []
        return [{"room": room, "do": "end"}]

"""The simulated upstream as the tests use it: with faults, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from bridge.simulator import Simulation
from bridge.simulator.crowd import Crowd
from bridge.simulator.rooms import Json, Visit
from tests.faults.faults import Fault
from tests.faults.server import VIA, FaultyUpstream, Poll
from tests.harness.deliveries import wait_until_delivered
from tests.harness.log import replay
from tests.harness.loop_thread import LoopThread
from tests.harness.receiver import Receiver
from tests.harness.waiting import PATIENCE, wait_until

T = TypeVar("T")


class Simulator(LoopThread):
    """A Huddle01 on loopback. Use as a context manager; `url` is its address without a path."""

    def __init__(self) -> None:
        super().__init__("simulator")
        self.url = ""
        self.upstream = FaultyUpstream(Simulation())

    async def _serve(self) -> None:
        async with self.upstream.serve() as self.url:
            self._ready()
            await self._stopping.wait()

    def at_once(self, change: Callable[[Simulation], T]) -> T:
        """Change several things between two responses."""

        async def call() -> T:
            return change(self.upstream.simulation)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(PATIENCE)

    # rooms and peers

    def join(self, room: str, *peer_ids: str, metadata: Json = None, joined_at: int | None = None) -> None:
        def change(simulation: Simulation) -> None:
            for peer_id in peer_ids:
                simulation.join(room, peer_id=peer_id, metadata=metadata, joined_at=joined_at)

        self.at_once(change)

    def leave(self, room: str, *peer_ids: str) -> None:
        def change(simulation: Simulation) -> None:
            for peer_id in peer_ids:
                simulation.leave(room, peer_id)

        self.at_once(change)

    def swap(self, room: str, *, leave: str, join: str) -> None:
        """Let one peer go and another one in, between two responses."""

        def change(simulation: Simulation) -> None:
            simulation.leave(room, leave)
            simulation.join(room, peer_id=join)

        self.at_once(change)

    def set_metadata(self, room: str, peer_id: str, metadata: Json) -> None:
        self.at_once(lambda simulation: simulation.change_metadata(room, peer_id, metadata))

    def end(self, room: str) -> None:
        """Let all peers go and end the session at once."""
        self.at_once(lambda simulation: simulation.end(room))

    def set_end_lag(self, seconds: float) -> None:
        """Set the time from the last leave to the end of a session."""
        self.upstream.simulation.end_lag_seconds = seconds

    def members(self, room: str) -> set[str]:
        """Return the ids of the peers in the room."""
        return self.at_once(lambda simulation: set(simulation.room(room).present))

    def visits(self, room: str) -> Sequence[Visit]:
        """Return every visit so far."""
        return self.at_once(
            lambda simulation: [one for session in simulation.room(room).sessions for one in session.visits]
        )

    @contextmanager
    def crowd(self, rooms: Sequence[str], *, seed: int, rate: float = 30) -> Iterator[RunningCrowd]:
        """Let a crowd make about `rate` changes per second in these rooms, until the block ends."""
        running = RunningCrowd(self, rooms)

        async def run() -> None:
            await Crowd(self.upstream.simulation, seed=seed, rooms=rooms).run(rate, running.count)

        task = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            yield running
            assert not task.done(), f"the crowd has stopped: {task.exception()!r}"
        finally:
            task.cancel()

    # faults

    def faults(self, *faults: Mapping[str, Any], room: str | None = None) -> None:
        """Replace the faults (of a room)."""
        found = [Fault(**fault) for fault in faults]
        self.at_once(lambda _: self.upstream.faults.replace(found, room_id=room))

    # polls

    def via(self, name: str) -> str:
        """Return an address of this upstream whose polls are counted apart and can be paused."""
        return f"{self.url}{VIA}{name}"

    def pause(self, via: str) -> None:
        """Keep the responses to polls through that address until `resume`."""
        self.at_once(lambda _: self.upstream.pause(via))

    def resume(self, via: str) -> None:
        self.at_once(lambda _: self.upstream.resume(via))

    def paused_rooms(self, via: str) -> set[str | None]:
        """Return the rooms whose response is ready and has not gone out."""
        return {poll.room for poll in self.polls(via=via) if poll.has_response and not poll.over}

    def polls(self, room: str | None = None, *, via: str | None = None, since: int = 0) -> Sequence[Poll]:
        """Return the polls so far (of a room, through an address), those numbered after `since`."""
        return [
            poll for poll in tuple(self.upstream.polls)[since:] if room in (None, poll.room) and via in (None, poll.via)
        ]

    def last_poll(self) -> int:
        """Return the number of the newest poll."""
        return len(self.upstream.polls)

    def wait_for_polls(self, count: int, *rooms: str, since: int | None = None, timeout: float = PATIENCE) -> None:
        """Wait until each of the rooms has been polled `count` times more; default: from now on."""
        start = self.last_poll() if since is None else since

        def lacking() -> list[str]:
            polls = Counter(poll.room for poll in self.polls(since=start))
            return [room for room in rooms if polls[room] < count]

        wait_until(lambda: not lacking(), timeout=timeout, what=lambda: f"{count} polls of {lacking()}")


@dataclass(slots=True)
class RunningCrowd:
    """A crowd that makes changes; `steps` counts them."""

    simulator: Simulator
    rooms: Sequence[str]
    steps: int = 0

    def count(self, _change: str) -> None:
        self.steps += 1

    def wait_for_steps(self, count: int) -> None:
        target = self.steps + count
        wait_until(lambda: self.steps >= target, what=f"{count} more changes in the rooms")

    def truth(self) -> Mapping[str, set[str]]:
        """Return the members of each room."""
        return self.simulator.at_once(
            lambda simulation: {room: set(simulation.room(room).present) for room in self.rooms}
        )

    def wait_until_delivered(self, receiver: Receiver, database_url: str, *, timeout: float = PATIENCE) -> None:
        """After the crowd's end, wait until the receiver has every event; the members of each room follow from them."""
        self.simulator.wait_for_polls(2, *self.rooms, timeout=timeout)  # the second begins when the first is recorded
        wait_until_delivered(receiver, database_url, timeout=timeout)
        assert {room: set() for room in self.rooms} | replay(receiver.events()) == self.truth()

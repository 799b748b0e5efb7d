"""Crowds: the same seed gives the same changes, and they are of every kind."""

from __future__ import annotations

from collections import Counter

from bridge.simulator import Simulation
from bridge.simulator.crowd import FULL, Crowd, room_ids
from tests.harness.clock import StoppedClock


def play(seed: int, steps: int) -> tuple[list[str], Simulation]:
    clock = StoppedClock(0)
    simulation = Simulation(seed=1, now=clock)
    crowd = Crowd(simulation, seed=seed, rooms=room_ids(seed, 3))
    changes = []
    for _ in range(steps):
        changes.append(crowd.step())
        clock.advance(1000)
    return changes, simulation


def test_the_same_seed_gives_the_same_changes_and_another_seed_others() -> None:
    first, simulation = play(7, 100)
    again, same = play(7, 100)
    assert first == again
    assert [room.sessions for room in simulation.rooms.values()] == [room.sessions for room in same.rooms.values()]
    assert play(8, 100)[0] != first


def test_a_crowd_makes_every_kind_of_change() -> None:
    changes, simulation = play(3, 600)
    for end in (
        "joins",
        "leaves",
        "hand",
        "drops out",
        "under the same peer id",
        "everyone leaves",
        "the session ends",
    ):
        assert any(change.endswith(end) for change in changes), end
    for room in simulation.rooms.values():
        visits = Counter(visit.peer_id for session in room.sessions for visit in session.visits)
        assert max(visits.values()) > 1, "no peer came back under the same id"
        assert len(room.sessions) > 3
        assert len(room.present) <= FULL + 1


def test_a_crowd_tolerates_changes_by_others(simulation: Simulation) -> None:
    crowd = Crowd(simulation, seed=5, rooms=["r"])
    for turn in range(200):
        crowd.step()
        simulation.join("r", peer_id="guest", metadata=turn)
        if turn % 10 == 0:
            simulation.end("r")

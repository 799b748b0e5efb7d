"""Scenario files and crowds: they are read strictly, played in order, and the same seed gives the same life."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from bridge.errors import ConfigurationError, UsageError
from bridge.simulator import Clock, Simulation
from bridge.simulator.crowd import FULL, Crowd, room_ids
from bridge.simulator.rooms import What
from bridge.simulator.scenario import load_scenario, play_random, play_scenario

NOW = 1_795_000_000_000

TOML = """
[[steps]]
at = 0.01
room = "r"
do = "swap"
leave = "a"
join = { peer_id = "b" }

[[steps]]
at = 0
room = "r"
do = "join"
peer_id = "a"
metadata = { displayName = "Ann" }

[[steps]]
at = 0.01
do = "faults"
faults = [{ kind = "count_missing" }]
"""

JSON = """{"steps": [{"at": 0, "room": "r", "do": "join", "peer_id": "a"}]}"""


def simulate() -> Simulation:
    return Simulation(seed=1, clock=Clock.stopped(NOW))


def write(directory: Path, text: str, name: str = "scenario.toml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


async def test_a_scenario_is_played_in_the_order_of_its_times(tmp_path: Path) -> None:
    simulation, told = simulate(), list[str]()
    scenario = load_scenario(write(tmp_path, TOML))
    assert [(scene.at, len(scene.steps)) for scene in scenario] == [(0, 1), (0.01, 2)]

    await play_scenario(simulation, scenario, tell=told.append)

    assert told == ["r: join", "r: swap", "everywhere: faults"]
    assert [(happening.what, happening.peer_id) for happening in simulation.room("r").history[:2]] == [
        (What.JOIN, "a"),
        (What.LEAVE, "a"),
    ]
    assert list(simulation.room("r").present) == ["b"]
    assert simulation.faults


async def test_a_scenario_may_be_json(tmp_path: Path) -> None:
    simulation = simulate()
    await play_scenario(simulation, load_scenario(write(tmp_path, JSON, "scenario.json")))
    assert list(simulation.room("r").present) == ["a"]


def test_every_wrong_step_is_named(tmp_path: Path) -> None:
    text = """
[[steps]]
at = -1
room = "r"
do = "end"
[[steps]]
room = "r"
do = "end"
[[steps]]
at = 1
room = "r"
do = "join"
peerid = "a"
"""
    with pytest.raises(ConfigurationError) as caught:
        load_scenario(write(tmp_path, text))
    assert [problem.key for problem in caught.value.problems] == ["steps.0.at", "steps.1.at", "steps.2.join.peerid"]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["steps = 1", "[[step]]\n", "steps = [", "[[steps]]\nat = 2024-01-01\n"])
def test_a_file_that_is_no_scenario_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"scenario\.toml: not a readable|scenario\.toml: steps"):
        load_scenario(write(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml"):
        load_scenario(tmp_path / "nowhere.toml")


def live(seed: int, steps: int) -> tuple[list[str], Simulation]:
    simulation = simulate()
    crowd = Crowd(simulation, seed=seed, rooms=room_ids(seed, 3))
    told = []
    for _ in range(steps):
        told.append(crowd.step())
        simulation.clock.advance(1000)
    return told, simulation


def test_the_same_seed_gives_the_same_life_and_another_seed_another() -> None:
    first, runtime = live(7, 100)
    again, same_world = live(7, 100)
    assert first == again
    assert [room.history for room in runtime.rooms.values()] == [room.history for room in same_world.rooms.values()]
    assert live(8, 100)[0] != first


def test_a_crowd_does_everything_that_presence_is_about() -> None:
    _, simulation = live(3, 600)
    joins = Counter(
        happening.peer_id
        for room in simulation.rooms.values()
        for happening in room.history
        if happening.what is What.JOIN
    )
    whats = {happening.what for room in simulation.rooms.values() for happening in room.history}
    assert whats == set(What)
    assert max(joins.values()) > 1, "somebody comes back under the same peer id"
    assert all(len(room.sessions) > 3 for room in simulation.rooms.values())
    assert all(len(room.present) <= FULL + 1 for room in simulation.rooms.values())


def test_people_in_a_room_have_different_names() -> None:
    simulation = simulate()
    crowd = Crowd(simulation, seed=5, rooms=["r"])
    for _ in range(300):
        crowd.step()
        names = [
            str(visit.metadata["displayName"])
            for visit in simulation.room("r").present.values()
            if isinstance(visit.metadata, dict)
        ]
        assert len(names) == len(simulation.room("r").present)
        newcomers = Counter(names)
        assert newcomers.total() - len(newcomers) <= 1  # who comes back may meet a namesake


def test_a_crowd_bears_that_others_move_people_too() -> None:
    simulation = simulate()
    crowd = Crowd(simulation, seed=5, rooms=["r"])
    for turn in range(200):
        crowd.step()
        simulation.join("r", peer_id="guest", metadata=turn)
        if turn % 10 == 0:
            simulation.end("r")


async def test_a_crowd_lives_until_it_is_cancelled() -> None:
    simulation, told, enough = simulate(), list[str](), asyncio.Event()

    def tell(happening: str) -> None:
        told.append(happening)
        if len(told) == 20:
            enough.set()

    life = asyncio.create_task(play_random(simulation, 1, rooms=2, rate=1000, tell=tell))
    await enough.wait()
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life
    assert set(simulation.rooms) == set(room_ids(1, 2))
    assert {line.partition(":")[0] for line in told} <= set(simulation.rooms)


@pytest.mark.parametrize(("rooms", "rate"), [(0, 1), ([], 1), (1, 0), (1, -1), (1, float("nan"))])
async def test_a_crowd_needs_a_room_and_a_rate(rooms: int | list[str], rate: float) -> None:
    with pytest.raises(UsageError, match="a room and a rate"):
        await play_random(simulate(), 1, rooms=rooms, rate=rate)

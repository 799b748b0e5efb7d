"""`kill -9` at random instants of a busy scenario, again and again on one database: nothing lost, nothing invented."""

from __future__ import annotations

import signal
import time
from enum import StrEnum
from pathlib import Path
from random import Random

import pytest

from tests.harness.busy_rooms import BusyRooms
from tests.harness.config import write_config
from tests.harness.deliveries import delivery_problems, difference_from_log, stored_events
from tests.harness.log import log_problems, replay
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import SimulatorClient
from tests.harness.waiting import wait_until

KILLS = 50
ROOMS = [f"room-{assign_sequences}" for assign_sequences in range(60)]
"""So many that some are always free: what a killed process had claimed is nobody's until its lease ends."""
CATCHING_UP = 120.0


class Instant(StrEnum):
    """Where in its life the program is struck."""

    STARTING = "starting"
    RUNNING = "running"
    BEFORE_ANSWER = "before the response to a delivery"
    AFTER_ANSWER = "after the response to a delivery, before its record"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_kills_lose_nothing_and_invent_nothing(
    tmp_path: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver, seed: int
) -> None:
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=ready_url,
        upstream=simulator.url,
        rooms=ROOMS,
        endpoints=[receiver.endpoint(max_concurrency=500)],
        sources={"main": {"timeout": "500ms", "max_concurrency": 4}},
        delivery={"timeout": "500ms"},
    )
    chance = Random(seed)  # noqa: S311 - instants want a seed, not secrecy
    with BusyRooms(simulator, ROOMS, seed=seed, pause=0.01) as busy:
        for _ in range(KILLS):
            strike(config, receiver, chance)
    receiver.script()
    with BridgeProcess(config) as program:
        wait_until(
            lambda: (
                told(receiver) == busy.truth()
                and not difference_from_log(receiver.deliveries, stored_events(ready_url))
            ),
            timeout=CATCHING_UP,
            what=lambda: f"the whole truth; {difference_from_log(receiver.deliveries, stored_events(ready_url))[:10]}",
        )
        assert program.stop() == 0
    check(ready_url, simulator, receiver)


def strike(config: Path, receiver: Receiver, chance: Random) -> None:
    """Start the program and kill it at an instant of chance's choosing."""
    (instant,) = chance.choices(list(Instant), weights=(1, 4, 3, 3))
    with BridgeProcess(config) as program:
        match instant:
            case Instant.STARTING:
                time.sleep(chance.uniform(0.2, 1.2))
            case Instant.RUNNING:
                program.wait_ready()
                time.sleep(chance.uniform(0, 0.6))
            case Instant.BEFORE_ANSWER:
                receiver.script(_after_some(chance), Response(times=1, before=lambda _: program.send(signal.SIGKILL)))
                program.wait()
            case Instant.AFTER_ANSWER:
                receiver.script(_after_some(chance), Response(times=1, after=lambda _: program.send(signal.SIGKILL)))
                program.wait()
        receiver.script()


def _after_some(chance: Random) -> Response:
    """Let a few deliveries pass first."""
    return Response(times=chance.randrange(1, 12))


def told(receiver: Receiver) -> dict[str, set[str]]:
    return {room: set() for room in ROOMS} | replay(receiver.events())


def check(database_url: str, simulator: SimulatorClient, receiver: Receiver) -> None:
    stored = stored_events(database_url)
    log = [event for _, event in stored]
    assert len(log) > KILLS, "too little happened for this to mean anything"
    assert log_problems(log) == []
    assert difference_from_log(receiver.deliveries, stored) == []
    assert delivery_problems(receiver.deliveries) == []
    joined = {(event["data"]["room_id"], event["data"]["peer_id"]) for event in log if event["type"] == "peer.joined"}
    assert joined <= {(room, peer) for room in ROOMS for peer in simulator.ever_joined(room)}

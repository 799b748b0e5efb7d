"""`kill -9` at random instants of a busy bridge, whose claims are then freed: nothing is lost or invented."""

from __future__ import annotations

import signal
import time
from enum import StrEnum
from pathlib import Path
from random import Random

import pytest

from tests.harness.config import Configure
from tests.harness.deliveries import all_problems, stored_events
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator

ROOMS = [f"room-{number}" for number in range(60)]
"""So many that some are always free: on PostgreSQL, the claims of a killed process are freed after some seconds."""
CATCHING_UP = 120.0


class Instant(StrEnum):
    STARTING = "while it starts"
    RUNNING = "while it runs"
    BEFORE_RESPONSE = "before the response to a delivery"
    AFTER_RESPONSE = "after the response to a delivery, before its record"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.campaign)])
def test_kills_lose_nothing_and_invent_nothing(
    configure: Configure, kills: int, migrated_url: str, simulator: Simulator, receiver: Receiver, seed: int
) -> None:
    config = configure(
        rooms=ROOMS,
        endpoints=[receiver.endpoint(max_concurrency=500)],
        sources={"main": {"timeout": "500ms", "max_concurrency": 4}},
        delivery={"timeout": "500ms"},
    )
    rng = Random(seed)  # noqa: S311 - instants want a seed, not secrecy
    with simulator.crowd(ROOMS, seed=seed, rate=100) as crowd:
        for _ in range(kills):
            kill(config, receiver, rng)
    receiver.script()
    with BridgeProcess(config) as program:
        crowd.wait_until_delivered(receiver, migrated_url, timeout=CATCHING_UP)
        assert program.stop() == 0
    check(migrated_url, simulator, receiver, least=kills)


def kill(config: Path, receiver: Receiver, rng: Random) -> None:
    """Start the bridge and kill it at a random instant."""
    (instant,) = rng.choices(list(Instant), weights=(1, 4, 3, 3))
    some = Response(times=rng.randrange(1, 12))
    with BridgeProcess(config) as program:
        match instant:
            case Instant.STARTING:
                time.sleep(rng.uniform(0, 0.3))
            case Instant.RUNNING:
                program.wait_ready()
                time.sleep(rng.uniform(0, 0.6))
            case Instant.BEFORE_RESPONSE:
                receiver.script(some, Response(times=1, before=lambda _: program.send(signal.SIGKILL)))
                program.wait()
            case Instant.AFTER_RESPONSE:
                receiver.script(some, Response(times=1, after=lambda _: program.send(signal.SIGKILL)))
                program.wait()
        receiver.script()


def check(database_url: str, simulator: Simulator, receiver: Receiver, *, least: int) -> None:
    log = [event for _, event in stored_events(database_url)]
    assert len(log) > least, "too little happened for this to mean anything"
    assert all_problems(receiver.deliveries, database_url) == []
    joined = {(event["data"]["room_id"], event["data"]["peer_id"]) for event in log if event["type"] == "peer.joined"}
    assert joined <= {(room, visit.peer_id) for room in ROOMS for visit in simulator.visits(room)}

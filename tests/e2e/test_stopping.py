"""SIGTERM: what is in flight is finished and recorded, exit 0 within `shutdown_grace`, nothing lost."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.harness.busy_rooms import BusyRooms
from tests.harness.config import write_config
from tests.harness.deliveries import delivery_problems, difference_from_log, duplicates, stored_events
from tests.harness.log import log_problems, replay
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Answer, Receiver
from tests.harness.simulator import SimulatorClient
from tests.harness.waiting import wait_until

ROOMS = [f"room-{number}" for number in range(12)]
GRACE = 10
CLOSING = 5
"""Seconds that a slow machine may take to take leave of a process, beyond the grace."""


@pytest.fixture
def config(tmp_path: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver) -> Path:
    return write_config(
        tmp_path / "bridge.toml",
        database_url=ready_url,
        upstream=simulator.url,
        rooms=ROOMS,
        endpoints=[receiver.endpoint(max_concurrency=12)],
        bridge={"shutdown_grace": f"{GRACE}s"},
        delivery={"timeout": "3s"},
    )


@pytest.mark.slow
def test_sigterm_under_load_loses_nothing_and_repeats_nothing(
    config: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver, seed: int
) -> None:
    receiver.script(Answer(delay=0.1))
    with BusyRooms(simulator, ROOMS, seed=seed, pause=0.01) as busy:
        with BridgeProcess(config) as program:
            receiver.wait_for_count(100)
            assert program.stop(timeout=GRACE + CLOSING) == 0
            assert in_flight(receiver) == []
        settled = len(receiver.deliveries)
        busy.wait_for_steps(20)
        assert len(receiver.deliveries) == settled
    with BridgeProcess(config) as program:
        wait_until(lambda: {room: set() for room in ROOMS} | replay(receiver.events()) == busy.truth())
        wait_until(
            lambda: not difference_from_log(receiver.deliveries, stored_events(ready_url)),
            what=lambda: (
                f"the log at the receiver: {difference_from_log(receiver.deliveries, stored_events(ready_url))}"
            ),
        )
        assert program.stop() == 0
    assert log_problems(receiver.events()) == []
    assert delivery_problems(receiver.deliveries) == []
    assert duplicates(receiver.deliveries) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_receiver_that_hangs_does_not_keep_it_from_stopping(
    number: signal.Signals, config: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    receiver.script(Answer(hold=True))
    with BridgeProcess(config) as program:
        for room in ROOMS:
            simulator.join(room, "anna")
        wait_until(lambda: in_flight(receiver), what="a POST in flight")
        assert program.stop(number, timeout=GRACE + CLOSING) == 0
    receiver.script()
    receiver.release()
    with BridgeProcess(config):
        receiver.wait_for_count(2 * len(ROOMS))
        wait_until(
            lambda: not difference_from_log(receiver.deliveries, stored_events(ready_url)),
            what=lambda: (
                f"the log at the receiver: {difference_from_log(receiver.deliveries, stored_events(ready_url))}"
            ),
        )
    assert delivery_problems(receiver.deliveries) == []


def in_flight(receiver: Receiver) -> list[int]:
    return [delivery.number for delivery in receiver.deliveries if delivery.settled is None]

"""SIGTERM: requests in flight are finished and recorded, exit 0 within `shutdown_grace`, nothing lost."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.config import Configure
from tests.harness.deliveries import all_problems, delivery_problems, duplicates, wait_until_delivered
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.tables import connected, rows
from tests.harness.waiting import wait_until

ROOMS = [f"room-{number}" for number in range(12)]
GRACE = 10
SHORT_GRACE = 2
LOADED = "configuration.loaded"
"""Logged just before the configuration is written to the database."""
CLOSING = 40
"""Seconds beyond the grace that a busy machine may need to end a process; still less than a delivery may take."""
UNLOCKING = 7
"""The same for a locked database: less than the ten seconds that SQLite waits for a lock."""


@pytest.fixture
def configure_busy(configure: Configure, receiver: Receiver) -> Callable[..., Path]:
    def write(*, grace: int = GRACE, timeout: str = "3s") -> Path:
        return configure(
            rooms=ROOMS,
            endpoints=[receiver.endpoint(max_concurrency=12)],
            bridge={"shutdown_grace": f"{grace}s"},
            delivery={"timeout": timeout},
        )

    return write


@pytest.fixture
def idle_config(configure: Configure) -> Path:
    """Nothing to poll and nothing to send."""
    return configure(bridge={"shutdown_grace": f"{SHORT_GRACE}s"}, log={"level": "debug"})


@contextmanager
def locked(database_url: str) -> Iterator[None]:
    """Another transaction writes, and does not end before the block."""
    with connected(database_url) as connection:
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE" if database_url.startswith("sqlite") else "LOCK TABLE rooms, endpoints"
        )
        yield


@pytest.mark.slow
def test_sigterm_under_load_loses_nothing_and_repeats_nothing(
    configure_busy: Callable[..., Path], migrated_url: str, simulator: Simulator, receiver: Receiver, seed: int
) -> None:
    config = configure_busy()
    receiver.script(Response(delay=0.1))
    with simulator.crowd(ROOMS, seed=seed, rate=100) as crowd:
        with BridgeProcess(config) as program:
            receiver.wait_for_count(100)
            assert program.stop(timeout=GRACE + CLOSING) == 0
            assert in_flight(receiver) == []
        delivered = len(receiver.deliveries)
        crowd.wait_for_steps(20)
        assert len(receiver.deliveries) == delivered
    with BridgeProcess(config) as program:
        crowd.wait_until_delivered(receiver, migrated_url)
        assert program.stop() == 0
    assert all_problems(receiver.deliveries, migrated_url) == []
    assert duplicates(receiver.deliveries) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "grace", "timeout"),
    [(signal.SIGTERM, GRACE, "3s"), (signal.SIGINT, SHORT_GRACE, "120s")],
    ids=["times out within the grace", "is cancelled and released"],
)
def test_a_receiver_that_hangs_does_not_keep_it_from_stopping(
    number: signal.Signals,
    grace: int,
    timeout: str,
    configure_busy: Callable[..., Path],
    migrated_url: str,
    simulator: Simulator,
    receiver: Receiver,
) -> None:
    config = configure_busy(grace=grace, timeout=timeout)
    receiver.script(Response(pause=True))
    with BridgeProcess(config) as program:
        for room in ROOMS:
            simulator.join(room, "anna")
        wait_until(lambda: in_flight(receiver), what="a POST in flight")
        assert program.stop(number, timeout=grace + CLOSING) == 0
    receiver.script()
    receiver.release()
    with BridgeProcess(config):
        receiver.wait_for_count(2 * len(ROOMS))
        wait_until_delivered(receiver, migrated_url)
    assert delivery_problems(receiver.deliveries) == []


@pytest.mark.slow
def test_a_locked_database_does_not_keep_it_from_stopping(
    configure_busy: Callable[..., Path], migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    receiver.script(Response(pause=True))
    with BridgeProcess(configure_busy(grace=SHORT_GRACE)) as program:
        simulator.join(ROOMS[0], "anna")
        wait_until(lambda: in_flight(receiver), what="a POST in flight")
        with locked(migrated_url):
            receiver.release()
            wait_until(lambda: receiver.accepted, what="a response that cannot be recorded")
            assert program.stop(timeout=SHORT_GRACE + UNLOCKING) == 0


def test_a_locked_database_does_not_keep_it_from_stopping_while_it_starts(idle_config: Path, migrated_url: str) -> None:
    with locked(migrated_url), BridgeProcess(idle_config) as program:
        program.wait_for_output(LOADED)
        assert program.stop(timeout=SHORT_GRACE + UNLOCKING) == 0
    assert list(program.lines("bridge.started")) == []


def test_a_locked_database_does_not_keep_it_from_stopping_while_it_reloads(
    idle_config: Path, migrated_url: str
) -> None:
    with BridgeProcess(idle_config, "web") as program:  # a role without work: only the reload needs the database
        program.wait_ready()
        wait_until(
            lambda: rows(migrated_url, "SELECT name FROM jobs WHERE claim_token IS NULL"),
            what="the first check for old attempts",
        )
        with locked(migrated_url):
            program.send(signal.SIGHUP)
            wait_until(lambda: len(list(program.lines(LOADED))) == 2, what="a reload that has read the file")
            assert program.stop(timeout=SHORT_GRACE + UNLOCKING) == 0
    assert list(program.lines("configuration.reloaded")) == []


def in_flight(receiver: Receiver) -> list[int]:
    return [delivery.number for delivery in receiver.deliveries if delivery.responded is None]

"""SIGTERM: what is in flight is finished and recorded, exit 0 within `shutdown_grace`, nothing lost."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from tests.harness.busy_rooms import BusyRooms
from tests.harness.commands import command
from tests.harness.config import write_config
from tests.harness.deliveries import delivery_problems, difference_from_log, duplicates, stored_events
from tests.harness.log import log_problems, replay
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import SimulatorClient
from tests.harness.waiting import wait_until

ROOMS = [f"room-{assign_sequences}" for assign_sequences in range(12)]
GRACE = 10
SHORT_GRACE = 2
CLOSING = 5
"""Seconds that a slow machine may take to take leave of a process, beyond the grace."""


LOADED = "configuration.loaded"
"""Logged just before the configuration is written to the database."""


@pytest.fixture
def configure(tmp_path: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver) -> Callable[..., Path]:
    def write(*, grace: int = GRACE, timeout: str = "3s") -> Path:
        return write_config(
            tmp_path / "bridge.toml",
            database_url=ready_url,
            upstream=simulator.url,
            rooms=ROOMS,
            endpoints=[receiver.endpoint(max_concurrency=12)],
            bridge={"shutdown_grace": f"{grace}s"},
            delivery={"timeout": timeout},
        )

    return write


@pytest.fixture
def idle_config(tmp_path: Path, sqlite_database_url: str) -> Path:
    """Nothing to poll and nothing to send, in a database that is migrated."""
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=sqlite_database_url,
        upstream="http://127.0.0.1:9",
        bridge={"shutdown_grace": f"{SHORT_GRACE}s"},
        log={"level": "debug"},
    )
    command(config, "migrate")
    return config


@contextmanager
def locked(database_url: str) -> Iterator[None]:
    """Somebody else writes, and does not come to an end."""
    url = database_url.replace("postgresql://", "postgresql+psycopg://", 1)
    lock = "BEGIN IMMEDIATE" if url.startswith("sqlite") else "LOCK TABLE rooms, endpoints"
    with create_engine(url, poolclass=NullPool).connect() as connection:
        connection.exec_driver_sql(lock)
        yield


@pytest.mark.slow
def test_sigterm_under_load_loses_nothing_and_repeats_nothing(
    configure: Callable[..., Path], ready_url: str, simulator: SimulatorClient, receiver: Receiver, seed: int
) -> None:
    config = configure()
    receiver.script(Response(delay=0.1))
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
@pytest.mark.parametrize(
    ("assign_sequences", "grace", "timeout"),
    [(signal.SIGTERM, GRACE, "3s"), (signal.SIGINT, SHORT_GRACE, "60s")],
    ids=["gives up in time", "is dropped, and given back"],
)
def test_a_receiver_that_hangs_does_not_keep_it_from_stopping(
    assign_sequences: signal.Signals,
    grace: int,
    timeout: str,
    configure: Callable[..., Path],
    ready_url: str,
    simulator: SimulatorClient,
    receiver: Receiver,
) -> None:
    config = configure(grace=grace, timeout=timeout)
    receiver.script(Response(hold=True))
    with BridgeProcess(config) as program:
        for room in ROOMS:
            simulator.join(room, "anna")
        wait_until(lambda: in_flight(receiver), what="a POST in flight")
        assert program.stop(assign_sequences, timeout=grace + CLOSING) == 0
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


@pytest.mark.slow
def test_a_database_that_is_locked_does_not_keep_it_from_stopping(
    configure: Callable[..., Path], ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    receiver.script(Response(hold=True))
    with BridgeProcess(configure(grace=SHORT_GRACE)) as program:
        simulator.join(ROOMS[0], "anna")
        wait_until(lambda: in_flight(receiver), what="a POST in flight")
        with locked(ready_url):
            receiver.release()
            wait_until(lambda: receiver.accepted, what="an response that cannot be recorded")
            assert program.stop(timeout=SHORT_GRACE + CLOSING) == 0


def test_a_database_that_is_locked_does_not_keep_it_from_stopping_while_it_starts(
    idle_config: Path, sqlite_database_url: str
) -> None:
    with locked(sqlite_database_url), BridgeProcess(idle_config) as program:
        program.wait_for_output(LOADED)
        assert program.stop(timeout=SHORT_GRACE + CLOSING) == 0
    assert list(program.lines("bridge.started")) == []


def test_a_database_that_is_locked_does_not_keep_it_from_stopping_while_it_reloads(
    idle_config: Path, sqlite_database_url: str
) -> None:
    with BridgeProcess(idle_config, "web") as program:  # so that nothing but the reload asks the database
        program.wait_ready()
        with locked(sqlite_database_url):
            program.send(signal.SIGHUP)
            wait_until(lambda: len(list(program.lines(LOADED))) == 2, what="a reload that has read the file")
            assert program.stop(timeout=SHORT_GRACE + CLOSING) == 0
    assert list(program.lines("configuration.reloaded")) == []


def in_flight(receiver: Receiver) -> list[int]:
    return [delivery.assign_sequences for delivery in receiver.deliveries if delivery.settled is None]

"""The database is gone for a while, in the middle of polling and sending: the bridge waits, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.busy_rooms import BusyRooms
from tests.harness.config import write_config
from tests.harness.database_wire import DatabaseWire
from tests.harness.deliveries import delivery_problems, difference_from_log, duplicates, stored_events
from tests.harness.log import log_problems, replay
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import SimulatorClient
from tests.harness.waiting import wait_until

ROOMS = [f"room-{assign_sequences}" for assign_sequences in range(8)]
LEASES_LAPSE = 90.0

pytestmark = pytest.mark.slow


@pytest.fixture
def wire(postgresql_ready_url: str) -> Iterator[DatabaseWire]:
    with DatabaseWire(postgresql_ready_url) as relay:
        yield relay


@pytest.fixture
def program(
    tmp_path: Path, wire: DatabaseWire, simulator: SimulatorClient, receiver: Receiver
) -> Iterator[BridgeProcess]:
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=wire.url,
        upstream=simulator.url,
        rooms=ROOMS,
        endpoints=[receiver.endpoint()],
        sources={"main": {"timeout": "1s"}},
        delivery={"timeout": "1s"},
    )
    with BridgeProcess(config) as process:
        yield process.wait_ready()


def test_an_outage_while_polling_and_sending_loses_nothing(
    program: BridgeProcess,
    wire: DatabaseWire,
    postgresql_ready_url: str,
    simulator: SimulatorClient,
    receiver: Receiver,
    seed: int,
) -> None:
    with BusyRooms(simulator, ROOMS, seed=seed) as busy:
        for outage in (1, 2):
            receiver.wait_for_count(20 * outage, timeout=LEASES_LAPSE)
            wire.cut()
            tried = wire.thrown_out
            busy.wait_for_steps(50)
            wait_until(lambda: wire.thrown_out >= tried + 5, what="several attempts to reach the database")  # noqa: B023 - called at once
            assert program.running
            wire.mend()
        receiver.wait_for_count(60, timeout=LEASES_LAPSE)
    wait_until(
        lambda: {room: set() for room in ROOMS} | replay(receiver.events()) == busy.truth(),
        timeout=LEASES_LAPSE,
        what="the whole truth",
    )
    assert program.stop() == 0
    stored = stored_events(postgresql_ready_url)
    assert log_problems([event for _, event in stored]) == []
    assert difference_from_log(receiver.deliveries, stored) == []
    assert delivery_problems(receiver.deliveries) == []


def test_an_outage_between_the_answer_and_its_record_repeats_the_event_only(
    program: BridgeProcess,
    wire: DatabaseWire,
    postgresql_ready_url: str,
    simulator: SimulatorClient,
    receiver: Receiver,
) -> None:
    receiver.script(Response(times=1, before=lambda _: wire.cut()))
    simulator.join(ROOMS[0], "anna")
    wait_until(lambda: wire.thrown_out, what="the outage being noticed")
    wire.mend()
    receiver.wait_for_count(2, timeout=LEASES_LAPSE)
    assert program.stop() == 0
    assert len(set(duplicates(receiver.deliveries))) <= 1
    assert delivery_problems(receiver.deliveries) == []
    assert difference_from_log(receiver.deliveries, stored_events(postgresql_ready_url)) == []

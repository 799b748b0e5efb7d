"""The database is gone for a while, in the middle of polling and sending: the bridge waits, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.config import write_config
from tests.harness.database_relay import DatabaseRelay
from tests.harness.deliveries import all_problems, duplicates
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

ROOMS = [f"room-{number}" for number in range(8)]

pytestmark = pytest.mark.slow


@pytest.fixture
def relay(postgresql_migrated_url: str) -> Iterator[DatabaseRelay]:
    with DatabaseRelay(postgresql_migrated_url) as found:
        yield found


@pytest.fixture
def program(tmp_path: Path, relay: DatabaseRelay, simulator: Simulator, receiver: Receiver) -> Iterator[BridgeProcess]:
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=relay.url,
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
    relay: DatabaseRelay,
    postgresql_migrated_url: str,
    simulator: Simulator,
    receiver: Receiver,
    seed: int,
) -> None:
    with simulator.crowd(ROOMS, seed=seed) as crowd:
        for outage in (1, 2):
            receiver.wait_for_count(20 * outage)
            relay.cut()
            refused = relay.refused
            crowd.wait_for_steps(50)
            wait_until(lambda: relay.refused >= refused + 5, what="several attempts to reach the database")  # noqa: B023 - called at once
            assert program.running
            relay.restore()
        receiver.wait_for_count(60)
    crowd.wait_until_delivered(receiver, postgresql_migrated_url)
    assert program.stop() == 0
    assert all_problems(receiver.deliveries, postgresql_migrated_url) == []


def test_an_outage_between_the_response_and_its_record_repeats_the_event_only(
    program: BridgeProcess,
    relay: DatabaseRelay,
    postgresql_migrated_url: str,
    simulator: Simulator,
    receiver: Receiver,
) -> None:
    receiver.script(Response(times=1, before=lambda _: relay.cut()))
    simulator.join(ROOMS[0], "anna")
    wait_until(lambda: relay.refused, what="the outage being noticed")
    relay.restore()
    receiver.wait_for_count(2)
    assert program.stop() == 0
    assert len(set(duplicates(receiver.deliveries))) <= 1
    assert all_problems(receiver.deliveries, postgresql_migrated_url) == []

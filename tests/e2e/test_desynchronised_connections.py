"""The upstream sends responses twice, and the receiver sends unexpected 200s: no false event, and none is lost."""

from __future__ import annotations

import pytest

from tests.harness.config import Configure
from tests.harness.deliveries import all_problems
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator

ROOMS = ("red", "blue", "green")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.slow
@pytest.mark.parametrize("max_concurrency", [1, pytest.param(4, marks=pytest.mark.campaign)])
def test_unexpected_data_on_a_connection_changes_nothing(
    configure: Configure, migrated_url: str, simulator: Simulator, receiver: Receiver, max_concurrency: int
) -> None:
    config = configure(
        rooms=ROOMS,
        sources={"main": {"max_concurrency": max_concurrency}},
        endpoints=[receiver.endpoint()],
        polling={"interval": "150ms"},
    )
    for room in ROOMS:
        simulator.join(room, f"host of {room}")
    simulator.faults({"kind": "repeated"}, room="red")
    receiver.script(Response(unasked=OK))
    with BridgeProcess(config) as program:
        receiver.wait_for_count(2 * len(ROOMS))
        with simulator.crowd(ROOMS, seed=1, rate=10) as crowd:
            crowd.wait_for_steps(60)
        crowd.wait_until_delivered(receiver, migrated_url)
        assert program.stop() == 0
    assert all_problems(receiver.deliveries, migrated_url) == []

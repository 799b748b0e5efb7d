"""What an endpoint may be asked at once and in a second, counted where it arrives, with two senders on one database."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.config import write_config
from tests.harness.deliveries import delivery_problems, duplicates
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import SimulatorClient

ROOMS = [f"room-{assign_sequences}" for assign_sequences in range(12)]
AT_ONCE = 3
RATE = 20
PEOPLE = 6


@pytest.mark.slow
def test_two_senders_keep_the_limits_together(
    tmp_path: Path, postgresql_ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    with Receiver() as paced, ExitStack() as stack:
        config = write_config(
            tmp_path / "bridge.toml",
            database_url=postgresql_ready_url,
            upstream=simulator.url,
            rooms=ROOMS,
            endpoints=[
                receiver.endpoint("narrow", max_concurrency=AT_ONCE),
                paced.endpoint("paced", rate_per_second=RATE, max_concurrency=100),
            ],
        )
        receiver.script(Response(hold=True, times=AT_ONCE), Response(delay=0.02))
        senders = [stack.enter_context(BridgeProcess(config, "sender")).wait_ready() for _ in range(2)]
        stack.enter_context(BridgeProcess(config, "poller"))
        count = len(ROOMS) * (1 + PEOPLE)
        for room in ROOMS:
            simulator.script(
                *({"room": room, "do": "join", "peer_id": f"p{assign_sequences}"} for assign_sequences in range(PEOPLE))
            )
        paced.wait_for_count(count // 2)
        assert len(receiver.deliveries) == AT_ONCE, "whoever has time for a fourth must not send it"
        receiver.release()
        receiver.wait_for_count(count)
        paced.wait_for_count(count)
        assert [sender.stop() for sender in senders] == [0, 0]

    at_once = [one.assign_sequences - one.settled_before for one in receiver.deliveries]
    assert max(at_once) == AT_ONCE, "as much as is allowed, and no more"
    took = paced.deliveries[-1].at - paced.deliveries[0].at
    assert count / took < 1.4 * RATE, f"{count} in {took:.2f} s: each sender would have been allowed {RATE} a second"
    for one in (receiver, paced):
        assert delivery_problems(one.deliveries) == []
        assert duplicates(one.deliveries) == []

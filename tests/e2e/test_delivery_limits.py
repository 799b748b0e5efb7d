"""Limits of an endpoint, at once and per second, counted at the receiver, with two senders on one database."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.harness.config import Configure
from tests.harness.deliveries import delivery_problems, duplicates
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator

ROOMS = [f"room-{number}" for number in range(12)]
AT_ONCE = 3
RATE = 20
PEOPLE = 6


@pytest.mark.slow
@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_two_senders_keep_the_limits_together(configure: Configure, simulator: Simulator, receiver: Receiver) -> None:
    with Receiver() as paced, ExitStack() as stack:
        config = configure(
            rooms=ROOMS,
            endpoints=[
                receiver.endpoint("narrow", max_concurrency=AT_ONCE),
                paced.endpoint("paced", rate_per_second=RATE, max_concurrency=100),
            ],
        )
        receiver.script(Response(pause=True, times=AT_ONCE), Response(delay=0.02))
        senders = [stack.enter_context(BridgeProcess(config, "sender")).wait_ready() for _ in range(2)]
        stack.enter_context(BridgeProcess(config, "poller"))
        count = len(ROOMS) * (1 + PEOPLE)
        for room in ROOMS:
            simulator.join(room, *(f"p{number}" for number in range(PEOPLE)))
        paced.wait_for_count(count // 2)
        assert len(receiver.deliveries) == AT_ONCE, "no sender may send a fourth at once"
        receiver.release()
        receiver.wait_for_count(count)
        paced.wait_for_count(count)
        assert [sender.stop() for sender in senders] == [0, 0]

    at_once = [one.number - one.responded_before for one in receiver.deliveries]
    assert max(at_once) == AT_ONCE, "as many as allowed, and no more"
    took = paced.deliveries[-1].at - paced.deliveries[0].at
    assert count / took < 1.4 * RATE, f"{count} in {took:.2f} s: each sender would have been allowed {RATE} a second"
    for one in (receiver, paced):
        assert delivery_problems(one.deliveries) == []
        assert duplicates(one.deliveries) == []

"""Clients of the stream whose connections are cut at random: each sees every event once, in the order of the log."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from random import Random

import aiohttp
import pytest

from tests.harness.config import Configure
from tests.harness.postgres import free_port
from tests.harness.process import BridgeProcess
from tests.harness.simulator import Simulator
from tests.harness.sse import connected
from tests.harness.tables import rows
from tests.harness.waiting import until

ROOMS = [f"room-{number}" for number in range(8)]

pytestmark = pytest.mark.slow


class Subscriber:
    """Reads some events over each of its connections, and goes on after the last one."""

    def __init__(self, random: Random) -> None:
        self.ids: list[str] = []
        self.connections = 0
        self._random = random

    async def run(self, url: str) -> None:
        """Read until cancelled."""
        while True:
            try:
                await self._read(url)
            except (aiohttp.ClientError, ConnectionError):
                await asyncio.sleep(0.05)

    async def _read(self, url: str) -> None:
        async with connected(url, after=self.ids[-1] if self.ids else None) as client:
            assert client.response.status == 200
            self.connections += 1
            for _ in range(self._random.randint(1, 40)):
                received = await client.read()
                if received is None:
                    return
                self.ids.append(received.id)


@pytest.mark.parametrize(
    ("clients", "steps", "restarts"),
    [(10, 300, False), pytest.param(12, 2000, True, marks=[pytest.mark.campaign, pytest.mark.timeout(540)])],
)
async def test_clients_that_drop_at_random_see_every_event_once_and_in_order(
    configure: Configure,
    migrated_url: str,
    simulator: Simulator,
    seed: int,
    clients: int,
    steps: int,
    *,
    restarts: bool,
) -> None:
    port = free_port()
    url, config = f"http://127.0.0.1:{port}/", configure(rooms=ROOMS, web={"listen": f"127.0.0.1:{port}"})
    subscribers = [Subscriber(Random(seed + number)) for number in range(clients)]  # noqa: S311 - no secret
    with ExitStack() as stack:
        web = stack.enter_context(BridgeProcess(config, "web"))
        await asyncio.to_thread(web.wait_ready)
        running = [asyncio.create_task(one.run(url)) for one in subscribers]
        await until(lambda: all(one.connections for one in subscribers))
        poller = stack.enter_context(BridgeProcess(config, "poller"))
        with simulator.crowd(ROOMS, seed=seed, rate=60) as crowd:
            for done in range(0, steps, 100):
                await asyncio.to_thread(crowd.wait_for_steps, 100)
                if restarts and done == steps // 2:
                    assert await asyncio.to_thread(web.stop) == 0
                    web = stack.enter_context(BridgeProcess(config, "web"))
        await asyncio.to_thread(simulator.wait_for_polls, 2, *ROOMS)
        assert await asyncio.to_thread(poller.stop) == 0
        log = [event_id for (event_id,) in rows(migrated_url, "SELECT public_id FROM events ORDER BY id")]
        await until(
            lambda: any(task.done() for task in running) or all(one.ids[-1:] == log[-1:] for one in subscribers)
        )
        for task in running:
            assert not task.done(), task.result()
        assert await asyncio.to_thread(web.stop) == 0
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    assert len(log) > steps / 3
    assert all(one.ids == log for one in subscribers)
    assert min(one.connections for one in subscribers) > 3

"""Receivers that hang, drip, flood, reset or do not send HTTP: each harms only itself."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack

import pytest

from tests.harness.config import Configure
from tests.harness.deliveries import all_problems
from tests.harness.loop_thread import LoopThread
from tests.harness.process import BridgeProcess, command
from tests.harness.receiver import Receiver
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until
from tests.harness.wire import Response, Wire, drip, flood, hang, listening, reset, send_and_close

ROOMS = [f"room-{number}" for number in range(12)]


async def flood_headers(wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\n")
    while not wire.writer.is_closing():
        await wire.send(b"x-more: " + b"h" * 1024 + b"\r\n")


HOSTILE: dict[str, tuple[Response, set[str]]] = {
    "hangs": (hang, {"timeout"}),
    "drips": (drip, {"timeout"}),
    "floods": (flood(500), {"status"}),
    "floods-headers": (flood_headers, {"protocol"}),
    "resets": (reset, {"reset"}),
    "sends-no-http": (send_and_close(b"220 mail.example.com ESMTP\r\n"), {"protocol"}),
}
"""Each with the causes that its attempts may have."""


class HostileReceivers(LoopThread):
    """One receiver of each kind; `urls` by its name."""

    def __init__(self) -> None:
        super().__init__("hostile receivers")
        self.urls: dict[str, str] = {}

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            for name, (respond, _) in HOSTILE.items():
                self.urls[name] = (await stack.enter_async_context(listening(respond))).url
            self._ready()
            await self._stopping.wait()


@pytest.mark.slow
@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_each_harms_only_itself(
    configure: Configure, migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    with HostileReceivers() as hostile:
        config = configure(
            rooms=ROOMS,
            endpoints=[
                *(
                    {"name": name, "url": url, "events": ["*"], "max_concurrency": 20}
                    for name, url in hostile.urls.items()
                ),
                receiver.endpoint("healthy"),
            ],
            delivery={"timeout": "4s"},
        )
        with BridgeProcess(config) as program:
            for round_number in range(4):
                for room in ROOMS:
                    simulator.join(room, f"peer-{round_number}")
                receiver.wait_for_count(len(ROOMS) * (2 + round_number))
            wait_until(
                lambda: set(HOSTILE) <= {line["endpoint"] for line in program.lines("delivery.attempted")},
                what="an attempt at each",
            )
            assert program.stop() == 0
        assert "Traceback" not in program.output
    assert all_problems(receiver.deliveries, migrated_url) == []
    for name, (_, causes) in HOSTILE.items():
        attempts = json.loads(command(config, "deliveries", "list", "--endpoint", name, "--json"))
        assert {attempt["outcome"] for attempt in attempts} == {"retryable"}, name
        assert {attempt["cause"] for attempt in attempts} == causes, name
        assert max(attempt["duration_seconds"] for attempt in attempts) < 20, name
        assert max(len(attempt["response"]) for attempt in attempts) <= 1024, name
    states = json.loads(command(config, "endpoints", "list", "--json"))
    assert {one["name"] for one in states if one["owed_events"]} == set(HOSTILE)
    assert {one["state"] for one in states} == {"active"}

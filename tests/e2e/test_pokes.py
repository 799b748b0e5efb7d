"""A poke of the upstream, to the real program: its room is polled at once, whatever the interval."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.harness.config import API_KEY, Configure
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver
from tests.harness.simulator import Simulator

pytestmark = pytest.mark.slow


def test_a_poke_brings_the_event_at_once(configure: Configure, simulator: Simulator, receiver: Receiver) -> None:
    with BridgeProcess(configured(configure, receiver)) as bridge:
        poke_and_wait(bridge.wait_ready(), simulator, receiver)
        assert bridge.stop() == 0


def test_a_poke_reaches_the_process_that_polls(configure: Configure, simulator: Simulator, receiver: Receiver) -> None:
    config = configured(configure, receiver)
    with BridgeProcess(config, "poller", "sender") as worker, BridgeProcess(config, "web") as web:
        worker.wait_ready()
        poke_and_wait(web.wait_ready(), simulator, receiver)
        assert (web.stop(), worker.stop()) == (0, 0)


def configured(configure: Configure, receiver: Receiver) -> Path:
    return configure(
        rooms=["a"],
        endpoints=[receiver.endpoint("crm", events=["peer.joined"])],
        polling={"interval": "1h"},
        web={"listen": "127.0.0.1:0"},
    )


def poke_and_wait(web: BridgeProcess, simulator: Simulator, receiver: Receiver) -> None:
    """Send a message about a join, and wait until the receiver has the event."""
    simulator.wait_for_polls(1, "a", since=0)
    simulator.join("a", "ann")
    content = json.dumps({"id": "1", "event": "peer:joined", "payload": {"roomId": "a"}}, separators=(",", ":"))
    time = int(datetime.now(UTC).timestamp() * 1000)
    mac = hmac.digest(API_KEY.encode(), f"1.{time}.{content}".encode(), "sha256").hex()
    url = next(web.lines("web.listening"))["url"]
    headers = {"huddle01-signature": f"t={time},sha256={mac}", "content-type": "text/plain"}
    assert httpx.post(f"{url}pokes/main", content=content, headers=headers, trust_env=False).status_code == 202
    receiver.wait_for_count(1)
    simulator.wait_for_polls(2, "a", since=0)

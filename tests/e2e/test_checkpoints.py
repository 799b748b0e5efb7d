"""Checkpoints that the service makes by itself: at the interval of the configuration, in the log and in a file."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.harness.config import Configure
from tests.harness.process import BridgeProcess, command
from tests.harness.receiver import Receiver
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.slow


def test_each_checkpoint_is_told_and_appended_to_the_file_if_the_log_has_grown(
    configure: Configure, simulator: Simulator, receiver: Receiver, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoints.jsonl"
    config = configure(
        rooms=["a"],
        endpoints=[receiver.endpoint("auditor", events=["audit.checkpoint"])],
        audit={"checkpoint_every": "500ms", "checkpoint_file": str(file)},
    )
    simulator.join("a", "ann")
    with BridgeProcess(config) as bridge:
        bridge.wait_ready()
        receiver.wait_for_count(1)
        simulator.join("a", "bob")
        told = receiver.wait_for_count(2)
        wait_until(lambda: len(file.read_text().splitlines()) == 2, what="the second line")
        assert bridge.stop() == 0
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [event["data"]["merkle_root"] for event in told] == [line["merkle_root"] for line in written]
    assert [event["data"]["event_count"] for event in told] == [2, 4]
    first, second = (datetime.fromisoformat(event["timestamp"]) for event in told)
    assert second - first < timedelta(seconds=9), "the interval is that of the configuration"
    assert json.loads(command(config, "audit", "verify", "--against", str(file), "--json"))["ok"]

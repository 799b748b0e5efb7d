"""The record of every attempt, and its retention: one of the running processes prunes for all."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.harness.config import Configure
from tests.harness.process import BridgeProcess, command
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.tables import change, rows
from tests.harness.waiting import wait_until

LONG_AGO = datetime.now(UTC) - timedelta(days=31)
RETAINED = datetime.now(UTC) - timedelta(days=29)


def stored(moment: datetime, database_url: str) -> object:
    """Return a time as the database stores it: SQLite as text without an offset."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f") if database_url.startswith("sqlite") else moment


@pytest.mark.slow
def test_attempts_are_recorded_and_pruned_in_time(
    configure: Configure, migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    config = configure(
        rooms=["room"],
        endpoints=[receiver.endpoint("crm"), {"name": "closed", "url": "http://127.0.0.1:1/", "events": ["peer.*"]}],
        delivery={"timeout": "5s", "refused_schedule": []},
    )
    receiver.script(
        Response(status=503, body=b"busy\x00 " + b"y" * 5000, times=1),
        Response(reset=True, times=2),  # a reused connection that breaks is tried again at once, as one attempt
        Response(delay=0.2, times=1),
        Response(status=422, body="nicht da: \u00fc".encode(), times=1),
    )
    began = time.time()
    with BridgeProcess(config) as program:
        simulator.join("room", "anna")
        wait_until(lambda: len(receiver.deliveries) == 5, what="four attempts")
        wait_until(lambda: len(attempts_of(config, "crm")) == 4, what="their records")
        wait_until(lambda: attempts_of(config, "closed"), what="one at the closed port")
        assert program.stop() == 0
    tried = attempts_of(config, "crm")
    assert [(one["outcome"], one["status"], one["cause"]) for one in tried] == [
        ("retryable", 503, "status"),
        ("retryable", None, "reset"),
        ("delivered", 200, None),
        ("rejected", 422, "status"),
    ]
    assert tried[0]["response"].startswith("busy\ufffd yyy")
    assert len(tried[0]["response"]) == 1024
    assert tried[3]["response"] == "nicht da: \u00fc"
    assert tried[2]["duration_seconds"] >= 0.2
    started = [datetime.fromisoformat(one["started_at"]).timestamp() for one in tried]
    assert started == sorted(started)
    assert began - 0.001 <= started[0] <= started[-1] <= time.time()
    assert {one["cause"] for one in attempts_of(config, "closed")} == {"connect"}

    cursors = rows(migrated_url, "SELECT endpoint_key, room_key, acked, head FROM cursors ORDER BY 1, 2")
    old, kept = [int(one["id"].removeprefix("att_")) for one in tried[:2]]
    for key, moment in ((old, LONG_AGO), (kept, RETAINED)):
        change(
            migrated_url,
            "UPDATE attempts SET started_at = :at WHERE id = :key",
            at=stored(moment, migrated_url),
            key=key,
        )
    make_pruning_due(migrated_url)
    dead = json.loads(command(config, "deliveries", "list", "--dead", "--json"))
    with BridgeProcess(config, "web") as program:
        program.wait_for_output("attempts.pruned")
        assert [line["count"] for line in program.lines("attempts.pruned")] == [1]
        assert program.stop() == 0
    assert [one["id"] for one in attempts_of(config, "crm")] == [one["id"] for one in tried[1:]]
    assert rows(migrated_url, "SELECT endpoint_key, room_key, acked, head FROM cursors ORDER BY 1, 2") == cursors
    assert json.loads(command(config, "deliveries", "list", "--dead", "--json")) == dead
    assert len(dead) == 1
    assert len(rows(migrated_url, "SELECT id FROM events")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_of_several_processes_one_prunes(
    configure: Configure, migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    config = configure(
        rooms=["room"],
        endpoints=[receiver.endpoint("crm")],
    )
    with BridgeProcess(config) as program:
        simulator.join("room", "anna")
        receiver.wait_for_count(2)
        assert program.stop() == 0
    assert change(migrated_url, "UPDATE attempts SET started_at = :at", at=LONG_AGO) == 2
    make_pruning_due(migrated_url)
    with ExitStack() as stack:
        processes = [stack.enter_context(BridgeProcess(config, "web")) for _ in range(3)]
        for process in processes:
            process.wait_ready()
        wait_until(
            lambda: any(list(process.lines("attempts.pruned")) for process in processes), what="the old attempts gone"
        )
        assert [process.stop() for process in processes] == [0, 0, 0]
    assert rows(migrated_url, "SELECT id FROM attempts") == []
    counts = [line["count"] for process in processes for line in process.lines("attempts.pruned")]
    assert counts == [2]


def make_pruning_due(database_url: str) -> None:
    change(database_url, "DELETE FROM jobs")


def attempts_of(config: Path, endpoint: str) -> list[dict[str, Any]]:
    """Oldest first."""
    found: list[dict[str, Any]] = json.loads(command(config, "deliveries", "list", "--endpoint", endpoint, "--json"))
    return found[::-1]

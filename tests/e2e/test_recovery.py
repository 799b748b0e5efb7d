"""Back in seconds, whatever the time-outs are: after `kill -9`, beside a frozen process, after a database outage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.harness.config import Configure, write_config
from tests.harness.database_relay import DatabaseRelay
from tests.harness.deliveries import all_problems, duplicates, wait_until_delivered
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.tables import rows
from tests.harness.waiting import wait_until

ROOMS = [f"room-{number}" for number in range(8)]
TIMEOUT = "60s"
"""Of polls and deliveries: nothing here may wait for it."""
BACK_WITHIN = 6.0
LOADED = 14.0
"""Seconds that a loaded machine needs on top: for a process to start, and for its threads to get a turn."""
FROZEN = 20.0
OUTAGE = 8.0

pytestmark = pytest.mark.slow


@dataclass(slots=True, kw_only=True)
class Fleet:
    """Processes on one database, each with an address of its own for the upstream."""

    directory: Path
    database_url: str
    simulator: Simulator
    receiver: Receiver
    stack: ExitStack
    relays: list[DatabaseRelay] = field(default_factory=list)

    def start(self, name: str, *, relayed: bool = False) -> BridgeProcess:
        directory = self.directory / name
        directory.mkdir()
        url = self.database_url
        if relayed:
            self.relays.append(self.stack.enter_context(DatabaseRelay(url)))
            url = self.relays[-1].url
        config = write_config(
            directory / "bridge.toml",
            database_url=url,
            upstream=self.simulator.via(name),
            rooms=ROOMS,
            endpoints=[self.receiver.endpoint(max_concurrency=100)],
            sources={"main": {"timeout": TIMEOUT}},
            delivery={"timeout": TIMEOUT},
        )
        return self.stack.enter_context(BridgeProcess(config))

    def start_with_everything_in_flight(self, name: str, *, relayed: bool = False) -> BridgeProcess:
        """Start a process; a delivery and the next poll of every room wait for their responses."""
        self.receiver.script(Response(pause=True))
        for room in ROOMS:
            self.simulator.join(room, "anna")
        process = self.start(name, relayed=relayed)
        self.wait_for_posts_of_all(since=0)
        self.simulator.pause(name)
        wait_until(lambda: self.simulator.paused_rooms(name) == set(ROOMS), what="a poll under way in every room")
        return process

    def wait_until_under_way_again(self, name: str, since: float) -> None:
        """Wait until a process has polled every room and sent an event of each, in time."""
        remaining = since + BACK_WITHIN + LOADED - time.monotonic()
        wait_until(
            lambda: {poll.room for poll in self.simulator.polls(via=name)} == set(ROOMS),
            timeout=remaining,
            what="polls",
        )
        self.wait_for_posts_of_all(since=since, timeout=since + BACK_WITHIN + LOADED - time.monotonic())
        print(f"under way again after {time.monotonic() - since:.1f} s")  # noqa: T201 - for those who measure

    def wait_for_posts_of_all(self, *, since: float, timeout: float = 60.0) -> None:
        wait_until(
            lambda: {one.room for one in self.receiver.deliveries if one.at >= since} == set(ROOMS),
            timeout=timeout,
            what="a delivery of every room",
        )

    def wait_for_joins(self, peer: str) -> None:
        """Let a peer join every room, and wait until the receiver has accepted that."""
        for room in ROOMS:
            self.simulator.join(room, peer)
        self.receiver.wait_for(
            lambda found: (
                {event["data"]["room_id"] for event in found if event["data"].get("peer_id") == peer} == set(ROOMS)
            ),
            f"{peer} in every room",
        )


@pytest.fixture
def fleet_on(tmp_path: Path, simulator: Simulator, receiver: Receiver) -> Iterator[Callable[[str], Fleet]]:
    with ExitStack() as stack:
        yield lambda url: Fleet(
            directory=tmp_path, database_url=url, simulator=simulator, receiver=receiver, stack=stack
        )


@pytest.fixture
def fleet(fleet_on: Callable[[str], Fleet], migrated_url: str) -> Fleet:
    return fleet_on(migrated_url)


@pytest.mark.parametrize("is_running", [False, True], ids=["a restart", "another process"])
def test_a_kill_delays_nothing_for_longer_than_seconds(fleet: Fleet, *, is_running: bool) -> None:
    killed = fleet.start_with_everything_in_flight("killed")
    if is_running:
        other = fleet.start("other").wait_ready()
    fleet.receiver.script()
    killed.kill()
    killed_at = time.monotonic()
    if not is_running:
        other = fleet.start("other")
    fleet.wait_until_under_way_again("other", since=killed_at)
    fleet.wait_for_joins("bert")
    wait_until_delivered(fleet.receiver, fleet.database_url)
    assert other.stop() == 0
    assert all_problems(fleet.receiver.deliveries, fleet.database_url) == []
    assert registered(fleet.database_url) == []


def test_a_frozen_process_is_replaced_within_seconds_and_writes_nothing_when_it_wakes(fleet: Fleet) -> None:
    """While it is frozen, the responses that it waits for arrive."""
    first = fleet.start_with_everything_in_flight("first")
    second = fleet.start("second").wait_ready()
    fleet.receiver.script()
    frozen_at = time.monotonic()
    with first.frozen():
        fleet.wait_until_under_way_again("second", since=frozen_at)
        fleet.wait_for_joins("bert")
        fleet.receiver.release()
        fleet.simulator.resume("first")
        time.sleep(max(0.0, frozen_at + FROZEN - time.monotonic()))
    wait_until(lambda: polled(first, "fenced") | polled(first, "skipped") >= set(ROOMS), what="fenced polls")
    wait_until(lambda: len(fenced_deliveries(first)) == len(ROOMS), what="fenced deliveries")
    wait_until(lambda: any(first.lines("worker.declared_dead")), what="the line about its lost registration")
    assert len(list(first.lines("worker.declared_dead"))) == 1
    assert second.stop() == 0
    fleet.wait_for_joins("cleo")
    wait_until_delivered(fleet.receiver, fleet.database_url)
    assert first.stop() == 0
    assert recorded_twice(fleet.database_url) == []
    assert all_problems(fleet.receiver.deliveries, fleet.database_url) == []
    assert registered(fleet.database_url) == []


@pytest.mark.campaign
@pytest.mark.parametrize("kind", ["stall", "cut"])
def test_no_worker_counts_as_dead_after_an_outage_of_the_database(
    kind: str, fleet_on: Callable[[str], Fleet], postgresql_migrated_url: str
) -> None:
    fleet = fleet_on(postgresql_migrated_url)
    processes = [fleet.start_with_everything_in_flight("first", relayed=True), fleet.start("second", relayed=True)]
    processes[1].wait_ready()
    before = registered(postgresql_migrated_url)
    assert len(before) == len(processes)
    end = "restore" if kind == "cut" else "resume"
    for relay in fleet.relays:
        getattr(relay, kind)()
    fleet.receiver.script()
    fleet.receiver.release()
    fleet.simulator.resume("first")
    time.sleep(OUTAGE)
    for relay in fleet.relays:
        getattr(relay, end)()
    fleet.wait_for_joins("bert")
    seen_after = "SELECT id FROM workers WHERE seen_at > :seen_at"
    (restored_at,) = rows(postgresql_migrated_url, "SELECT clock_timestamp() + interval '5 seconds'")[0]
    wait_until(
        lambda: len(rows(postgresql_migrated_url, seen_after, seen_at=restored_at)) == len(before),
        what="renewals 5 seconds after the outage",
    )
    assert registered(postgresql_migrated_url) == before
    assert [list(process.lines("claims.freed")) for process in processes] == [[], []]
    assert [process.stop() for process in processes] == [0, 0]
    assert duplicates(fleet.receiver.deliveries) == []
    assert all_problems(fleet.receiver.deliveries, postgresql_migrated_url) == []


def test_an_idle_bridge_writes_nothing_to_sqlite(
    configure: Configure, sqlite_migrated_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    config = configure(
        database_url=sqlite_migrated_url,
        rooms=ROOMS,
        endpoints=[receiver.endpoint()],
        polling={"interval": "1h"},
    )
    with BridgeProcess(config) as program:
        program.wait_ready()
        wait_until(lambda: rows(sqlite_migrated_url, "SELECT 1 FROM jobs WHERE claim_token IS NULL"), what="a job")
        polled = "SELECT count(*) FROM rooms WHERE polled_at IS NOT NULL AND claim_token IS NULL"
        wait_until(lambda: rows(sqlite_migrated_url, polled) == [(len(ROOMS),)], what="a poll of every room")
        time.sleep(2)  # whatever these left to write
        before = written(tmp_path)
        time.sleep(4)
        assert written(tmp_path) == before
        assert program.stop() == 0


def written(directory: Path) -> Sequence[tuple[str, int, int]]:
    """The database's files, and those of its workers: name, size, time of the last write."""
    files = [path for path in sorted(directory.glob("bridge.db*")) if not path.name.endswith("-shm")]
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def polled(process: BridgeProcess, outcome: str) -> set[str]:
    return {line["room"] for line in process.lines("room.polled") if line["outcome"] == outcome}


def fenced_deliveries(process: BridgeProcess) -> set[str]:
    return {line["room"] for line in process.lines("delivery.attempted") if line.get("fenced")}


def recorded_twice(database_url: str) -> list[object]:
    """Events with two successful attempts: the second was recorded by a process that had lost its claim."""
    return rows(
        database_url,
        "SELECT event_key FROM attempts WHERE outcome = 'delivered' GROUP BY event_key HAVING count(*) > 1",
    )


def registered(database_url: str) -> list[str]:
    if database_url.startswith("sqlite"):
        file = Path(database_url.removeprefix("sqlite:///"))
        return sorted(path.name for path in file.parent.glob(f"{file.name}-worker-*"))
    return sorted(row.id for row in rows(database_url, "SELECT id FROM workers"))

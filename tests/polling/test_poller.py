"""The poller, step by step: a scripted source, a real database, and a clock that the test moves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from bridge.db.tables import sources
from bridge.polling.discovery import configure_discovery
from bridge.polling.poller import NoSender, Poller
from bridge.polling.source_state import retry_sources
from bridge.rules.live_rooms import LiveRooms
from bridge.rules.presence import Failure, FailureKind, Snapshot
from bridge.runtime import Runtime
from bridge.sources.protocol import SourceSettings
from tests.harness.builders import at, seen
from tests.harness.claimant import Claimant
from tests.harness.store_driver import StoreDriver, failed
from tests.harness.waiting import until

Result = Snapshot | Failure | Exception


@dataclass(slots=True)
class ScriptedSource:
    """A source with responses by room; a fetch ends when the gate of its room is open, or else `gate`."""

    name: str = "main"
    clock_skew: timedelta | None = None
    results: dict[str, Result] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)

    async def fetch(self, room_id: str) -> Snapshot | Failure:
        self.fetched.append(room_id)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await self.gates.get(room_id, self.gate).wait()
        self.under_way -= 1
        result = self.results.get(room_id, seen())
        if isinstance(result, Exception):
            raise result
        return result

    async def aclose(self) -> None:
        self.gate.set()


@dataclass(slots=True)
class ListingScript(ScriptedSource):
    """The same, with lists of live rooms, one after the other."""

    lists: list[LiveRooms | Failure] = field(default_factory=list)

    async def fetch_live_rooms(self) -> LiveRooms | Failure:
        return self.lists.pop(0)


class Bell(NoSender):
    """Counts how often senders are woken."""

    def __init__(self) -> None:
        self.rung = 0

    def wake(self) -> None:
        self.rung += 1


@dataclass(slots=True, kw_only=True)
class PollerSetup:
    """A database, a clock that only moves when it is set, and pollers on them."""

    store: StoreDriver
    seconds: float = 0
    worker: Claimant = field(default_factory=Claimant)
    sender: Bell = field(default_factory=Bell)

    def now(self) -> datetime:
        return at(self.seconds)

    def poller(self, *sources: ScriptedSource, max_concurrency: int = 16, discover: bool = False) -> Poller:
        account = SourceSettings(
            name="",
            kind="scripted",
            base_url="",
            api_key="",
            max_concurrency=max_concurrency,
            requests_per_second=0,
            discover=discover,
        )
        accounts = {source.name: (replace(account, name=source.name), source) for source in sources}
        runtime = Runtime(now=self.now, new_id=self.store.new_id, jitter=lambda: 0.5)
        return Poller(self.store.database, accounts, self.store.settings, runtime, self.worker, self.sender)

    @contextmanager
    def writing_blocked(self) -> Iterator[None]:
        """Writes wait until the end of the block."""
        over = threading.Event()
        blocking = asyncio.create_task(self.store.database.write(lambda _: over.wait()))
        try:
            yield
        finally:
            over.set()
            blocking.add_done_callback(asyncio.Task.result)


@pytest.fixture
def polling(sqlite_store: StoreDriver) -> PollerSetup:
    return PollerSetup(store=sqlite_store)


@pytest.fixture
async def source() -> ScriptedSource:
    """A source that responds at once."""
    scripted = ScriptedSource()
    scripted.gate.set()
    return scripted


async def test_a_tick_polls_due_rooms_and_wakes_the_sender(polling: PollerSetup, source: ScriptedSource) -> None:
    polling.store.subscribe()
    polling.store.track("a", "b")
    source.results = {"a": seen("p")}
    poller = polling.poller(source)

    assert await poller.tick() == 2
    assert sorted(source.fetched) == ["a", "b"]
    assert polling.store.event_types("a") == ["room.occupied", "peer.joined"]
    assert polling.sender.rung == 1
    assert await poller.tick() == 0
    polling.seconds = 10
    assert await poller.tick() == 2
    assert polling.sender.rung == 1, "nothing changed"


async def test_a_tick_asks_for_live_rooms_and_polls_them(polling: PollerSetup) -> None:
    source = ListingScript(
        results={"a": seen("p")},
        lists=[LiveRooms(peer_counts={"a": 1}), failed(FailureKind.TIMEOUT), LiveRooms(peer_counts={"a": 1, "b": 1})],
    )
    source.gate.set()
    polling.store.write(configure_discovery, {"main"}, at(0))
    poller = polling.poller(source, discover=True)
    with capture_logs() as logs:
        assert await poller.tick() == 1
        assert await poller.tick() == 0
        polling.seconds = 10
        assert await poller.tick() == 1, "without the list, what is known is polled"
        polling.seconds = 20
        assert await poller.tick() == 2

    assert source.fetched == ["a", "a", "a", "b"]
    listed = [(line["log_level"], line["outcome"], line.get("new")) for line in logs if line["event"] == "rooms.listed"]
    assert listed == [("info", "complete", 1), ("warning", "timeout", None), ("info", "complete", 1)]


async def test_a_source_that_does_not_discover_is_asked_for_no_list(polling: PollerSetup) -> None:
    source = ListingScript()
    source.gate.set()
    polling.store.write(configure_discovery, {"main"}, at(0))
    polling.store.track("a")
    assert await polling.poller(source).tick() == 1


async def test_a_failed_poll_is_logged(polling: PollerSetup, source: ScriptedSource) -> None:
    polling.store.track("a")
    source.results = {"a": failed(FailureKind.TIMEOUT)}
    with capture_logs() as logs:
        await polling.poller(source).tick()

    (line,) = [line for line in logs if line["event"] == "room.polled"]
    assert (line["log_level"], line["outcome"], line["room"]) == ("warning", "timeout", "a")


async def test_max_concurrency_limits_the_requests_under_way(polling: PollerSetup, source: ScriptedSource) -> None:
    polling.store.track(*(f"r{number}" for number in range(12)))
    source.gate.clear()
    poller = polling.poller(source, max_concurrency=3)
    ticking = asyncio.create_task(poller.tick())
    await until(lambda: source.under_way == 3)
    source.gate.set()

    assert await ticking == 6
    assert source.most_under_way == 3


async def test_after_a_429_claimed_rooms_are_not_requested(polling: PollerSetup, source: ScriptedSource) -> None:
    polling.store.track("a", "b", "c", "d")
    source.results = dict.fromkeys("abcd", failed(FailureKind.RATE_LIMITED, 30))
    poller = polling.poller(source, max_concurrency=1)
    await poller.tick()

    assert source.fetched == ["a"]
    polling.seconds = 29.9
    assert await poller.tick() == 0
    source.results = {}
    polling.seconds = 30
    assert await poller.tick() == 1, "one probe"
    while await poller.tick():
        pass
    polling.seconds = 40
    while await poller.tick():
        pass
    assert set(source.fetched) == {"a", "b", "c", "d"}


async def test_an_exception_of_a_source_affects_one_room(polling: PollerSetup, source: ScriptedSource) -> None:
    polling.store.track("a", "b")
    source.results = {"a": ValueError("unexpected"), "b": seen("p")}
    poller = polling.poller(source)
    with capture_logs() as logs:
        await poller.tick()

    assert polling.store.event_types("b") == ["room.occupied", "peer.joined"]
    assert "work.failed" in {line["event"] for line in logs}
    source.results = {}
    polling.seconds = 60
    await poller.tick()
    assert polling.store.room("a").polled_at == at(60)


async def test_a_slow_source_does_not_delay_another(polling: PollerSetup, source: ScriptedSource) -> None:
    polling.store.track("fast")
    polling.store.track("slow", source="second")
    slow = ScriptedSource("second")
    poller = polling.poller(slow, source)
    running = asyncio.create_task(poller.run())
    poller.wake()
    await until(lambda: slow.fetched == ["slow"])
    await until(lambda: polling.store.room("fast").polled_at is not None)

    assert polling.store.room("slow").polled_at is None
    slow.gate.set()
    assert await poller.stop(30) == 0
    await running


async def test_a_poll_whose_claim_was_lost_writes_nothing(polling: PollerSetup) -> None:
    """As after SIGSTOP: another poller has claimed the room meanwhile."""
    polling.store.track("a")
    frozen, other = ScriptedSource(), ScriptedSource()
    frozen.results, other.results = {"a": seen("old")}, {"a": seen("new")}
    other.gate.set()
    ticking = asyncio.create_task(polling.poller(frozen).tick())
    await until(lambda: frozen.fetched == ["a"])
    polling.store.lose_claims()
    assert await polling.poller(other).tick() == 1
    with capture_logs() as logs:
        frozen.gate.set()
        await ticking

    assert [event["data"].get("peer_id") for event in polling.store.log("a")] == [None, "new"]
    assert [line["outcome"] for line in logs if line["event"] == "room.polled"] == ["fenced"]


async def test_a_failure_while_the_process_was_frozen_does_not_count(polling: PollerSetup) -> None:
    polling.store.track("a")
    frozen = ScriptedSource(results={"a": failed(FailureKind.RATE_LIMITED, 3600)})
    ticking = asyncio.create_task(polling.poller(frozen).tick())
    await until(lambda: frozen.fetched == ["a"])
    polling.worker.frozen = True
    frozen.gate.set()
    await ticking
    polling.worker.frozen = False

    assert [row.condition for row in polling.store.rows(sources)] == ["ok"]
    assert await polling.poller(frozen).tick() == 1


async def test_a_poll_that_a_stop_cancels_is_due_again_at_once(polling: PollerSetup, source: ScriptedSource) -> None:
    polling.store.track("a")
    hanging = ScriptedSource()
    poller = polling.poller(hanging)
    running = asyncio.create_task(poller.run())
    poller.wake()
    await until(lambda: hanging.fetched == ["a"])

    assert await poller.stop(0.01) == 1
    await running
    assert await polling.poller(source).tick() == 1


async def test_a_stop_releases_claimed_rooms_that_were_not_requested(
    polling: PollerSetup, source: ScriptedSource
) -> None:
    polling.store.track("a", "b")
    source.gate.clear()
    poller = polling.poller(source, max_concurrency=1)
    ticking = asyncio.create_task(poller.tick())
    await until(lambda: source.fetched == ["a"])
    stopping = asyncio.create_task(poller.stop(30))
    await asyncio.sleep(0)
    source.gate.set()

    assert (await ticking, await stopping) == (2, 0)
    assert source.fetched == ["a"]
    assert await polling.poller(source).tick() == 1
    assert source.fetched == ["a", "b"]


async def test_a_success_that_is_recorded_late_does_not_end_the_pause_of_a_429(
    polling: PollerSetup, source: ScriptedSource
) -> None:
    polling.store.track("good", "busy")
    source.gates = {"good": asyncio.Event(), "busy": asyncio.Event()}
    source.results = {"busy": failed(FailureKind.RATE_LIMITED, 30)}
    poller = polling.poller(source)
    ticking = asyncio.create_task(poller.tick())
    await until(lambda: source.under_way == 2)
    polling.store.track("third")
    with polling.writing_blocked():
        source.gates["good"].set()
        await until(lambda: source.under_way == 1)
        source.gates["busy"].set()
        await until(lambda: source.under_way == 0)
        claiming = asyncio.create_task(poller.tick())
        await asyncio.sleep(0)

    assert (await ticking, await claiming) == (2, 1)
    assert "third" not in source.fetched, "it was claimed before the 429 was recorded, and begun after its response"


@pytest.mark.parametrize(("changed", "fetched"), [(["main"], ["a", "a"]), ([], ["a"])])
async def test_a_rate_limit_of_an_old_key_does_not_pause_a_changed_source(
    changed: list[str], fetched: list[str], polling: PollerSetup, source: ScriptedSource
) -> None:
    polling.store.track("a")
    source.results = {"a": failed(FailureKind.RATE_LIMITED, 86_400)}
    await polling.poller(source).tick()
    source.results = {}
    polling.seconds = 10
    polling.store.write(retry_sources, changed, at(10))
    await polling.poller(source).tick()

    assert source.fetched == fetched


async def test_a_successful_probe_ends_the_pause_of_a_429(polling: PollerSetup, source: ScriptedSource) -> None:
    """The probe comes early, because of a reload."""
    polling.store.track("a")
    source.results = {"a": failed(FailureKind.RATE_LIMITED, 3600)}
    poller = polling.poller(source)
    await poller.tick()
    source.results = {}
    polling.store.track("b")
    for seconds in (10, 11):
        polling.seconds = seconds
        polling.store.write(retry_sources, ["main"], at(seconds))
        assert await poller.tick() == 1

    assert source.fetched == ["a", "b", "a"]

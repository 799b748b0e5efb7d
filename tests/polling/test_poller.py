"""The poller, stepwise: a source that is asked for real, a database for real, time as a variable."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.db.engine import Database
from bridge.db.tables import sources
from bridge.polling.poller import Poller, RequestSlots
from bridge.polling.source_state import retry_sources
from bridge.rules.presence import Failure, FailureKind, Snapshot
from bridge.runtime import Runtime
from bridge.sources.protocol import SourceSettings
from tests.harness.store_driver import StoreDriver, at, copied_sqlite, failed, migrated_sqlite, seen, until

Response = Snapshot | Failure | Exception


@dataclass(slots=True)
class Clock:
    """Stands still until it is moved."""

    seconds: float = 0

    def now(self) -> datetime:
        return at(self.seconds)


@dataclass(slots=True)
class ScriptedSource:
    """A source with answers by room, the same until they are changed; `gate` holds back all whose room has none."""

    name: str = "main"
    answers: dict[str, Response] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)

    async def fetch(self, room_id: str) -> Snapshot | Failure:
        self.asked.append(room_id)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await self.gates.get(room_id, self.gate).wait()
        self.under_way -= 1
        response = self.answers.get(room_id, seen())
        if isinstance(response, Exception):
            raise response
        return response

    async def aclose(self) -> None:
        self.gate.set()


@dataclass(slots=True, kw_only=True)
class Scene:
    """Everything a poller needs, and what it did."""

    store: StoreDriver
    clock: Clock = field(default_factory=Clock)
    slots: RequestSlots = field(default_factory=RequestSlots)
    woken: int = 0

    def wake_sender(self) -> None:
        self.woken += 1

    def poller(self, *sources: ScriptedSource, **limits: float) -> Poller:
        accounts = {source.name: (self.account(source.name, **limits), source) for source in sources}
        return Poller(
            self.store.database,
            accounts,
            self.store.settings,
            self.runtime(),
            on_events=self.wake_sender,
            slots=self.slots,
        )

    def account(self, name: str, *, max_concurrency: float = 16, requests_per_second: float = 0) -> SourceSettings:
        return SourceSettings(
            name=name,
            kind="scripted",
            base_url="",
            api_key="",
            max_concurrency=int(max_concurrency),
            requests_per_second=requests_per_second,
        )

    def condition(self, source: str = "main") -> str:
        """How a source is held to be doing."""
        (row,) = [row for row in self.store.rows(sources) if row.name == source]
        return str(row.condition)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Whatever is written meanwhile waits in a queue until the end."""
        over = threading.Event()
        stalling = asyncio.create_task(self.store.database.write(lambda _: over.wait()))
        try:
            yield
        finally:
            over.set()
            stalling.add_done_callback(asyncio.Task.result)

    def runtime(self) -> Runtime:
        return Runtime(now=self.clock.now, new_id=self.store.new_id, new_token=self.store.token, jitter=lambda: 0.5)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return migrated_sqlite(tmp_path_factory.mktemp("template"))


@pytest.fixture
def scene(template: Path, tmp_path: Path) -> Iterator[Scene]:
    database = Database(copied_sqlite(template, tmp_path))
    yield Scene(store=StoreDriver(database=database))
    database.close()


@pytest.fixture
async def source() -> ScriptedSource:
    """Answers at once."""
    scripted = ScriptedSource()
    scripted.gate.set()
    return scripted


async def test_a_tick_polls_what_is_due_and_wakes_the_sender(scene: Scene, source: ScriptedSource) -> None:
    scene.store.track("a", "b")
    source.answers = {"a": seen("p")}
    poller = scene.poller(source)

    assert await poller.tick() == 2
    assert sorted(source.asked) == ["a", "b"]
    assert scene.store.told("a") == ["room.occupied", "peer.joined"]
    assert scene.woken == 1
    assert await poller.tick() == 0
    scene.clock.seconds = 10
    assert await poller.tick() == 2
    assert scene.woken == 1, "nothing changed"


async def test_a_failed_poll_keeps_the_presence_and_says_so(scene: Scene, source: ScriptedSource) -> None:
    scene.store.track("a")
    poller = scene.poller(source)
    source.answers = {"a": seen("p")}
    await poller.tick()
    source.answers = {"a": failed(FailureKind.TIMEOUT)}
    scene.clock.seconds = 10
    with capture_logs() as logs:
        await poller.tick()

    assert scene.store.told("a") == ["room.occupied", "peer.joined"]
    (line,) = [line for line in logs if line["event"] == "room.polled"]
    assert (line["log_level"], line["outcome"], line["room"]) == ("warning", "timeout", "a")
    source.answers = {"a": seen()}
    scene.clock.seconds = 20
    await poller.tick()
    assert scene.store.told("a")[-2:] == ["peer.left", "room.empty"]


async def test_no_more_is_asked_at_once_than_the_account_allows(scene: Scene, source: ScriptedSource) -> None:
    scene.store.track(*(f"r{number}" for number in range(12)))
    source.gate.clear()
    poller = scene.poller(source, max_concurrency=3)
    ticking = asyncio.create_task(poller.tick())
    await until(lambda: source.under_way == 3)
    source.gate.set()

    assert await ticking == 6
    assert source.most_under_way == 3


async def test_after_a_429_nothing_that_waits_for_a_seat_is_asked(scene: Scene, source: ScriptedSource) -> None:
    scene.store.track("a", "b", "c", "d")
    source.answers = dict.fromkeys("abcd", failed(FailureKind.RATE_LIMITED, 30))
    poller = scene.poller(source, max_concurrency=1)
    await poller.tick()

    assert source.asked == ["a"]
    scene.clock.seconds = 29.9
    assert await poller.tick() == 0
    source.answers = {}
    scene.clock.seconds = 30
    assert await poller.tick() == 1, "one probe"
    while await poller.tick():
        pass
    scene.clock.seconds = 40
    while await poller.tick():
        pass
    assert set(source.asked) == {"a", "b", "c", "d"}


async def test_after_a_bad_key_the_source_is_tried_once_a_minute(scene: Scene, source: ScriptedSource) -> None:
    scene.store.track("a", "b", "c", "d")
    source.answers = dict.fromkeys("abcd", failed(FailureKind.UNAUTHORIZED))
    poller = scene.poller(source, max_concurrency=1)
    for seconds in range(0, 600, 2):
        scene.clock.seconds = seconds
        await poller.tick()

    assert len(source.asked) <= 10


async def test_a_source_that_asks_for_a_month_of_patience_is_asked_again_after_a_day(
    scene: Scene, source: ScriptedSource
) -> None:
    """`Failure.retry_after` is uncapped and honoured up to 24 hours: by the rooms that only waited for a seat too."""
    scene.store.track("a", "b", "c", "d")
    month, day = 30 * 86_400, 86_400
    source.answers = dict.fromkeys("abcd", failed(FailureKind.RATE_LIMITED, month))
    poller = scene.poller(source, max_concurrency=2)
    await poller.tick()
    source.answers = {}
    for seconds in range(day, day + 60, 5):
        scene.clock.seconds = seconds
        while await poller.tick():
            pass

    assert set(source.asked) == {"a", "b", "c", "d"}


async def test_a_source_that_breaks_its_promise_harms_one_room(scene: Scene, source: ScriptedSource) -> None:
    scene.store.track("a", "b")
    source.answers = {"a": ValueError("a fault"), "b": seen("p")}
    poller = scene.poller(source)
    with capture_logs() as logs:
        await poller.tick()

    assert scene.store.told("b") == ["room.occupied", "peer.joined"]
    assert "work.failed" in {line["event"] for line in logs}
    source.answers = {}
    scene.clock.seconds = 60
    await poller.tick()
    assert scene.store.room("a").polled_at == at(60)


async def test_a_slow_source_delays_nobody_else(scene: Scene, source: ScriptedSource) -> None:
    scene.store.track("fast")
    scene.store.track("slow", source="second")
    slow = ScriptedSource("second")
    poller = scene.poller(slow, source)
    running = asyncio.create_task(poller.run())
    poller.wake()
    await until(lambda: slow.asked == ["slow"])
    await until(lambda: scene.store.room("fast").polled_at is not None)

    assert scene.store.room("slow").polled_at is None
    slow.gate.set()
    assert await poller.stop(30) == 0
    await running


async def test_a_poll_that_was_overtaken_writes_nothing(scene: Scene) -> None:
    """As after SIGSTOP: it wakes up when its lease is over and another poller has been there."""
    scene.store.track("a")
    asleep, awake = ScriptedSource(), ScriptedSource()
    asleep.answers, awake.answers = {"a": seen("old")}, {"a": seen("new")}
    awake.gate.set()
    sleeping = asyncio.create_task(scene.poller(asleep).tick())
    await until(lambda: asleep.asked == ["a"])
    scene.clock.seconds = 3600
    assert await scene.poller(awake).tick() == 1
    with capture_logs() as logs:
        asleep.gate.set()
        await sleeping

    assert [event["data"].get("peer_id") for event in scene.store.log("a")] == [None, "new"]
    assert [line["outcome"] for line in logs if line["event"] == "room.polled"] == ["fenced"]


async def test_what_stopping_drops_is_due_again_at_once(scene: Scene, source: ScriptedSource) -> None:
    scene.store.track("a")
    hanging = ScriptedSource()
    poller = scene.poller(hanging)
    running = asyncio.create_task(poller.run())
    poller.wake()
    await until(lambda: hanging.asked == ["a"])

    assert await poller.stop(0.01) == 1
    await running
    assert await scene.poller(source).tick() == 1


async def test_stopping_gives_back_unasked_what_waits_for_a_request(scene: Scene, source: ScriptedSource) -> None:
    scene.store.track("a", "b")
    source.gate.clear()
    poller = scene.poller(source, max_concurrency=1)
    ticking = asyncio.create_task(poller.tick())
    await until(lambda: source.asked == ["a"])
    stopping = asyncio.create_task(poller.stop(30))
    await asyncio.sleep(0)
    source.gate.set()

    assert (await ticking, await stopping) == (2, 0)
    assert source.asked == ["a"]
    assert await scene.poller(source).tick() == 1
    assert source.asked == ["a", "b"]


async def test_two_pollers_that_follow_each_other_ask_no_more_at_once_than_the_account_allows(
    scene: Scene, source: ScriptedSource
) -> None:
    scene.store.track(*(f"r{number}" for number in range(8)))
    source.gate.clear()
    old = asyncio.create_task(scene.poller(source, max_concurrency=2).tick())
    await until(lambda: source.under_way == 2)
    new = asyncio.create_task(scene.poller(source, max_concurrency=2).tick())
    await until(lambda: all(room.claim_token for room in scene.store.rooms()))
    source.gate.set()

    assert (await old, await new) == (4, 4)
    assert (len(source.asked), source.most_under_way) == (8, 2)


async def test_another_limit_holds_for_the_poller_that_brings_it(scene: Scene, source: ScriptedSource) -> None:
    scene.store.track("a", "b", "c")
    hanging = ScriptedSource()
    old = asyncio.create_task(scene.poller(hanging, max_concurrency=1).tick())
    await until(lambda: hanging.under_way == 1)

    new = asyncio.create_task(scene.poller(source, max_concurrency=2).tick())
    await until(lambda: source.asked == ["c"])
    assert hanging.under_way == 1, "the other rooms are the old one's, and it has a request under way"
    hanging.gate.set()
    assert (await old, await new) == (2, 1)


@pytest.mark.parametrize("kind", [FailureKind.UNAUTHORIZED, FailureKind.RATE_LIMITED])
async def test_what_a_disowned_source_still_answers_does_not_count(
    kind: FailureKind, scene: Scene, source: ScriptedSource
) -> None:
    """A reload brought another key or address: what the old one is told holds nobody back, and nobody is told of it."""
    scene.store.track("a", "b")
    old = ScriptedSource(answers=dict.fromkeys("ab", failed(kind, 3600)))
    poller = scene.poller(old, max_concurrency=1)
    ticking = asyncio.create_task(poller.tick())
    await until(lambda: old.under_way == 1)
    poller.disown(["main"])
    old.gate.set()
    await ticking

    assert old.asked == ["a"], "the other one waited for its turn, and is not asked in the old way any more"
    assert scene.condition() == "ok"
    rooms = [(room.upstream_id, room.failures) for room in scene.store.rooms()]
    assert rooms == [("a", 0), ("b", 0)], "neither has failed, and the bridge's own log has nothing to tell"
    assert await scene.poller(source, max_concurrency=1).tick() == 2, "the new one asks at once"


async def test_what_a_disowned_source_has_seen_is_not_told(scene: Scene) -> None:
    """Another address, another runtime: who is there is not who is here."""
    scene.store.track("a")
    old = ScriptedSource(answers={"a": seen("p")})
    poller = scene.poller(old)
    ticking = asyncio.create_task(poller.tick())
    await until(lambda: old.under_way == 1)
    poller.disown(["main"])
    old.gate.set()
    await ticking

    assert scene.store.told("a") == []


async def test_a_source_that_is_not_named_is_not_disowned(scene: Scene, source: ScriptedSource) -> None:
    scene.store.track("a")
    source.answers = {"a": failed(FailureKind.UNAUTHORIZED)}
    poller = scene.poller(source)
    poller.disown(["second"])
    await poller.tick()

    assert scene.condition() == "unauthorized"


async def test_a_success_that_is_recorded_late_does_not_lift_what_a_429_asked_for(
    scene: Scene, source: ScriptedSource
) -> None:
    scene.store.track("well", "busy")
    source.gates = {"well": asyncio.Event(), "busy": asyncio.Event()}
    source.answers = {"busy": failed(FailureKind.RATE_LIMITED, 30)}
    poller = scene.poller(source)
    asking = asyncio.create_task(poller.tick())
    await until(lambda: source.under_way == 2)
    scene.store.track("third")
    with scene.stalled():
        source.gates["well"].set()
        await until(lambda: source.under_way == 1)
        source.gates["busy"].set()
        await until(lambda: source.under_way == 0)
        claiming = asyncio.create_task(poller.tick())
        await asyncio.sleep(0)

    assert (await asking, await claiming) == (2, 1)
    assert "third" not in source.asked, "it was claimed before the 429 was written down, and begun after it was heard"


@pytest.mark.parametrize(("changed", "asked"), [(["main"], ["a", "a"]), ([], ["a"])])
async def test_what_the_old_key_was_asked_to_wait_is_not_asked_of_the_new_one(
    changed: list[str], asked: list[str], scene: Scene, source: ScriptedSource
) -> None:
    scene.store.track("a")
    source.answers = {"a": failed(FailureKind.RATE_LIMITED, 86_400)}
    await scene.poller(source).tick()
    source.answers = {}
    scene.clock.seconds = 10
    scene.store.write(retry_sources, changed, at(10))
    await scene.poller(source).tick()

    assert source.asked == asked


async def test_a_probe_that_succeeds_lifts_what_a_429_asked_for(scene: Scene, source: ScriptedSource) -> None:
    """Ahead of its time, because of a reload."""
    scene.store.track("a")
    source.answers = {"a": failed(FailureKind.RATE_LIMITED, 3600)}
    poller = scene.poller(source)
    await poller.tick()
    source.answers = {}
    scene.store.track("b")
    for seconds in (10, 11):
        scene.clock.seconds = seconds
        scene.store.write(retry_sources, ["main"], at(seconds))
        assert await poller.tick() == 1

    assert source.asked == ["a", "b", "a"]

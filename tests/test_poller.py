"""The poller, stepwise: a source that is asked for real, a database for real, time as a variable."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.poller import Poller
from bridge.presence import Failure, FailureKind, Snapshot
from bridge.sources import SourceSettings
from bridge.store.database import Database
from bridge.world import World
from tests.store.stage import Stage, at, copied_sqlite, failed, migrated_sqlite, seen, until

Answer = Snapshot | Failure | Exception


@dataclass(slots=True)
class Clock:
    """Stands still until it is moved."""

    seconds: float = 0

    def now(self) -> datetime:
        return at(self.seconds)


@dataclass(slots=True)
class ScriptedSource:
    """A source with answers by room, the same until they are changed; `gate` holds every answer back."""

    name: str = "main"
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def fetch(self, room_id: str) -> Snapshot | Failure:
        self.asked.append(room_id)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await self.gate.wait()
        self.under_way -= 1
        answer = self.answers.get(room_id, seen())
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self) -> None:
        self.gate.set()


@dataclass(slots=True, kw_only=True)
class Scene:
    """Everything a poller needs, and what it did."""

    stage: Stage
    clock: Clock = field(default_factory=Clock)
    woken: int = 0

    def wake_sender(self) -> None:
        self.woken += 1

    def poller(self, *sources: ScriptedSource, **limits: float) -> Poller:
        accounts = {source.name: (self.account(source.name, **limits), source) for source in sources}
        return Poller(self.stage.database, accounts, self.stage.settings, self.world(), on_events=self.wake_sender)

    def account(self, name: str, *, max_concurrency: float = 16, requests_per_second: float = 0) -> SourceSettings:
        return SourceSettings(
            name=name,
            kind="scripted",
            base_url="",
            api_key="",
            max_concurrency=int(max_concurrency),
            requests_per_second=requests_per_second,
        )

    def world(self) -> World:
        return World(now=self.clock.now, new_id=self.stage.new_id, new_token=self.stage.token, jitter=lambda: 0.5)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return migrated_sqlite(tmp_path_factory.mktemp("template"))


@pytest.fixture
def scene(template: Path, tmp_path: Path) -> Iterator[Scene]:
    database = Database(copied_sqlite(template, tmp_path))
    yield Scene(stage=Stage(database=database))
    database.close()


@pytest.fixture
async def source() -> ScriptedSource:
    """Answers at once."""
    scripted = ScriptedSource()
    scripted.gate.set()
    return scripted


async def test_a_tick_polls_what_is_due_and_wakes_the_sender(scene: Scene, source: ScriptedSource) -> None:
    scene.stage.track("a", "b")
    source.answers = {"a": seen("p")}
    poller = scene.poller(source)

    assert await poller.tick() == 2
    assert sorted(source.asked) == ["a", "b"]
    assert scene.stage.told("a") == ["room.occupied", "peer.joined"]
    assert scene.woken == 1
    assert await poller.tick() == 0
    scene.clock.seconds = 10
    assert await poller.tick() == 2
    assert scene.woken == 1, "nothing changed"


async def test_a_failed_poll_keeps_the_presence_and_says_so(scene: Scene, source: ScriptedSource) -> None:
    scene.stage.track("a")
    poller = scene.poller(source)
    source.answers = {"a": seen("p")}
    await poller.tick()
    source.answers = {"a": failed(FailureKind.TIMEOUT)}
    scene.clock.seconds = 10
    with capture_logs() as logs:
        await poller.tick()

    assert scene.stage.told("a") == ["room.occupied", "peer.joined"]
    (line,) = [line for line in logs if line["event"] == "room.polled"]
    assert (line["log_level"], line["outcome"], line["room"]) == ("warning", "timeout", "a")
    source.answers = {"a": seen()}
    scene.clock.seconds = 20
    await poller.tick()
    assert scene.stage.told("a")[-2:] == ["peer.left", "room.empty"]


async def test_no_more_is_asked_at_once_than_the_account_allows(scene: Scene, source: ScriptedSource) -> None:
    scene.stage.track(*(f"r{number}" for number in range(12)))
    source.gate.clear()
    poller = scene.poller(source, max_concurrency=3)
    ticking = asyncio.create_task(poller.tick())
    await until(lambda: source.under_way == 3)
    source.gate.set()

    assert await ticking == 6
    assert source.most_under_way == 3


async def test_after_a_429_nothing_that_waits_for_a_seat_is_asked(scene: Scene, source: ScriptedSource) -> None:
    scene.stage.track("a", "b", "c", "d")
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
    scene.stage.track("a", "b", "c", "d")
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
    scene.stage.track("a", "b", "c", "d")
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
    scene.stage.track("a", "b")
    source.answers = {"a": ValueError("a fault"), "b": seen("p")}
    poller = scene.poller(source)
    with capture_logs() as logs:
        await poller.tick()

    assert scene.stage.told("b") == ["room.occupied", "peer.joined"]
    assert "work.failed" in {line["event"] for line in logs}
    source.answers = {}
    scene.clock.seconds = 60
    await poller.tick()
    assert scene.stage.room("a").polled_at == at(60)


async def test_a_slow_source_delays_nobody_else(scene: Scene, source: ScriptedSource) -> None:
    scene.stage.track("fast")
    scene.stage.track("slow", source="second")
    slow = ScriptedSource("second")
    poller = scene.poller(slow, source)
    running = asyncio.create_task(poller.run())
    poller.wake()
    await until(lambda: slow.asked == ["slow"])
    await until(lambda: scene.stage.room("fast").polled_at is not None)

    assert scene.stage.room("slow").polled_at is None
    slow.gate.set()
    assert await poller.stop(30) == 0
    await running


async def test_a_poll_that_was_overtaken_writes_nothing(scene: Scene) -> None:
    """As after SIGSTOP: it wakes up when its lease is over and another poller has been there."""
    scene.stage.track("a")
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

    assert [event["data"].get("peer_id") for event in scene.stage.log("a")] == [None, "new"]
    assert [line["outcome"] for line in logs if line["event"] == "room.polled"] == ["fenced"]


async def test_what_stopping_drops_is_due_again(scene: Scene) -> None:
    scene.stage.track("a")
    hanging, answering = ScriptedSource(), ScriptedSource()
    answering.gate.set()
    poller = scene.poller(hanging)
    running = asyncio.create_task(poller.run())
    poller.wake()
    await until(lambda: hanging.asked == ["a"])

    assert await poller.stop(0.01) == 1
    await running
    scene.clock.seconds = timedelta(minutes=1).total_seconds()
    assert await scene.poller(answering).tick() == 1

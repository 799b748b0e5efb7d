"""The jobs of a process, and what happens to them when the clock is changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from structlog.testing import capture_logs

from bridge.scheduler import Every, Job, scheduled
from tests.harness.waiting import until

HOUR = timedelta(hours=1)
TICK = timedelta(milliseconds=5)


@dataclass(slots=True)
class Clock:
    """The system's clock, and by how much it was changed."""

    change: timedelta = timedelta()
    changes: list[timedelta] = field(default_factory=list)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.change

    async def on_changed(self, moved: timedelta) -> None:
        self.changes.append(moved)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that APScheduler uses too, and that is checked often."""
    changed = Clock()

    class ChangedDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # not a ChangedDatetime
            return datetime.now(tz) + changed.change

    monkeypatch.setattr("apscheduler.schedulers.base.datetime", ChangedDatetime)
    monkeypatch.setattr("bridge.scheduler.CLOCK_CHECK_SECONDS", 0.01)
    return changed


@dataclass(slots=True)
class Runs:
    """Counts the runs of a job; a run ends when `gate` is open."""

    count: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def run(self) -> None:
        self.count += 1
        await self.gate.wait()


@asynccontextmanager
async def running(clock: Clock, **jobs: tuple[Runs, timedelta]) -> AsyncIterator[None]:
    listed = [Job(name=name, every=every, run=runs.run) for name, (runs, every) in jobs.items()]
    async with scheduled(listed, now=clock.now, on_clock_changed=clock.on_changed):
        yield


async def more_runs(runs: Runs, count: int = 5) -> None:
    limit = runs.count + count
    await until(lambda: runs.count >= limit)


@pytest.mark.parametrize("missed", [timedelta(), TICK, HOUR, timedelta(days=365)])
def test_every_fires_at_once_and_lists_no_missed_runs(missed: timedelta) -> None:
    every, now = Every(HOUR), datetime(2026, 11, 23, tzinfo=UTC)

    assert every.get_next_fire_time(None, now) == now
    assert every.get_next_fire_time(now - missed, now) == now + HOUR


async def test_jobs_run_at_once_and_until_the_block_is_left(clock: Clock) -> None:
    often, rarely = Runs(), Runs()
    async with running(clock, often=(often, TICK), rarely=(rarely, HOUR)):
        await more_runs(often)
    count = often.count
    await asyncio.sleep(0)

    assert (often.count, rarely.count) == (count, 1)


async def test_a_run_that_is_cut_off_at_the_end_is_no_error(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    slow = Runs()
    slow.gate.clear()
    before = asyncio.all_tasks()
    async with running(clock, slow=(slow, TICK)):
        await more_runs(slow, 1)
    await asyncio.gather(*(asyncio.all_tasks() - before), return_exceptions=True)

    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_run_that_has_not_ended_delays_the_next_one(clock: Clock) -> None:
    slow, other = Runs(), Runs()
    slow.gate.clear()
    async with running(clock, slow=(slow, TICK), other=(other, TICK)):
        await more_runs(other)
        assert slow.count == 1
        slow.gate.set()
        await more_runs(slow)


async def test_jobs_go_on_after_the_clock_was_put_back(clock: Clock) -> None:
    often, rarely = Runs(), Runs()
    with capture_logs() as logs:
        async with running(clock, often=(often, TICK), rarely=(rarely, HOUR)):
            await more_runs(often)
            clock.change = -24 * HOUR
            await until(lambda: len(clock.changes) == 1)
            await more_runs(often)
            await until(lambda: rarely.count == 2)

    assert [round(moved / HOUR) for moved in clock.changes] == [-24]
    (line,) = [line for line in logs if line["event"] == "clock.changed"]
    assert (line["log_level"], round(line["seconds"])) == ("warning", -24 * 3600)


async def test_jobs_go_on_after_the_clock_was_set_forward(clock: Clock) -> None:
    often = Runs()
    with capture_logs() as logs:
        async with running(clock, often=(often, TICK)):
            await more_runs(often)
            clock.change = timedelta(days=365)
            await until(lambda: any(line["event"] == "clock.changed" for line in logs))
            await more_runs(often)

    assert [line["event"] for line in logs] == ["clock.changed"]
    assert [round(moved / HOUR) for moved in clock.changes] == [365 * 24]


async def test_a_small_change_of_the_clock_is_ignored(clock: Clock) -> None:
    often = Runs()
    with capture_logs() as logs:
        async with running(clock, often=(often, TICK)):
            clock.change = timedelta(seconds=1)
            await more_runs(often, 10)

    assert logs == []

"""The jobs of one process, on APScheduler. It only wakes workers: the database knows what is due."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from bridge.logs import get_logger

CLOCK_CHECK_SECONDS = 1.0
CLOCK_TOLERANCE = timedelta(seconds=2)
"""A smaller difference between wall clock and monotonic clock is no change of the clock."""

log = get_logger("bridge.scheduler")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A coroutine function to call again and again; a call that is still running delays the next one."""

    name: str
    every: timedelta
    run: Callable[[], Awaitable[None]]


class Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no type hints
    """Fires at once, then `interval` after each time it is asked.

    APScheduler's own interval trigger counts from the previous fire time, and so lists every run that was missed while
    the machine slept or the clock was set forward.
    """

    def __init__(self, interval: timedelta) -> None:
        self._interval = interval

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """The next time to fire."""
        return now if previous_fire_time is None else now + self._interval


@asynccontextmanager
async def scheduled(
    jobs: Sequence[Job], *, now: Callable[[], datetime], on_clock_changed: Callable[[timedelta], Awaitable[None]]
) -> AsyncIterator[None]:
    """Run the jobs until the block is left; `on_clock_changed` gets the change, positive if it was set forward."""
    scheduler = AsyncIOScheduler(timezone=UTC)
    clock = _Clock(scheduler, now, on_clock_changed)
    for job in jobs:
        run = partial(_run, clock, job)
        scheduler.add_job(run, Every(job.every), id=job.name, name=job.name, misfire_grace_time=None, coalesce=True)
    scheduler.start()
    checking = asyncio.create_task(_keep_checking(clock))
    try:
        yield
    finally:
        checking.cancel()
        with suppress(asyncio.CancelledError):
            await checking
        scheduler.shutdown(wait=False)
        await asyncio.sleep(0)  # it ends in the next round of the loop, in which a job may still begin


class _Clock:
    """The wall clock, compared with the monotonic one. APScheduler waits by the wall clock, so it is woken by hand."""

    def __init__(
        self,
        scheduler: AsyncIOScheduler,
        now: Callable[[], datetime],
        on_changed: Callable[[timedelta], Awaitable[None]],
    ) -> None:
        self._scheduler = scheduler
        self._now = now
        self._on_changed = on_changed
        self._elapsed = asyncio.get_running_loop().time
        self._offset = self._start()

    def _start(self) -> datetime:
        return self._now() - timedelta(seconds=self._elapsed())

    async def check(self) -> None:
        """Find out whether the clock was changed since the last check."""
        moved = self._start() - self._offset
        if abs(moved) < CLOCK_TOLERANCE:
            return
        self._offset += moved
        log.warning("clock.changed", seconds=round(moved.total_seconds(), 3))
        for job in self._scheduler.get_jobs():
            job.modify(next_run_time=self._now())
        await self._on_changed(moved)


async def _run(clock: _Clock, job: Job) -> None:
    """Run a job; if it may be due only because the clock was changed, handle that first."""
    with suppress(asyncio.CancelledError):  # at the scheduler's end; APScheduler would log it as an error
        await clock.check()
        await job.run()


async def _keep_checking(clock: _Clock) -> None:
    while True:
        await asyncio.sleep(CLOCK_CHECK_SECONDS)
        await clock.check()

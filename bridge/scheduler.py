"""The jobs of one process, on APScheduler. It only wakes workers: the database knows what is due."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

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
    jobs: Sequence[Job], *, now: Callable[[], datetime], on_clock_put_back: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Run the jobs until the block is left."""
    scheduler = AsyncIOScheduler(timezone=UTC)
    for job in jobs:
        scheduler.add_job(job.run, Every(job.every), id=job.name, misfire_grace_time=None, coalesce=True)
    scheduler.start()
    checking = asyncio.create_task(_check_clock(scheduler, now, on_clock_put_back))
    try:
        yield
    finally:
        checking.cancel()
        with suppress(asyncio.CancelledError):
            await checking
        scheduler.shutdown(wait=False)


async def _check_clock(
    scheduler: AsyncIOScheduler, now: Callable[[], datetime], on_clock_put_back: Callable[[], Awaitable[None]]
) -> None:
    """Compare the wall clock with the monotonic one. APScheduler sleeps by the wall clock, so it is woken by hand."""
    elapsed = asyncio.get_running_loop().time
    offset = now() - timedelta(seconds=elapsed())
    while True:
        await asyncio.sleep(CLOCK_CHECK_SECONDS)
        moved = now() - timedelta(seconds=elapsed()) - offset
        if abs(moved) < CLOCK_TOLERANCE:
            continue
        offset += moved
        log.warning("clock.changed", seconds=round(moved.total_seconds(), 3))
        for job in scheduler.get_jobs():
            job.modify(next_run_time=now())
        if moved < timedelta(0):
            await on_clock_put_back()

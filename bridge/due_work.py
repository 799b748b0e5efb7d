"""When a process looks for due work, with one reading statement, and wakes poller and sender.

A look finds out what is due, and when the next thing will be. The next look comes at that time, though not so soon that
each room would be polled alone. What is made due in between is found at once if this process did it, or where
PostgreSQL notifies (`bridge.db.notifications`); otherwise by the next look.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from bridge.admin.due import HORIZON, DueWork, find_due_work
from bridge.db.engine import Database
from bridge.errors import DatabaseError
from bridge.logs import get_logger

SPACING = timedelta(milliseconds=75)
"""Between two looks: what is due within it is claimed, and recorded, together."""
TICK = timedelta(milliseconds=500)
"""The longest time between two looks, if nothing notifies this process of what other processes make due."""
REGULAR_LOOK = HORIZON
"""Interval of the look that comes in any case."""

log = get_logger("bridge.service")


def until_next_look(next_at: datetime | None, now: datetime, longest: timedelta) -> timedelta:
    """The time until the next look.

    Args:
        next_at: the next due time; more may be due already.
        now: time of the last look.
        longest: the longest time between two looks.
    """
    return longest if next_at is None else min(max(next_at - now, SPACING), longest)


class WorkFinder:
    """Looks for due work until cancelled.

    Args:
        database: has the due times.
        now: the clock.
        polls: whether this process polls.
        deliveries: whether it sends.
        on_due: called with what is due.
        is_notified: whether others notify this process, and it has nothing under way. Limits (a slot that gets free)
            may let something be claimed that was due before, which sends no notification.
    """

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime],
        *,
        polls: bool,
        deliveries: bool,
        on_due: Callable[[DueWork], None],
        is_notified: Callable[[], bool],
    ) -> None:
        self._database = database
        self._now = now
        self._polls = polls
        self._deliveries = deliveries
        self._on_due = on_due
        self._is_notified = is_notified
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look soon."""
        self._woken.set()

    async def check(self) -> None:
        """Look soon: the regular look, for the scheduler."""
        self.wake()

    async def run(self) -> None:
        """Look again and again."""
        self._database.on_due(partial(self._wake_from_thread, asyncio.get_running_loop()))
        while True:
            self._woken.clear()
            pause = await self._look()
            looked_at = asyncio.get_running_loop().time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause.total_seconds()):
                    await self._woken.wait()
            await asyncio.sleep(looked_at + SPACING.total_seconds() - asyncio.get_running_loop().time())

    def _wake_from_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(self.wake)

    async def _look(self) -> timedelta:
        """Wake poller and sender if there is work for them; returns the time until the next look."""
        now = self._now()
        try:
            found = await self._database.look(find_due_work, now, polls=self._polls, deliveries=self._deliveries)
        except DatabaseError as error:
            log.warning("claim.failed", detail=str(error))
            return TICK
        self._on_due(found)
        return until_next_look(found.next_at, now, REGULAR_LOOK if self._is_notified() else TICK)

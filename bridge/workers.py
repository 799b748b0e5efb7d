"""Claims work, runs it concurrently and stops in order: the loop that poller and sender share.

The database knows what is due. A pool claims when it is woken, and again when a slot is free if its last claim left
due work behind, so that few claims find nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from bridge.errors import DatabaseError
from bridge.logs import get_logger

Item = TypeVar("Item")

RELEASE_SECONDS = 0.5
"""Time limit for giving back unfinished items at the end; the rest is freed with the registration."""
PAUSE_AFTER_ERROR = 1.0
"""Seconds before an item whose work failed unexpectedly is given back, or a failed claim is repeated."""

log = get_logger("bridge.workers")


class Claimed(NamedTuple, Generic[Item]):
    """The result of a claim; `may_have_more`: a limit left work behind that may be claimed once an item is done."""

    items: Sequence[Item]
    may_have_more: bool


class WorkerPool(Generic[Item]):
    """Runs `work` for each item that `claim(free_slots)` returns, at most `slots` at a time."""

    def __init__(
        self,
        name: str,
        *,
        slots: int,
        claim: Callable[[int], Awaitable[Claimed[Item]]],
        work: Callable[[Item], Awaitable[None]],
        release: Callable[[Sequence[Item]], Awaitable[None]],
    ) -> None:
        self._name = name
        self._slots = slots
        self._claim = claim
        self._work = work
        self._release = release
        self._tasks: dict[asyncio.Task[None], Item] = {}
        self._unfinished: list[Item] = []
        self._woken = asyncio.Event()
        self._stopping = False
        self._may_have_more = False
        self._claiming = asyncio.Lock()

    @property
    def items(self) -> list[Item]:
        """Items being worked on."""
        return list(self._tasks.values())

    @property
    def free_slots(self) -> int:
        """Items that can be started now; none once the pool stops."""
        return 0 if self._stopping else self._slots - len(self._tasks)

    @property
    def claimed(self) -> list[Item]:
        """Items being worked on, and those that are not given back yet."""
        return [*self._tasks.values(), *self._unfinished]

    def wake(self) -> None:
        """Claim soon."""
        self._woken.set()

    async def tick(self) -> int:
        """Claim what is due and start it; returns the number of items."""
        async with self._claiming:
            free = self.free_slots
            if free <= 0:
                self._may_have_more = True
                return 0
            await self._release_unfinished()
            claimed = await self._claim(free)
            self._may_have_more = claimed.may_have_more
            await self.start(claimed.items)
            return len(claimed.items)

    async def start(self, items: Sequence[Item]) -> None:
        """Work on claimed items; they are given back if nothing new is started any more."""
        if self._stopping:
            await self._give_back(items)
            return
        for item in items:
            task = asyncio.create_task(self._do(item))
            self._tasks[task] = item
            task.add_done_callback(self._done)

    async def drain(self) -> None:
        """Wait until no item is being worked on."""
        while self._tasks:
            await asyncio.wait(self._tasks.keys())

    async def run(self) -> None:
        """Work until `stop`."""
        while not self._stopping:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self.tick()
            except DatabaseError as error:
                log.warning("claim.failed", pool=self._name, detail=str(error))
            except Exception:
                log.exception("claim.failed", pool=self._name)
                await asyncio.sleep(PAUSE_AFTER_ERROR)

    async def stop(self, grace: float) -> int:
        """Claim nothing more and finish what is under way within `grace` seconds; the rest is given back.

        Returns:
            The number of items that were cancelled. They are not lost: they are due again.
        """
        self._stopping = True
        self._woken.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                async with self._claiming:
                    pass  # a claim under way counts as work under way
                await self.drain()
        cancelled = {task: item for task, item in self._tasks.items() if not task.done()}
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        await self._give_back([*cancelled.values(), *self._unfinished])
        return len(cancelled)

    async def _give_back(self, items: Sequence[Item]) -> None:
        if items:
            with contextlib.suppress(DatabaseError, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._release(items)

    async def _do(self, item: Item) -> None:
        try:
            await self._work(item)
        except Exception:
            log.exception("work.failed", pool=self._name)
            await asyncio.sleep(PAUSE_AFTER_ERROR)
            self._unfinished.append(item)
            self.wake()

    async def _release_unfinished(self) -> None:
        """Give back what failed; if the database is away, that is repeated before the next claim."""
        if self._unfinished:
            unfinished = list(self._unfinished)
            await self._release(unfinished)
            del self._unfinished[: len(unfinished)]

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        enough = len(self._tasks) <= self._slots * 3 // 4
        if self._may_have_more and enough and not self._stopping:
            self._woken.set()

"""Work that is claimed, done concurrently and settled: the rhythm that the poller and the sender share.

Claim no more than there are free slots for; claim again when enough of them are free; stop in order. What is due
stands in SQL, so a pool that is woken too often or too late does nothing wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from bridge.errors import DatabaseError

Work = TypeVar("Work")

RELEASE_SECONDS = 0.5
"""How long giving back what was dropped may take; without it, the claims lapse by themselves."""
AFTER_THE_UNEXPECTED = 1.0
"""Seconds until it is tried again when claiming failed for no known reason."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.workers")


class WorkerPool(Generic[Work]):
    """Runs `work` for whatever `claim(slots)` hands out, at most `slots` at a time."""

    def __init__(
        self,
        name: str,
        *,
        slots: int,
        claim: Callable[[int], Awaitable[Sequence[Work]]],
        work: Callable[[Work], Awaitable[None]],
        release: Callable[[Sequence[Work]], Awaitable[None]],
    ) -> None:
        self._name = name
        self._slots = slots
        self._claim = claim
        self._work = work
        self._release = release
        self._tasks: dict[asyncio.Task[None], Work] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._may_have_more = False
        self._claiming = asyncio.Lock()

    @property
    def busy(self) -> int:
        """How many items of work are under way."""
        return len(self._tasks)

    @property
    def items(self) -> list[Work]:
        """What is under way."""
        return list(self._tasks.values())

    def wake(self) -> None:
        """Look soon for something to do."""
        self._wake.set()

    async def tick(self) -> int:
        """Claim what is due and start it; answers how much that was."""
        async with self._claiming:
            free = self._slots - len(self._tasks)
            if free <= 0 or self._stopping:
                return 0
            claimed = await self._claim(free)
            if self._stopping:  # nothing new is begun
                await self._give_back(claimed)
                return 0
            for item in claimed:
                task = asyncio.create_task(self._do(item))
                self._tasks[task] = item
                task.add_done_callback(self._done)
            self._may_have_more = bool(claimed) or bool(
                self._tasks
            )  # who is at a limit may be below it when one is done
            return len(claimed)

    async def settle(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks.keys())

    async def run(self) -> None:
        """Work until `stop`: whenever woken, claim until nothing is due or no seat is free."""
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            try:
                while await self.tick():
                    pass
            except DatabaseError as error:
                log.warning("claim.failed", pool=self._name, detail=str(error))
            except Exception:
                log.exception("claim.failed", pool=self._name)  # nobody expected this, and the others' work goes on
                await asyncio.sleep(AFTER_THE_UNEXPECTED)

    def resize(self, slots: int) -> None:
        """Work on so many at once from now on; what is under way goes on."""
        self._slots = slots
        self.wake()

    async def stop(self, grace: float | None) -> int:
        """Claim nothing more and finish what is under way; answers how much had to be dropped.

        What is dropped is not lost: it is given back, or its claim lapses, and it is done again. May be called again
        while it waits, to give it less time.

        Args:
            grace: seconds until what is under way is dropped; None waits for its end.
        """
        self._stopping = True
        self._wake.set()
        try:
            async with asyncio.timeout(grace):
                async with self._claiming:
                    pass  # a claim that was under way is work that is under way
                await self.settle()
        except TimeoutError:
            pass
        dropped = {task: item for task, item in self._tasks.items() if not task.done()}
        for task in dropped:
            task.cancel()
        await asyncio.gather(*dropped, return_exceptions=True)
        await self._give_back(list(dropped.values()))
        return len(dropped)

    async def _give_back(self, items: Sequence[Work]) -> None:
        if items:
            with contextlib.suppress(DatabaseError, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._release(items)

    async def _do(self, item: Work) -> None:
        try:
            await self._work(item)
        except Exception:
            # Not lost: the claim lapses and somebody does it again. But nobody expected this.
            log.exception("work.failed", pool=self._name)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        enough = len(self._tasks) <= self._slots * 3 // 4
        if self._may_have_more and enough and not self._stopping:
            self._wake.set()

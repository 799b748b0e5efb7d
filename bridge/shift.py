"""A shift: the workers of one configuration. A reload brings a new one, and the old one finishes what it is at."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack

import structlog

from bridge.delivery.sender import Sender
from bridge.polling.poller import Poller
from bridge.workers import AFTER_THE_UNEXPECTED

log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.service")


class Shift:
    """The workers of one configuration, and what they hold open."""

    def __init__(self, workers: Sequence[Poller | Sender], stack: AsyncExitStack) -> None:
        self._workers = workers
        self._stack = stack
        self._running = [asyncio.create_task(_keep_running(worker)) for worker in workers]
        self.ended = False

    @property
    def busy(self) -> int:
        """How many deliveries are under way."""
        return sum(worker.busy for worker in self._workers if isinstance(worker, Sender))

    def resize(self, slots: int) -> None:
        """Deliver so many at once from now on."""
        for worker in self._workers:
            if isinstance(worker, Sender):
                worker.resize(slots)

    def disown(self, sources: Collection[str]) -> None:
        """What these sources still response does not count any more."""
        for worker in self._workers:
            if isinstance(worker, Poller):
                worker.disown(sources)

    async def end(self, grace: float | None) -> None:
        """Finish what is under way, within `grace` seconds if there are any; a second call may shorten the first."""
        dropped = sum(await asyncio.gather(*(worker.stop(grace) for worker in self._workers)))
        if dropped:
            log.warning("work.dropped", count=dropped, detail="not finished in time; it is due again")
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._stack.aclose()
        self.ended = True


async def _keep_running(worker: Poller | Sender) -> None:
    """A worker that fails is begun again: the others, and the process, go on."""
    while True:
        try:
            return await worker.run()
        except Exception:
            log.exception("work.failed", pool=type(worker).__name__.lower())
        await asyncio.sleep(AFTER_THE_UNEXPECTED)

"""Group commit: results that are ready while one transaction runs are written together in the next one.

There is no timer: a single result is written at once, and under load the batches grow by themselves. If a batch fails,
its members are retried one by one, so that one bad row fails alone; if the database is away, the batch waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from bridge.errors import DatabaseError
from bridge.logs import get_logger

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGEST_BATCH = 500
TRIES_WHILE_AWAY = 60
"""With the pauses below, about two minutes."""
LONGEST_PAUSE = 2.0

log = get_logger("bridge.db")


class GroupCommit(Generic[Item, Result]):
    """Writes items with `await write(items)`, one transaction that returns one result per item, in order."""

    def __init__(self, write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        self._write = write
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Write the item together with others that are ready; returns once it is committed.

        Raises:
            Exception: what `write` raised for this item alone.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        return await future

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:LARGEST_BATCH], self._waiting[LARGEST_BATCH:]
            await self._commit(batch)

    async def _commit(self, batch: list[tuple[Item, asyncio.Future[Result]]], *, alone: bool = False) -> None:
        try:
            results = await self._persist([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is raised where the items were submitted
            if alone:
                _fail(batch[0][1], error)
                return
            for member in batch:
                await self._commit([member], alone=True)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

    async def _persist(self, items: Sequence[Item]) -> Sequence[Result]:
        pause = 0.05
        for tries in range(1, TRIES_WHILE_AWAY + 1):
            try:
                return await self._write(items)
            except DatabaseError as error:
                if not error.is_away or tries == TRIES_WHILE_AWAY:
                    raise
                log.warning("database.waiting", detail=str(error), tries=tries)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        raise AssertionError  # the last try returned or raised


def _fail(future: asyncio.Future[Result], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)

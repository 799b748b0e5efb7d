"""Few, fat transactions: what is ready while one commit is running goes into the next one together.

No timer: under load the batches grow by themselves, and a lone result is written at once. If a batch fails, its
members are tried one by one, so that one bad row harms only itself; if the database is away, the batch waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog
from sqlalchemy import Connection

from bridge.db.engine import Database
from bridge.errors import DatabaseError

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGEST = 500
PATIENCE = 60
"""Tries while the database is away; with the pauses below, about two minutes."""
LONGEST_PAUSE = 2.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.db")


class GroupCommit(Generic[Item, Result]):
    """Gathers items and writes them with `write(connection, items)`, which answers one result per item, in order."""

    def __init__(self, database: Database, write: Callable[[Connection, Sequence[Item]], Sequence[Result]]) -> None:
        self._database = database
        self._write = write
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Write the item with whatever else is ready; returns when it is committed.

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
            batch, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
            await self._commit(batch)

    async def _commit(self, batch: list[tuple[Item, asyncio.Future[Result]]], *, alone: bool = False) -> None:
        try:
            results = await self._persist([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to those who submitted
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
        for tries in range(1, PATIENCE + 1):
            try:
                return await self._database.write(self._write, items)
            except DatabaseError as error:
                if not error.is_away or tries == PATIENCE:
                    raise
                log.warning("database.waiting", detail=str(error), tries=tries)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        raise AssertionError  # the last try returned or raised


def _fail(future: asyncio.Future[Result], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)

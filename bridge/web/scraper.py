"""The response of `GET /metrics`: counts of this process, and gauges that are read from the database periodically."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from bridge.admin.gauges import read_gauges
from bridge.db.engine import Database
from bridge.errors import DatabaseError
from bridge.metrics import Gauges, Metrics

FRESH_SECONDS: Final = 5
"""Gauges that are younger than this are not read again."""
WAIT_SECONDS: Final = 5
"""Then the metrics of this process are returned without gauges: Prometheus waits for 10 seconds."""
LEAST_REST: Final = 20
"""Gauges are read for at most one part in so many of the time."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Gauges, None if they could not be read; and the endpoints with counts that no longer exist."""

    gauges: Gauges | None = None
    removed_endpoints: frozenset[str] = frozenset()


class Scraper:
    """Reads the gauges once at a time, so that a slow database costs one connection, however many ask."""

    def __init__(self) -> None:
        self.needs_token = True
        """Whether there was any token when the database last responded."""
        self._reading: asyncio.Task[Reading] | None = None
        self._applied = Reading()
        self._fresh_until = 0.0
        self._rendering = asyncio.Lock()

    async def scrape(
        self, metrics: Metrics, database: Database, now: Callable[[], datetime], accept: str
    ) -> tuple[bytes, str]:
        """Return the text and its content type. It is rendered in a thread, which takes longer the more there is."""
        if self._reading is None or (self._reading.done() and _elapsed() >= self._fresh_until):
            self._reading = asyncio.create_task(self._read(metrics, database, now()))
        reading = self._reading
        done, _ = await asyncio.wait([reading], timeout=WAIT_SECONDS)
        found = reading.result() if done else Reading()
        async with self._rendering:
            metrics.show(found.gauges)
            if found is not self._applied:  # one with the same name may have been added since
                self._applied = found
                metrics.forget_endpoints(found.removed_endpoints)
            return await asyncio.to_thread(metrics.render, accept)

    async def _read(self, metrics: Metrics, database: Database, now: datetime) -> Reading:
        started, attempted = _elapsed(), metrics.endpoint_labels
        try:
            gauges = await database.read(read_gauges, now)
        except DatabaseError:
            return Reading()
        finally:
            self._fresh_until = started + max(FRESH_SECONDS, LEAST_REST * (_elapsed() - started))
        # An endpoint that was attempted before the reading, and is not in it, was removed.
        return Reading(gauges, attempted - {one.endpoint for one in gauges.endpoints})


def _elapsed() -> float:
    return asyncio.get_running_loop().time()

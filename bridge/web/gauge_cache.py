"""The gauges of `GET /metrics`, read from the database at most every few seconds, however many ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

from bridge.admin.gauges import read_gauges
from bridge.db.engine import Database
from bridge.errors import DatabaseError
from bridge.metrics import Metrics

FRESH_SECONDS: Final = 5
"""Gauges that are younger than this are not read again."""
WAIT_SECONDS: Final = 5
"""Then the metrics of this process are returned without gauges: Prometheus waits for 10 seconds."""


class GaugeCache:
    """Keeps the gauges in `Metrics` current; one reading at a time, so that a slow database costs one connection."""

    def __init__(self) -> None:
        self._reading: asyncio.Task[None] | None = None
        self._read_at = 0.0

    async def refresh(self, metrics: Metrics, database: Database, now: Callable[[], datetime]) -> None:
        """Read the gauges unless they are fresh; if they cannot be read, there are none."""
        clock = asyncio.get_running_loop().time
        if self._reading is None or (self._reading.done() and clock() - self._read_at >= FRESH_SECONDS):
            self._reading = asyncio.create_task(_read(metrics, database, now()))
            self._read_at = clock()
        done, _ = await asyncio.wait([self._reading], timeout=WAIT_SECONDS)
        if not done:
            metrics.show(None)


async def _read(metrics: Metrics, database: Database, now: datetime) -> None:
    attempted = metrics.endpoint_labels
    try:
        gauges = await database.read(read_gauges, now)
    except DatabaseError:
        metrics.show(None)
        return
    metrics.show(gauges)
    # Endpoints that were attempted before the reading, and are not in it, were removed.
    metrics.forget_endpoints(attempted - {one.endpoint for one in gauges.endpoints})

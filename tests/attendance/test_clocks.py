"""A clock that is set far ahead and back deletes nothing: plans that lie too far from now, and the oldest of clocks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from bridge.attendance.clocks import oldest_clock
from bridge.db.jobs import claim_job, clock_has_jumped, finish_job
from bridge.rules.presence import Snapshot
from bridge.sources.checkup import Checkup
from tests.harness.builders import at
from tests.harness.store_driver import StoreDriver

DAY = timedelta(days=1)
SECONDS = DAY.total_seconds()


def run_daily(store: StoreDriver, seconds: float) -> bool | None:
    """Whether the daily job may delete at that time; None if it is not due."""
    token = store.token()
    if not store.write(claim_job, "retention", every=DAY, now=at(seconds), token=token):
        return None
    may = not store.database.read_now(clock_has_jumped, "retention", every=DAY, now=at(seconds))
    store.write(finish_job, "retention", token=token, next_run_at=at(seconds) + DAY)
    return may


def test_a_clock_that_jumps_400_days_ahead_and_back_deletes_nothing(store: StoreDriver) -> None:
    assert run_daily(store, 0) is True
    assert run_daily(store, 10) is None
    assert run_daily(store, 400 * SECONDS) is False
    assert run_daily(store, 400 * SECONDS + 3600) is None
    assert run_daily(store, 20) is False
    assert run_daily(store, 3600) is None
    assert run_daily(store, 20 + SECONDS) is True
    assert run_daily(store, 20 + 2.5 * SECONDS) is True, "a night without power"


@dataclass(frozen=True)
class Upstream:
    dated_at: datetime | None
    name: str = "main"
    clock_skew: timedelta | None = None

    async def check_up(self) -> Checkup:
        return Checkup(failure=None, asked_at=at(0), responded_at=at(0), dated_at=self.dated_at)

    async def fetch(self, room_id: str) -> Snapshot:
        raise AssertionError(room_id)

    async def aclose(self) -> None: ...


@pytest.mark.parametrize("years", [0, 2])
def test_the_oldest_clock_counts(store: StoreDriver, years: int) -> None:
    now = datetime.now(UTC)
    process = now + timedelta(days=365 * years)
    by_database = asyncio.run(oldest_clock(store.database, [Upstream(None)], process))
    assert abs(by_database - now) < timedelta(hours=1)
    assert asyncio.run(oldest_clock(store.database, [Upstream(None), Upstream(at(0))], process)) == min(at(0), now)

"""Claiming and working, step by step, without a database and without waiting for a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from bridge.errors import DatabaseError
from bridge.workers import Claimed, WorkerPool
from tests.harness.waiting import until


class Queue:
    """Items to claim, and a pool that works on them; an item is done once `gate` is open."""

    def __init__(self, items: int) -> None:
        self.left = list(range(items))
        self.claims: list[int] = []
        self.started: list[int] = []
        self.done: list[int] = []
        self.released: list[int] = []
        self.gate = asyncio.Event()
        self.claim_gate = asyncio.Event()
        self.claim_gate.set()
        self.pool: WorkerPool[int] = WorkerPool("test", slots=3, claim=self.claim, work=self.work, release=self.release)

    def run(self) -> asyncio.Task[None]:
        running = asyncio.create_task(self.pool.run())
        self.pool.wake()
        return running

    async def claim(self, slots: int) -> Claimed[int]:
        self.claims.append(slots)
        await self.claim_gate.wait()
        taken, self.left = self.left[:slots], self.left[slots:]
        return Claimed(taken, may_have_more=bool(self.left))

    async def release(self, items: Sequence[int]) -> None:
        self.released += items

    async def work(self, item: int) -> None:
        self.started.append(item)
        await self.gate.wait()
        self.done.append(item)


async def test_no_more_is_claimed_than_there_are_free_slots() -> None:
    queue = Queue(5)

    assert await queue.pool.tick() == 3
    assert queue.pool.items == [0, 1, 2]
    assert await queue.pool.tick() == 0
    assert queue.claims == [3]
    queue.gate.set()
    await queue.pool.drain()
    assert await queue.pool.tick() == 2
    await queue.pool.drain()
    assert sorted(queue.done) == [0, 1, 2, 3, 4]
    assert queue.pool.items == []


async def test_a_running_pool_works_on_everything_once_it_is_woken() -> None:
    queue = Queue(50)
    queue.gate.set()
    running = queue.run()
    await until(lambda: len(queue.done) == 50)

    assert await queue.pool.stop(1) == 0
    await running
    assert sorted(queue.done) == list(range(50))


async def test_nothing_is_claimed_again_after_a_claim_that_left_nothing_due() -> None:
    queue = Queue(2)
    queue.gate.set()
    running = queue.run()
    await until(lambda: len(queue.done) == 2)

    await queue.pool.stop(1)
    await running
    assert queue.claims == [3]


async def test_an_item_that_fails_does_not_stop_others() -> None:
    queue = Queue(3)

    async def work(item: int) -> None:
        if item == 1:
            raise ValueError
        queue.done.append(item)

    pool: WorkerPool[int] = WorkerPool("test", slots=3, claim=queue.claim, work=work, release=queue.release)
    with capture_logs() as logs:
        await pool.tick()
        await pool.drain()

    assert queue.done == [0, 2]
    assert [line["event"] for line in logs] == ["work.failed"]


@pytest.mark.parametrize(
    ("error", "level"),
    [(DatabaseError("gone", is_away=True), "warning"), (OverflowError("unexpected"), "error")],
    ids=["database away", "unexpected error"],
)
async def test_a_claim_that_fails_is_repeated_when_woken(
    error: Exception, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.workers.PAUSE_AFTER_ERROR", 0)
    claims: list[Exception | list[int]] = [error, [7]]
    done: list[int] = []

    async def claim(_: int) -> Claimed[int]:
        claimed = claims.pop(0) if claims else []
        if isinstance(claimed, Exception):
            raise claimed
        return Claimed(claimed, may_have_more=False)

    async def work(item: int) -> None:
        done.append(item)

    pool: WorkerPool[int] = WorkerPool("test", slots=3, claim=claim, work=work, release=Queue(0).release)
    with capture_logs() as logs:
        running = asyncio.create_task(pool.run())
        pool.wake()
        await until(lambda: bool(logs))
        pool.wake()
        await until(lambda: done == [7])
        await pool.stop(1)
        await running

    assert [(line["event"], line["log_level"]) for line in logs] == [("claim.failed", level)]


async def test_stopping_finishes_the_work_under_way_and_claims_nothing_more() -> None:
    queue = Queue(5)
    running = queue.run()
    await until(lambda: len(queue.started) == 3)
    stopping = asyncio.create_task(queue.pool.stop(30))
    await asyncio.sleep(0)
    queue.gate.set()

    assert await stopping == 0
    await running
    assert (sorted(queue.done), queue.left) == ([0, 1, 2], [3, 4])


async def test_stopping_cancels_and_releases_unfinished_items_after_its_grace() -> None:
    queue = Queue(2)
    running = queue.run()
    await until(lambda: len(queue.started) == 2)

    assert await queue.pool.stop(0.01) == 2
    await running
    assert (queue.done, queue.pool.items) == ([], [])
    assert sorted(queue.released) == [0, 1]


@pytest.mark.parametrize("within_grace", [True, False])
async def test_items_of_a_claim_that_ends_after_the_stop_are_released_and_not_started(*, within_grace: bool) -> None:
    queue = Queue(2)
    queue.claim_gate.clear()
    queue.gate.set()
    running = queue.run()
    await until(lambda: bool(queue.claims))
    stopping = asyncio.create_task(queue.pool.stop(30 if within_grace else 0.01))
    if within_grace:
        await asyncio.sleep(0)
    else:
        await stopping
    queue.claim_gate.set()

    assert await stopping == 0
    await running
    assert (queue.started, queue.released, queue.pool.items) == ([], [0, 1], [])


async def test_a_release_that_hangs_does_not_prevent_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.workers.RELEASE_SECONDS", 0.01)
    queue = Queue(1)

    async def release(_: Sequence[int]) -> None:
        await asyncio.Event().wait()

    pool: WorkerPool[int] = WorkerPool("test", slots=3, claim=queue.claim, work=queue.work, release=release)
    running = asyncio.create_task(pool.run())
    pool.wake()
    await until(lambda: bool(queue.started))

    assert await pool.stop(0.01) == 1
    await running

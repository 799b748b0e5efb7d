"""The rhythm of claiming and working, stepwise; nothing here waits for a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from bridge.errors import DatabaseError
from bridge.workers import WorkerPool
from tests.harness.store_driver import until


class Bench:
    """Work to hand out; each item is done when `gate` is open."""

    def __init__(self, items: int, slots: int = 3) -> None:
        self.left = list(range(items))
        self.asked: list[int] = []
        self.started: list[int] = []
        self.done: list[int] = []
        self.given_back: list[int] = []
        self.gate = asyncio.Event()
        self.claiming = asyncio.Event()
        self.claiming.set()
        self.pool: WorkerPool[int] = WorkerPool(
            "bench", slots=slots, claim=self.claim, work=self.work, release=self.release
        )

    async def claim(self, slots: int) -> Sequence[int]:
        self.asked.append(slots)
        await self.claiming.wait()
        taken, self.left = self.left[:slots], self.left[slots:]
        return taken

    async def release(self, items: Sequence[int]) -> None:
        self.given_back += items

    async def work(self, item: int) -> None:
        self.started.append(item)
        await self.gate.wait()
        self.done.append(item)


async def test_no_more_is_claimed_than_there_are_seats() -> None:
    bench = Bench(5)

    assert await bench.pool.tick() == 3
    assert await bench.pool.tick() == 0
    assert bench.asked == [3]
    bench.gate.set()
    await bench.pool.settle()
    assert await bench.pool.tick() == 2
    await bench.pool.settle()
    assert sorted(bench.done) == [0, 1, 2, 3, 4]
    assert bench.pool.busy == 0


async def test_a_running_crew_works_everything_off_once_it_is_woken() -> None:
    bench = Bench(50)
    bench.gate.set()
    running = asyncio.create_task(bench.pool.run())
    bench.pool.wake()
    await until(lambda: len(bench.done) == 50)

    assert await bench.pool.stop(1) == 0
    await running
    assert sorted(bench.done) == list(range(50))


async def test_one_failure_stops_nobody() -> None:
    bench = Bench(3)

    async def work(item: int) -> None:
        if item == 1:
            raise ValueError
        bench.done.append(item)

    pool: WorkerPool[int] = WorkerPool("bench", slots=3, claim=bench.claim, work=work, release=bench.release)
    with capture_logs() as logs:
        await pool.tick()
        await pool.settle()

    assert bench.done == [0, 2]
    assert [line["event"] for line in logs] == ["work.failed"]


@pytest.mark.parametrize(
    ("error", "level"),
    [(DatabaseError("gone", is_away=True), "warning"), (OverflowError("a rate of almost nothing"), "error")],
    ids=["the database is away", "nobody expected it"],
)
async def test_a_claim_that_fails_stops_no_crew(error: Exception, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.workers.AFTER_THE_UNEXPECTED", 0)
    answers: list[Exception | list[int]] = [error, [7]]
    done: list[int] = []

    async def claim(_: int) -> Sequence[int]:
        response = answers.pop(0) if answers else []
        if isinstance(response, Exception):
            raise response
        return response

    async def work(item: int) -> None:
        done.append(item)

    pool: WorkerPool[int] = WorkerPool("bench", slots=3, claim=claim, work=work, release=Bench(0).release)
    with capture_logs() as logs:
        running = asyncio.create_task(pool.run())
        pool.wake()
        await until(lambda: bool(logs))
        pool.wake()
        await until(lambda: done == [7])
        await pool.stop(1)
        await running

    assert [(line["event"], line["log_level"]) for line in logs] == [("claim.failed", level)]


async def test_stopping_finishes_what_is_under_way_and_claims_nothing_more() -> None:
    bench = Bench(5)
    running = asyncio.create_task(bench.pool.run())
    bench.pool.wake()
    await until(lambda: len(bench.started) == 3)
    stopping = asyncio.create_task(bench.pool.stop(30))
    await asyncio.sleep(0)
    bench.gate.set()

    assert await stopping == 0
    await running
    assert (sorted(bench.done), bench.left) == ([0, 1, 2], [3, 4])


async def test_a_second_stop_may_give_less_time() -> None:
    bench = Bench(2)
    running = asyncio.create_task(bench.pool.run())
    bench.pool.wake()
    await until(lambda: len(bench.started) == 2)
    patient = asyncio.create_task(bench.pool.stop(None))
    await asyncio.sleep(0)
    assert not patient.done()

    assert await bench.pool.stop(0.01) == 2
    assert await patient == 0
    assert sorted(bench.given_back) == [0, 1]
    await running


async def test_stopping_drops_what_does_not_finish_in_time() -> None:
    bench = Bench(2)
    running = asyncio.create_task(bench.pool.run())
    bench.pool.wake()
    await until(lambda: len(bench.started) == 2)

    assert await bench.pool.stop(0.01) == 2
    await running
    assert (bench.done, bench.pool.busy) == ([], 0)
    assert sorted(bench.given_back) == [0, 1]


async def test_what_a_claim_brings_after_the_word_to_stop_is_given_back_and_not_begun() -> None:
    bench = Bench(2)
    bench.claiming.clear()
    bench.gate.set()
    running = asyncio.create_task(bench.pool.run())
    bench.pool.wake()
    await until(lambda: bool(bench.asked))
    stopping = asyncio.create_task(bench.pool.stop(5))
    await asyncio.sleep(0)
    bench.claiming.set()

    assert await stopping == 0
    await running
    assert (bench.started, bench.given_back, bench.pool.busy) == ([], [0, 1], 0)


async def test_what_a_claim_brings_after_the_grace_is_given_back_too() -> None:
    bench = Bench(2)
    bench.claiming.clear()
    running = asyncio.create_task(bench.pool.run())
    bench.pool.wake()
    await until(lambda: bool(bench.asked))

    assert await bench.pool.stop(0.01) == 0
    bench.claiming.set()
    await running
    assert (bench.started, bench.given_back) == ([], [0, 1])


async def test_a_database_that_hangs_does_not_keep_it_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.workers.RELEASE_SECONDS", 0.01)
    bench = Bench(1)

    async def release(_: Sequence[int]) -> None:
        await asyncio.Event().wait()

    pool: WorkerPool[int] = WorkerPool("bench", slots=3, claim=bench.claim, work=bench.work, release=release)
    running = asyncio.create_task(pool.run())
    pool.wake()
    await until(lambda: bool(bench.started))

    assert await pool.stop(0.01) == 1
    await running


async def test_more_seats_are_used_at_once() -> None:
    bench = Bench(5)
    running = asyncio.create_task(bench.pool.run())
    bench.pool.wake()
    await until(lambda: len(bench.started) == 3)
    bench.pool.resize(5)
    await until(lambda: len(bench.started) == 5)
    bench.gate.set()

    assert await bench.pool.stop(1) == 0
    await running


async def test_with_fewer_seats_nothing_is_claimed_until_enough_are_free() -> None:
    bench = Bench(5)
    await bench.pool.tick()
    bench.pool.resize(2)

    assert await bench.pool.tick() == 0
    bench.gate.set()
    await bench.pool.settle()
    assert await bench.pool.tick() == 2
    await bench.pool.settle()
    assert bench.asked == [3, 2]

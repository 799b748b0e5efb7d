"""The rhythm of claiming and working, stepwise; nothing here waits for a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from bridge.crew import Crew
from bridge.errors import DatabaseError
from tests.store.stage import until


class Bench:
    """Work to hand out; each piece is done when `gate` is open."""

    def __init__(self, pieces: int, seats: int = 3) -> None:
        self.left = list(range(pieces))
        self.asked: list[int] = []
        self.started: list[int] = []
        self.done: list[int] = []
        self.given_back: list[int] = []
        self.gate = asyncio.Event()
        self.claiming = asyncio.Event()
        self.claiming.set()
        self.crew: Crew[int] = Crew("bench", seats=seats, claim=self.claim, work=self.work, release=self.release)

    async def claim(self, seats: int) -> Sequence[int]:
        self.asked.append(seats)
        await self.claiming.wait()
        taken, self.left = self.left[:seats], self.left[seats:]
        return taken

    async def release(self, pieces: Sequence[int]) -> None:
        self.given_back += pieces

    async def work(self, piece: int) -> None:
        self.started.append(piece)
        await self.gate.wait()
        self.done.append(piece)


async def test_no_more_is_claimed_than_there_are_seats() -> None:
    bench = Bench(5)

    assert await bench.crew.tick() == 3
    assert await bench.crew.tick() == 0
    assert bench.asked == [3]
    bench.gate.set()
    await bench.crew.settle()
    assert await bench.crew.tick() == 2
    await bench.crew.settle()
    assert sorted(bench.done) == [0, 1, 2, 3, 4]
    assert bench.crew.busy == 0


async def test_a_running_crew_works_everything_off_once_it_is_woken() -> None:
    bench = Bench(50)
    bench.gate.set()
    running = asyncio.create_task(bench.crew.run())
    bench.crew.wake()
    await until(lambda: len(bench.done) == 50)

    assert await bench.crew.stop(1) == 0
    await running
    assert sorted(bench.done) == list(range(50))


async def test_one_failure_stops_nobody() -> None:
    bench = Bench(3)

    async def work(piece: int) -> None:
        if piece == 1:
            raise ValueError
        bench.done.append(piece)

    crew: Crew[int] = Crew("bench", seats=3, claim=bench.claim, work=work, release=bench.release)
    with capture_logs() as logs:
        await crew.tick()
        await crew.settle()

    assert bench.done == [0, 2]
    assert [line["event"] for line in logs] == ["work.failed"]


@pytest.mark.parametrize(
    ("error", "level"),
    [(DatabaseError("gone", is_away=True), "warning"), (OverflowError("a rate of almost nothing"), "error")],
    ids=["the database is away", "nobody expected it"],
)
async def test_a_claim_that_fails_stops_no_crew(error: Exception, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.crew.AFTER_THE_UNEXPECTED", 0)
    answers: list[Exception | list[int]] = [error, [7]]
    done: list[int] = []

    async def claim(_: int) -> Sequence[int]:
        answer = answers.pop(0) if answers else []
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def work(piece: int) -> None:
        done.append(piece)

    crew: Crew[int] = Crew("bench", seats=3, claim=claim, work=work, release=Bench(0).release)
    with capture_logs() as logs:
        running = asyncio.create_task(crew.run())
        crew.wake()
        await until(lambda: bool(logs))
        crew.wake()
        await until(lambda: done == [7])
        await crew.stop(1)
        await running

    assert [(line["event"], line["log_level"]) for line in logs] == [("claim.failed", level)]


async def test_stopping_finishes_what_is_under_way_and_claims_nothing_more() -> None:
    bench = Bench(5)
    running = asyncio.create_task(bench.crew.run())
    bench.crew.wake()
    await until(lambda: len(bench.started) == 3)
    stopping = asyncio.create_task(bench.crew.stop(30))
    await asyncio.sleep(0)
    bench.gate.set()

    assert await stopping == 0
    await running
    assert (sorted(bench.done), bench.left) == ([0, 1, 2], [3, 4])


async def test_a_second_stop_may_give_less_time() -> None:
    bench = Bench(2)
    running = asyncio.create_task(bench.crew.run())
    bench.crew.wake()
    await until(lambda: len(bench.started) == 2)
    patient = asyncio.create_task(bench.crew.stop(None))
    await asyncio.sleep(0)
    assert not patient.done()

    assert await bench.crew.stop(0.01) == 2
    assert await patient == 0
    assert sorted(bench.given_back) == [0, 1]
    await running


async def test_stopping_drops_what_does_not_finish_in_time() -> None:
    bench = Bench(2)
    running = asyncio.create_task(bench.crew.run())
    bench.crew.wake()
    await until(lambda: len(bench.started) == 2)

    assert await bench.crew.stop(0.01) == 2
    await running
    assert (bench.done, bench.crew.busy) == ([], 0)
    assert sorted(bench.given_back) == [0, 1]


async def test_what_a_claim_brings_after_the_word_to_stop_is_given_back_and_not_begun() -> None:
    bench = Bench(2)
    bench.claiming.clear()
    bench.gate.set()
    running = asyncio.create_task(bench.crew.run())
    bench.crew.wake()
    await until(lambda: bool(bench.asked))
    stopping = asyncio.create_task(bench.crew.stop(5))
    await asyncio.sleep(0)
    bench.claiming.set()

    assert await stopping == 0
    await running
    assert (bench.started, bench.given_back, bench.crew.busy) == ([], [0, 1], 0)


async def test_what_a_claim_brings_after_the_grace_is_given_back_too() -> None:
    bench = Bench(2)
    bench.claiming.clear()
    running = asyncio.create_task(bench.crew.run())
    bench.crew.wake()
    await until(lambda: bool(bench.asked))

    assert await bench.crew.stop(0.01) == 0
    bench.claiming.set()
    await running
    assert (bench.started, bench.given_back) == ([], [0, 1])


async def test_a_database_that_hangs_does_not_keep_it_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.crew.RELEASE_SECONDS", 0.01)
    bench = Bench(1)

    async def release(_: Sequence[int]) -> None:
        await asyncio.Event().wait()

    crew: Crew[int] = Crew("bench", seats=3, claim=bench.claim, work=bench.work, release=release)
    running = asyncio.create_task(crew.run())
    crew.wake()
    await until(lambda: bool(bench.started))

    assert await crew.stop(0.01) == 1
    await running


async def test_more_seats_are_used_at_once() -> None:
    bench = Bench(5)
    running = asyncio.create_task(bench.crew.run())
    bench.crew.wake()
    await until(lambda: len(bench.started) == 3)
    bench.crew.resize(5)
    await until(lambda: len(bench.started) == 5)
    bench.gate.set()

    assert await bench.crew.stop(1) == 0
    await running


async def test_with_fewer_seats_nothing_is_claimed_until_enough_are_free() -> None:
    bench = Bench(5)
    await bench.crew.tick()
    bench.crew.resize(2)

    assert await bench.crew.tick() == 0
    bench.gate.set()
    await bench.crew.settle()
    assert await bench.crew.tick() == 2
    await bench.crew.settle()
    assert bench.asked == [3, 2]

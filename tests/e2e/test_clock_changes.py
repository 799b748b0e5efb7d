"""The wall clock of the real program is set forward and back while it runs, and between two runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.harness.clock_shim import COMPILER, ShimmedClock
from tests.harness.config import Configure
from tests.harness.process import READY, Process, bridge_command
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc) for the clock's shim")]

DAY = timedelta(days=1)
MEMORY_GROWTH = 60 * 1024 * 1024
"""Bytes. Listing the missed runs of a year took gigabytes, of thirty days 700 MB."""


@pytest.fixture
def clock(tmp_path: Path) -> ShimmedClock:
    return ShimmedClock(tmp_path)


@pytest.fixture
def start(clock: ShimmedClock) -> Callable[[Path], Process]:
    def start(config: Path) -> Process:
        return Process(bridge_command("run", "--config", str(config)), config.parent, env=clock.environment)

    return start


def peak_memory(program: Process) -> int:
    """Bytes."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def changes(program: Process) -> list[dict[str, Any]]:
    return list(program.lines("clock.changed"))


def wait_for_changes(program: Process, count: int) -> None:
    wait_until(lambda: len(changes(program)) == count, what=f"{count} lines about the clock")


def wait_for_deliveries(receiver: Receiver, path: str, count: int) -> None:
    wait_until(
        lambda: sum(one.path == path for one in receiver.deliveries) >= count, what=f"{count} requests to {path}"
    )


FAR_BACK = [-20 * 365 * DAY]
ALWAYS = [[3 * DAY], FAR_BACK, [365 * DAY, -365 * DAY]]
MOVES = [*ALWAYS, [20 * 365 * DAY], [-DAY / 24]]


def scenarios() -> Iterator[Any]:
    """Every move on both databases, most of them in the campaign."""
    for moves in MOVES:
        for database in ("sqlite", "postgresql"):
            is_always = moves in ALWAYS and (database == "sqlite" or moves == FAR_BACK)
            named = "_".join(f"{move / DAY:+g}d" for move in moves)
            marks = () if is_always else (pytest.mark.campaign,)
            yield pytest.param(database, moves, marks=marks, id=f"{database}-{named}")


@pytest.mark.parametrize(("migrated_url", "moves"), [*scenarios()], indirect=["migrated_url"])
def test_work_goes_on_after_the_clock_was_changed(
    configure: Configure,
    simulator: Simulator,
    receiver: Receiver,
    clock: ShimmedClock,
    start: Callable[[Path], Process],
    moves: list[timedelta],
) -> None:
    failing = receiver.endpoint("failing", events=["peer.*"])
    config = configure(
        rooms=["room"],
        endpoints=[receiver.endpoint("crm", events=["peer.*"]), failing],
        delivery={"retry_schedule": ["1h"] * 9},
    )
    receiver.script(Response(status=500, when=lambda delivery: delivery.path == "/failing"))
    simulator.join("room", "anna")
    with start(config) as program:
        program.wait_for_output(READY)
        wait_until(lambda: len(receiver.deliveries) == 2, what="the first event at both endpoints")
        wait_until(lambda: len(list(program.lines("delivery.attempted"))) == 2, what="their records")
        memory = peak_memory(program)
        offset = timedelta()
        for number, move in enumerate(moves, 2):
            offset += move
            clock.set(offset)
            wait_for_changes(program, number - 1)
            simulator.join("room", f"guest{number}")
            wait_for_deliveries(receiver, "/crm", number)
        wait_for_deliveries(receiver, "/failing", 2)  # the retry, due now
        growth = peak_memory(program) - memory
        assert program.stop() == 0
    assert growth < MEMORY_GROWTH
    assert [round(line["seconds"]) for line in changes(program)] == [round(move.total_seconds()) for move in moves]
    types = [one.event["type"] for one in receiver.accepted]
    assert types == ["peer.joined"] * (1 + len(moves)), "nobody left"
    assert not [one for one in program.lines() if one.get("reason") == "failing"]
    assert not list(program.lines("attempts.pruned"))


def test_a_clock_that_was_put_back_between_two_runs_makes_everything_due(
    configure: Configure,
    simulator: Simulator,
    receiver: Receiver,
    clock: ShimmedClock,
    start: Callable[[Path], Process],
) -> None:
    config = configure(
        rooms=["room"], endpoints=[receiver.endpoint("crm", events=["peer.*"])], polling={"interval": "1h"}
    )
    simulator.join("room", "anna")
    clock.set(2 * DAY)
    receiver.script(Response(status=503, headers={"Retry-After": "3600"}, times=1))
    with start(config) as program:
        wait_until(lambda: len(receiver.deliveries) == 1, what="a delivery that fails")
        wait_until(lambda: list(program.lines("delivery.attempted")), what="its record")
        assert program.stop() == 0
    clock.set(timedelta())
    simulator.join("room", "bert")
    with start(config) as program:
        wait_until(lambda: len(receiver.accepted) == 2, what="both events")
        assert program.stop() == 0
    (line,) = changes(program)
    assert -2 * DAY.total_seconds() - 60 < line["seconds"] < -1.9 * DAY.total_seconds()

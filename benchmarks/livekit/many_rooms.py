"""Both kinds in one process: 1,000 tracked rooms of which 30 are live, with `discover = true` and without.

Both upstreams are simulated, and count their requests.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from benchmarks.livekit import rig
from benchmarks.livekit.upstreams import Upstreams
from tests.harness.receiver import Receiver
from tests.harness.waiting import wait_until

SOURCES = ("main", "meet")
ROOMS_EACH, LIVE_EACH, PEOPLE_EACH = 500, 15, 3
STEP_SECONDS, STAY_SECONDS = 0.5, 75.0
IDLE_EVERY = 8
"""One of so many joins is into an idle room."""
LIVE, IDLE = "live", "idle"


@dataclass(frozen=True, slots=True)
class Join:
    """A join into a room that was live, or idle, before it."""

    source: str
    room: str
    before: str
    at: float


def measure(seconds: float) -> Iterator[str]:
    """Two runs with the same rooms and the default intervals and budgets."""
    yield (
        f"{len(SOURCES) * ROOMS_EACH:,} tracked rooms, {len(SOURCES) * LIVE_EACH} of them live, half of each kind;"
        f" counted for {seconds:.0f} s after each room had been asked once. A join every {STEP_SECONDS} s, one of"
        f" {IDLE_EVERY} into an idle room; each stays {STAY_SECONDS:.0f} s."
    )
    yield ""
    names = (
        "requests a minute: Huddle01 / LiveKit",
        "of these, lists",
        "join into a live room to webhook, p50 / p99 / most: Huddle01",
        "LiveKit",
        "join into an idle room: Huddle01",
        "LiveKit",
        "joins",
    )
    columns = [_run(seconds, discover=discover) for discover in (True, False)]
    yield from rig.table(("", "`discover = true`", "without"), ([*row] for row in zip(names, *columns, strict=True)))


def _run(seconds: float, *, discover: bool) -> tuple[object, ...]:
    rooms = {source: [f"{source}-{number}" for number in range(ROOMS_EACH)] for source in SOURCES}
    with Upstreams() as upstreams, Receiver() as receiver:
        for source in SOURCES:
            for room in rooms[source][:LIVE_EACH]:
                for number in range(PEOPLE_EACH):
                    upstreams.join(source, room, f"{room}-{number}")
        sources = {name: {**table, "discover": discover} for name, table in upstreams.sources().items()}
        with rig.running_bridge(receiver, sources=sources, rooms=rooms, interval="10s"):
            wait_until(
                lambda: len({room for _, _, room in tuple(upstreams.requests)} - {None}) == len(SOURCES) * ROOMS_EACH,
                timeout=300,
                what="a poll of each room",
            )
            start = time.time()
            joins = _let_people_come(upstreams, rooms, seconds)
            end = time.time()
            arrived = rig.arrival_times(receiver, joins.keys(), timeout=180)
    minutes = (end - start) / 60
    asked = [(source, room) for at, source, room in upstreams.requests if start <= at < end]
    requests, lists = Counter(source for source, _ in asked), sum(room is None for _, room in asked)
    delays = [
        rig.spread(
            [arrived[peer] - join.at for peer, join in joins.items() if (join.before, join.source) == (before, source)]
        )
        for before in (LIVE, IDLE)
        for source in SOURCES
    ]
    return (
        " / ".join(f"{requests[one] / minutes:.0f}" for one in SOURCES),
        f"{lists / minutes:.0f}",
        *delays,
        len(joins),
    )


def _let_people_come(upstreams: Upstreams, rooms: dict[str, list[str]], seconds: float) -> dict[str, Join]:
    """Joins at a steady rate, in turns into both kinds; each stays long enough to be seen by a poll."""
    rng = Random(7)  # noqa: S311 - a seed, not secrecy
    joins: dict[str, Join] = {}
    leaving: list[tuple[float, str, str, str]] = []
    end = time.time() + seconds
    for number in count():
        now = time.time()
        while leaving and leaving[0][0] <= now:
            _, source, room, peer = leaving.pop(0)
            upstreams.leave(source, room, peer)
        if now >= end:
            return joins
        source, before = SOURCES[number % 2], LIVE if (number // 2) % IDLE_EVERY else IDLE
        some = rooms[source][:LIVE_EACH] if before == LIVE else rooms[source][LIVE_EACH:]
        room, peer = rng.choice(some), f"guest-{number}"
        joins[peer] = Join(source=source, room=room, before=before, at=now)
        upstreams.join(source, room, peer)
        leaving.append((now + STAY_SECONDS, source, room, peer))
        time.sleep(STEP_SECONDS)
    raise AssertionError

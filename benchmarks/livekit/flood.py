"""A flood of pokes from one client, as fast as it can: for one room, for many, and ones that must be refused.

Every poke of the first two is signed and distinct, and about a participant who is not there, which causes a second
poll. Meanwhile, people join a room of the same source and one of another source, which are polled every second.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import time
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import aiohttp
import jwt

from benchmarks.livekit import rig
from benchmarks.livekit.upstreams import Upstreams
from tests.harness.livekit import KEY, SECRET
from tests.harness.receiver import Receiver
from tests.harness.waiting import wait_until

TARGET, MANY = "target", [f"room-{number}" for number in range(200)]
NEIGHBOURS = {"meet": "neighbour", "main": "elsewhere"}
"""The room of each source that people join meanwhile."""
CLIENTS, STEP_SECONDS = 16, 0.25
OLD_SECONDS = 301


@dataclass(frozen=True, slots=True)
class Flood:
    """Pokes that a client sends: for rooms, signed with a secret and key some seconds ago."""

    url: str
    rooms: Sequence[str]
    seconds: float
    secret: str = SECRET
    key: str = KEY
    age: int = 0


def measure(seconds: float) -> Iterator[str]:
    """Calm, then a flood of each kind, with joins meanwhile."""
    with Upstreams() as upstreams, Receiver() as receiver:
        rooms = {"meet": [TARGET, NEIGHBOURS["meet"], *MANY], "main": [NEIGHBOURS["main"]]}
        with rig.running_bridge(
            receiver,
            sources=upstreams.sources(),
            rooms=rooms,
            interval="1h",
            intervals=dict.fromkeys(NEIGHBOURS.values(), "1s"),
        ) as bridge:
            wait_until(lambda: len(upstreams.polls("meet")) >= len(rooms["meet"]), what="a poll of each room")
            url = f"{bridge.url}/pokes/meet"
            phases = [
                ("calm", None),
                ("one room", Flood(url, [TARGET], seconds)),
                ("200 rooms", Flood(url, MANY, seconds)),
                ("forged: another secret", Flood(url, [TARGET], seconds / 4, secret=f"other-{SECRET}")),
                ("replayed: 301 s old", Flood(url, [TARGET], seconds / 4, age=OLD_SECONDS)),
                ("foreign: another key", Flood(url, [TARGET], seconds / 4, secret=f"foreign-{SECRET}", key="another")),
                ("calm again", None),
            ]
            rows = [(name, *_phase(bridge, upstreams, receiver, flood, seconds)) for name, flood in phases]
    yield from rig.table(
        (
            "",
            "pokes/s",
            "responses",
            "polls of that room a second",
            "polls of the source: a second, most within 1 s",
            "join to webhook, same source: p50 / p99 / most",
            "another source",
            "memory at the end, MiB",
        ),
        rows,
    )


def _phase(
    bridge: rig.Bridge, upstreams: Upstreams, receiver: Receiver, flood: Flood | None, seconds: float
) -> tuple[object, ...]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(time.sleep, (0,))  # it has started
        start = time.time()
        running = None if flood is None else pool.apply_async(_send, (flood,))
        joins = _let_people_come(upstreams, seconds if flood is None else flood.seconds)
        end = time.time()
        statuses: Counter[int] = Counter() if running is None else running.get()
    wait_until(
        lambda: (
            not set(upstreams.polls("meet", since=time.time() - 4)) - set(upstreams.polls("meet", NEIGHBOURS["meet"]))
        ),
        timeout=300,
        what="the end of the polls for pokes",
    )
    arrived = rig.arrival_times(receiver, joins.keys(), timeout=300)
    delays = [
        rig.spread([arrived[peer] - at for peer, (source, at) in joins.items() if source == wanted])
        for wanted in NEIGHBOURS
    ]
    of_target = sum(at < end for at in upstreams.polls("meet", TARGET, since=start))
    of_source = [at for at in upstreams.polls("meet", since=start) if at < end]
    return (
        "-" if flood is None else f"{statuses.total() / flood.seconds:,.0f}",
        ", ".join(f"{number:,} of {status}" for status, number in sorted(statuses.items())) or "-",
        f"{of_target / (end - start):.2f}",
        f"{len(of_source) / (end - start):.1f}, {_most_within_a_second(of_source)}",
        *delays,
        f"{bridge.resident_mib():.0f}",
    )


def _let_people_come(upstreams: Upstreams, seconds: float) -> dict[str, tuple[str, float]]:
    """Joins into both neighbours, in turns."""
    joins: dict[str, tuple[str, float]] = {}
    end = time.time() + seconds
    for number in count():
        if time.time() >= end:
            break
        source = list(NEIGHBOURS)[number % 2]
        peer = f"guest-{time.time_ns()}"
        joins[peer] = source, time.time()
        upstreams.join(source, NEIGHBOURS[source], peer)
        time.sleep(STEP_SECONDS)
    return joins


def _most_within_a_second(times: Sequence[float]) -> int:
    window: deque[float] = deque()
    most = 0
    for at in sorted(times):
        window.append(at)
        while window[0] <= at - 1:
            window.popleft()
        most = max(most, len(window))
    return most


def _send(flood: Flood) -> Counter[int]:
    """Send for a time over some connections; returns how often each status came."""
    return asyncio.run(_send_all(flood))


async def _send_all(flood: Flood) -> Counter[int]:
    statuses: Counter[int] = Counter()
    numbers, end = count(), time.monotonic() + flood.seconds

    async def send(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            number = next(numbers)
            body = _poke(flood.rooms[number % len(flood.rooms)], f"PA_{number}")
            async with session.post(flood.url, data=body, headers=_signed(flood, body)) as response:
                statuses[response.status] += 1
                await response.read()

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(send(session) for _ in range(CLIENTS)))
    return statuses


def _poke(room: str, sid: str) -> bytes:
    participant = {"sid": sid, "identity": sid, "state": "ACTIVE"}
    return json.dumps({"event": "participant_joined", "room": {"name": room}, "participant": participant}).encode()


def _signed(flood: Flood, body: bytes) -> dict[str, str]:
    begins = int(time.time()) - flood.age
    digest = b64encode(hashlib.sha256(body).digest()).decode()
    claims = {"iss": flood.key, "nbf": begins, "exp": begins + 3600, "sha256": digest}
    token = jwt.encode(claims, flood.secret, algorithm="HS256")
    return {"authorization": token, "content-type": "application/webhook+json"}

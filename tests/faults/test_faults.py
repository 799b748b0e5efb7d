"""Every kind of fault acts, and only where it should: a test under a fault that does nothing would prove nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from bridge.simulator import Simulation
from tests.faults.faults import KINDS, Fault
from tests.faults.server import FaultyUpstream
from tests.harness.clock import StoppedClock
from tests.harness.waiting import until

NOW = 1_795_000_000_000
ROOM = "/live-sessions/participants/r"
PEERS = ("ann", "bob", "cleo", "dora")
TRUE_ITEMS: list[Any] = [{"peerId": peer, "joinTime": NOW, "metadata": {"displayName": peer}} for peer in PEERS]
TRUTH = json.dumps({"count": len(PEERS), "participants": TRUE_ITEMS}, separators=(",", ":")).encode()
OPTIONS: dict[str, dict[str, Any]] = {"slow": {"seconds": 0.01}, "timeout": {"seconds": 0.01}}
BROKEN = {"timeout", "reset", "cut"}
"""The kinds without a whole response."""
ELSEWHERE = {"no_session_412", "empty_200", "stale", "slow", "repeated"}
"""The kinds that do not show in a list of participants that has not changed."""


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(NOW)


@pytest.fixture
def faulty(clock: StoppedClock) -> FaultyUpstream:
    """An upstream with some peers in room `r`."""
    simulation = Simulation(seed=1, now=clock)
    for peer in PEERS:
        simulation.join("r", peer_id=peer, metadata={"displayName": peer})
    return FaultyUpstream(simulation)


@pytest.fixture
async def url(faulty: FaultyUpstream) -> AsyncIterator[httpx.URL]:
    async with faulty.serve() as address:
        yield httpx.URL(address)


@pytest.fixture
async def upstream(url: httpx.URL) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"x-api-key": "simulated-key"}
    async with httpx.AsyncClient(base_url=f"{url}/api/v2/sdk", headers=headers, trust_env=False) as client:
        yield client


def switch_on(faulty: FaultyUpstream, kind: str, **options: Any) -> None:  # noqa: ANN401 - fields of Fault
    faulty.faults.replace([Fault(kind=kind, **{**OPTIONS.get(kind, {}), **options})])


async def statuses(upstream: httpx.AsyncClient, *paths: str) -> list[int]:
    return [(await upstream.get(path)).status_code for path in paths]


@pytest.mark.parametrize("kind", sorted(KINDS - BROKEN - ELSEWHERE))
async def test_a_fault_changes_one_response(faulty: FaultyUpstream, upstream: httpx.AsyncClient, kind: str) -> None:
    switch_on(faulty, kind, times=1)
    assert (await upstream.get(ROOM)).content != TRUTH
    assert (await upstream.get(ROOM)).content == TRUTH


@pytest.mark.parametrize("kind", sorted(BROKEN))
async def test_a_fault_breaks_one_connection(faulty: FaultyUpstream, upstream: httpx.AsyncClient, kind: str) -> None:
    switch_on(faulty, kind, times=1)
    with pytest.raises(httpx.TransportError):
        await upstream.get(ROOM)
    assert (await upstream.get(ROOM)).content == TRUTH


async def test_a_repeated_response_arrives_twice(faulty: FaultyUpstream, url: httpx.URL) -> None:
    switch_on(faulty, "repeated")
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"GET /api/v2/sdk{ROOM} HTTP/1.0\r\nx-api-key: simulated-key\r\n\r\n".encode())
    assert (await reader.read()).count(TRUTH) == 2
    writer.close()


async def test_faults_with_times_take_turns_before_those_that_last(
    faulty: FaultyUpstream, upstream: httpx.AsyncClient
) -> None:
    limited = Fault(kind="rate_limited")
    faulty.faults.replace([limited, Fault(kind="status", times=2), Fault(kind="redirect", times=1)])
    assert await statuses(upstream, *[ROOM] * 4) == [500, 500, 302, 429]


async def test_the_faults_of_a_room_act_there_only_and_first(
    faulty: FaultyUpstream, upstream: httpx.AsyncClient
) -> None:
    faulty.simulation.join("other", peer_id="emil")
    faulty.faults.replace([Fault(kind="status", times=1)])
    faulty.faults.replace([Fault(kind="status", status=502, times=1)], room_id="r")
    assert await statuses(upstream, ROOM, "/live-sessions/participants/other", ROOM) == [502, 500, 200]


async def test_polls_through_an_address_of_its_own_can_be_paused(
    faulty: FaultyUpstream, url: httpx.URL, upstream: httpx.AsyncClient
) -> None:
    faulty.pause("one")
    request = asyncio.create_task(upstream.get(f"{url}/via/one/api/v2/sdk{ROOM}", timeout=30))
    await until(lambda: any(poll.has_response for poll in faulty.polls))
    assert (await upstream.get(ROOM)).content == TRUTH
    assert [(poll.via, poll.over) for poll in faulty.polls] == [("one", False), ("", True)]
    assert faulty.overlaps == ["r: by  while one polls"]
    faulty.resume("one")
    assert (await request).content == TRUTH

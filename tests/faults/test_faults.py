"""Every kind of fault acts, and only where it should: a test under a fault that does nothing would prove nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from bridge.simulator import Simulation
from tests.faults.kinds import Fault, FaultKind
from tests.faults.server import FaultyUpstream
from tests.harness.clock import StoppedClock
from tests.harness.waiting import until

NOW = 1_795_000_000_000
ROOM = "/live-sessions/participants/r"
PEERS = ("ann", "bob", "cleo", "dora")
TRUE_ITEMS: list[Any] = [{"peerId": peer, "joinTime": NOW, "metadata": {"displayName": peer}} for peer in PEERS]
TRUTH = json.dumps({"count": len(PEERS), "participants": TRUE_ITEMS}, separators=(",", ":")).encode()
OPTIONS: dict[FaultKind, dict[str, Any]] = {FaultKind.SLOW: {"seconds": 0.01}, FaultKind.TIMEOUT: {"seconds": 0.01}}
BROKEN = {FaultKind.TIMEOUT, FaultKind.RESET, FaultKind.CUT}
"""The kinds without a whole response."""
ELSEWHERE = {
    FaultKind.API_V2_ARRAY,
    FaultKind.NO_SESSION_412,
    FaultKind.EMPTY_200,
    FaultKind.STALE,
    FaultKind.SLOW,
    FaultKind.REPEATED,
}
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


def switch_on(faulty: FaultyUpstream, kind: FaultKind, **options: Any) -> None:  # noqa: ANN401 - fields of Fault
    faulty.faults.replace([Fault(kind=kind, **{**OPTIONS.get(kind, {}), **options})])


async def statuses(upstream: httpx.AsyncClient, *paths: str) -> list[int]:
    return [(await upstream.get(path)).status_code for path in paths]


@pytest.mark.parametrize("kind", sorted(set(FaultKind) - BROKEN - ELSEWHERE))
async def test_a_fault_changes_one_response(
    faulty: FaultyUpstream, upstream: httpx.AsyncClient, kind: FaultKind
) -> None:
    switch_on(faulty, kind, times=1)
    assert (await upstream.get(ROOM)).content != TRUTH
    assert (await upstream.get(ROOM)).content == TRUTH


@pytest.mark.parametrize("kind", sorted(BROKEN))
async def test_a_fault_breaks_one_connection(
    faulty: FaultyUpstream, upstream: httpx.AsyncClient, kind: FaultKind
) -> None:
    switch_on(faulty, kind, times=1)
    with pytest.raises(httpx.TransportError):
        await upstream.get(ROOM)
    assert (await upstream.get(ROOM)).content == TRUTH


async def test_options_reach_the_faults(faulty: FaultyUpstream, upstream: httpx.AsyncClient) -> None:
    switch_on(faulty, FaultKind.STATUS, status=502, body={"a": None}, headers={"X-Edge": "1"})
    response = await upstream.get(ROOM)
    assert (response.status_code, response.json(), response.headers["x-edge"]) == (502, {"a": None}, "1")
    switch_on(faulty, FaultKind.RATE_LIMITED, retry_after=1.5)
    assert (await upstream.get(ROOM)).headers["retry-after"] == "1.5"
    switch_on(faulty, FaultKind.COUNT_MISMATCH, by=-2)
    assert (await upstream.get(ROOM)).json()["count"] == 2


async def test_timeout_hangs_until_the_caller_gives_up(faulty: FaultyUpstream, upstream: httpx.AsyncClient) -> None:
    switch_on(faulty, FaultKind.TIMEOUT, seconds=None)
    with pytest.raises(httpx.ReadTimeout):
        await upstream.get(ROOM, timeout=0.2)
    await until(lambda: faulty.polls[0].over)


async def test_reset_is_a_reset_and_not_an_orderly_close(faulty: FaultyUpstream, url: httpx.URL) -> None:
    switch_on(faulty, FaultKind.RESET)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"GET /api/v2/sdk/live-sessions HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_a_repeated_response_arrives_twice(faulty: FaultyUpstream, url: httpx.URL) -> None:
    switch_on(faulty, FaultKind.REPEATED)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"GET /api/v2/sdk{ROOM} HTTP/1.0\r\nx-api-key: simulated-key\r\n\r\n".encode())
    assert (await reader.read()).count(TRUTH) == 2
    writer.close()


async def test_a_slow_response_is_true_when_it_is_sent(faulty: FaultyUpstream, upstream: httpx.AsyncClient) -> None:
    switch_on(faulty, FaultKind.SLOW, seconds=0.5)
    request = asyncio.create_task(upstream.get(ROOM, timeout=30))
    await until(lambda: bool(faulty.polls))
    faulty.simulation.leave("r", "ann")
    assert (await request).json() == {"count": 3, "participants": TRUE_ITEMS[1:]}


@pytest.mark.parametrize(("kind", "status"), [(FaultKind.NO_SESSION_412, 412), (FaultKind.EMPTY_200, 200)])
async def test_other_responses_for_a_room_without_a_session(
    faulty: FaultyUpstream, upstream: httpx.AsyncClient, kind: FaultKind, status: int
) -> None:
    switch_on(faulty, kind, times=1)
    assert (await upstream.get(ROOM)).content == TRUTH
    faulty.simulation.end("r")
    assert await statuses(upstream, ROOM, ROOM) == [status, 404]


async def test_stale_lists_are_as_they_were(
    faulty: FaultyUpstream, clock: StoppedClock, upstream: httpx.AsyncClient
) -> None:
    clock.advance(10_000)
    faulty.simulation.end("r")
    clock.advance(2000)
    switch_on(faulty, FaultKind.STALE, seconds=5)
    assert (await upstream.get(ROOM)).content == TRUTH
    clock.advance(5000)
    assert await statuses(upstream, ROOM) == [404]


async def test_the_live_session_as_the_documentation_shows_it(
    faulty: FaultyUpstream, upstream: httpx.AsyncClient
) -> None:
    switch_on(faulty, FaultKind.API_V2_ARRAY)
    (session,) = (await upstream.get("/live-sessions/r")).json()["liveSessions"]
    assert (session["roomid"], session["starttime"]) == ("r", NOW)


async def test_faults_with_times_take_turns_before_those_that_last(
    faulty: FaultyUpstream, upstream: httpx.AsyncClient
) -> None:
    limited = Fault(kind=FaultKind.RATE_LIMITED)
    faulty.faults.replace([limited, Fault(kind=FaultKind.STATUS, times=2), Fault(kind=FaultKind.REDIRECT, times=1)])
    assert await statuses(upstream, *[ROOM] * 4) == [500, 500, 302, 429]


async def test_the_faults_of_a_room_act_there_only_and_first(
    faulty: FaultyUpstream, upstream: httpx.AsyncClient
) -> None:
    faulty.simulation.join("other", peer_id="emil")
    faulty.faults.replace([Fault(kind=FaultKind.STATUS, times=1)])
    faulty.faults.replace([Fault(kind=FaultKind.STATUS, status=502, times=1)], room_id="r")
    assert await statuses(upstream, ROOM, "/live-sessions/participants/other", ROOM) == [502, 500, 200]


async def test_a_fault_waits_for_a_request_that_it_can_act_on(
    faulty: FaultyUpstream, upstream: httpx.AsyncClient
) -> None:
    switch_on(faulty, FaultKind.METADATA_NUMBER, times=1)
    assert await statuses(upstream, "/live-sessions", "/live-sessions/participants/unknown") == [200, 404]
    assert (await upstream.get(ROOM)).json()["participants"][0]["metadata"] == 42


async def test_polls_through_an_address_of_its_own_can_be_paused(
    faulty: FaultyUpstream, url: httpx.URL, upstream: httpx.AsyncClient
) -> None:
    faulty.pause("one")
    request = asyncio.create_task(upstream.get(f"{url}/via/one/api/v2/sdk{ROOM}", timeout=30))
    await until(lambda: any(poll.answered for poll in faulty.polls))
    assert (await upstream.get(ROOM)).content == TRUTH
    assert [(poll.via, poll.over) for poll in faulty.polls] == [("one", False), ("", True)]
    assert faulty.overlaps == ["r: by  while one polls"]
    faulty.resume("one")
    assert (await request).content == TRUTH

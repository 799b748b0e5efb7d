"""Whose turn it is: queues of faults, lasting ones, those of one room, and whom they concern."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from bridge.simulator import Simulation
from bridge.simulator.faults import Fault

ROOM = "/live-sessions/participants/r"


def fault(kind: str, **options: Any) -> Fault:  # noqa: ANN401 - any JSON is an option
    return Fault.model_validate({"kind": kind, **options})


@pytest.fixture(autouse=True)
def _somebody(simulation: Simulation) -> None:
    simulation.join("r", peer_id="a")
    simulation.join("other", peer_id="b")


async def statuses(upstream: httpx.AsyncClient, *paths: str) -> list[int]:
    return [(await upstream.get(path)).status_code for path in paths]


async def test_faults_with_times_take_turns(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    simulation.faults.replace([fault("status", status=500, times=2), fault("unauthorized", times=1)])
    assert await statuses(upstream, *[ROOM] * 4) == [500, 500, 401, 200]


async def test_faults_without_times_last_and_act_together(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    simulation.faults.replace([fault("count_missing"), fault("metadata_number")])
    for _ in range(3):
        assert (await upstream.get(ROOM)).json()["participants"][0]["metadata"] == 42
        assert "count" not in (await upstream.get(ROOM)).json()


async def test_a_queueing_fault_goes_before_lasting_ones(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    simulation.faults.replace([fault("rate_limited"), fault("status", status=503, times=1)])
    assert await statuses(upstream, ROOM, ROOM) == [503, 429]


async def test_of_lasting_faults_that_exclude_each_other_the_first_holds(
    simulation: Simulation, upstream: httpx.AsyncClient
) -> None:
    simulation.faults.replace([fault("unauthorized"), fault("rate_limited")])
    assert await statuses(upstream, ROOM) == [401]


async def test_faults_of_a_room_are_for_that_room(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    simulation.faults.replace([fault("status", status=500)], room_id="r")
    session = simulation.rooms["r"].sessions[0].session_id
    paths = (
        ROOM,
        "/live-sessions/r",
        f"/rooms/participant-list?sessionId={session}",
        "/rooms/session-details?roomId=r",
    )
    assert await statuses(upstream, *paths) == [500, 500, 500, 500]
    assert await statuses(upstream, "/live-sessions/participants/other", "/live-sessions") == [200, 200]


async def test_a_rooms_faults_come_before_those_for_everywhere(
    simulation: Simulation, upstream: httpx.AsyncClient
) -> None:
    simulation.faults.replace([fault("status", status=500, times=1)])
    simulation.faults.replace([fault("status", status=502, times=1)], room_id="r")
    assert await statuses(upstream, ROOM, ROOM, ROOM) == [502, 500, 200]


async def test_a_fault_waits_for_a_request_that_it_concerns(
    simulation: Simulation, upstream: httpx.AsyncClient
) -> None:
    simulation.faults.replace([fault("metadata_number", times=1), fault("status", status=500, times=1)])
    assert await statuses(upstream, "/live-sessions", "/live-sessions") == [500, 200]
    assert (await upstream.get(ROOM)).json()["participants"][0]["metadata"] == 42
    assert (await upstream.get(ROOM)).json()["participants"][0]["metadata"] is None


async def test_replacing_ends_the_old_faults_and_nothing_else(
    simulation: Simulation, upstream: httpx.AsyncClient
) -> None:
    simulation.faults.replace([fault("status", status=500)], room_id="r")
    simulation.faults.replace([fault("status", status=503)])
    simulation.faults.replace([], room_id="r")
    assert await statuses(upstream, ROOM) == [503]
    simulation.faults.clear()
    assert await statuses(upstream, ROOM) == [200]


async def test_an_upstream_that_is_down_is_down_for_wrong_keys_too_but_tells_them_no_lists(
    simulation: Simulation, upstream: httpx.AsyncClient
) -> None:
    upstream.headers["x-api-key"] = "wrong"
    simulation.faults.replace([fault("status", status=500, times=1), fault("stale"), fault("empty_200")])
    assert await statuses(upstream, ROOM, ROOM, "/live-sessions/participants/unknown") == [500, 401, 401]


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"kind": "metadata_nul"}, "kind"),
        ({"kind": "reset", "times": 0}, "times"),
        ({"kind": "reset", "seconds": 1}, "reset takes nothing but times; it does not know seconds"),
        ({"kind": "slow", "by": 1}, "slow takes seconds"),
        ({"kind": "status"}, "status needs a status"),
        ({"kind": "status", "status": 99}, "status"),
        ({"kind": "slow", "second": 1}, "second"),
        ({"kind": "slow", "seconds": -1}, "seconds"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(asked: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Fault.model_validate(asked)

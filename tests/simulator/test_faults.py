"""Every kind of fault, seen through a socket by a client that knows nothing of the simulator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest

from bridge.simulator import Simulation
from bridge.simulator.breakages import BREAKAGES
from bridge.simulator.distortions import DISTORTIONS
from bridge.simulator.faults import Fault, FaultKind
from bridge.simulator.rooms import Json

NOW = 1_795_000_000_000
ROOM = "/live-sessions/participants/r"
ANN: Json = {"displayName": "Ann"}
TRUE_ITEMS = [
    {"peerId": "a", "joinTime": NOW, "metadata": ANN},
    {"peerId": "b", "joinTime": NOW, "metadata": None},
]
TRUTH = {"count": 2, "participants": TRUE_ITEMS}

Response = httpx.Response
LIST_FAULTS: dict[FaultKind, Callable[[list[Any]], bool]] = {
    FaultKind.ITEM_WITHOUT_ID: lambda items: items == [{"joinTime": NOW, "metadata": ANN}, TRUE_ITEMS[1]],
    FaultKind.ITEM_NOT_OBJECT: lambda items: items == ["a", TRUE_ITEMS[1]],
    FaultKind.JOIN_TIME_MISSING: lambda items: (
        items == [{"peerId": "a", "metadata": ANN}, {"peerId": "b", "metadata": None}]
    ),
    FaultKind.JOIN_TIME_NULL: lambda items: items == [{**item, "joinTime": None} for item in TRUE_ITEMS],
    FaultKind.JOIN_TIME_FUTURE: lambda items: items == [{**item, "joinTime": NOW + 3_600_000} for item in TRUE_ITEMS],
    FaultKind.JOIN_TIME_ISO: lambda items: all(
        item["joinTime"].endswith("Z") and datetime.fromisoformat(item["joinTime"]).timestamp() * 1000 == NOW
        for item in items
    ),
    FaultKind.JOIN_TIME_FLOAT: lambda items: (
        items == TRUE_ITEMS and all(isinstance(item["joinTime"], float) for item in items)
    ),
    FaultKind.EXIT_TIME: lambda items: items == [{**item, "exitTime": NOW + 60_000} for item in TRUE_ITEMS],
    FaultKind.METADATA_STRING: lambda items: [json.loads(item["metadata"]) for item in items] == [ANN, None],
    FaultKind.METADATA_NOT_JSON: lambda items: all(_is_text_but_not_json(item["metadata"]) for item in items),
    FaultKind.METADATA_NULL: lambda items: items == [{**item, "metadata": None} for item in TRUE_ITEMS],
    FaultKind.METADATA_ABSENT: lambda items: (
        items == [{"peerId": "a", "joinTime": NOW}, {"peerId": "b", "joinTime": NOW}]
    ),
    FaultKind.METADATA_ARRAY: lambda items: [item["metadata"] for item in items] == [[ANN], [None]],
    FaultKind.METADATA_NUMBER: lambda items: [item["metadata"] for item in items] == [42, 42],
    FaultKind.METADATA_HUGE: lambda items: all(len(json.dumps(item["metadata"])) > 8 * 1024 for item in items),
    FaultKind.METADATA_SURROGATE: lambda items: all(
        "\ud83d" in item["metadata"]["displayName"] and "😀" not in item["metadata"]["displayName"] for item in items
    ),
}
"""The kinds that change nothing but the items: what these are then."""

ANSWER_FAULTS: dict[FaultKind, Callable[[Response], bool]] = {
    FaultKind.STATUS: lambda response: (
        response.status_code == 503 and response.headers["content-type"].startswith("text/html")
    ),
    FaultKind.HTML_200: lambda response: response.status_code == 200 and "<html>" in response.text,
    FaultKind.TRUNCATED_JSON: lambda response: (
        0 < len(response.content) < 100 and _true_bytes().startswith(response.content)
    ),
    FaultKind.NOT_JSON: lambda response: (
        response.headers["content-type"] == "application/json" and _is_text_but_not_json(response.text)
    ),
    FaultKind.COUNT_MISMATCH: lambda response: response.json() == {**TRUTH, "count": 3},
    FaultKind.COUNT_MISSING: lambda response: response.json() == {"participants": TRUE_ITEMS},
    FaultKind.UNAUTHORIZED: lambda response: (
        response.status_code == 401
        and response.json() == {"message": "Incorrect or no API key provided", "ok": False, "validated": False}
    ),
    FaultKind.RATE_LIMITED: lambda response: response.status_code == 429 and "retry-after" not in response.headers,
    FaultKind.NOT_FOUND_PAGE: lambda response: response.status_code == 404 and "<html>" in response.text,
    FaultKind.NOT_FOUND_OTHER_JSON: lambda response: (
        response.status_code == 404 and "ok" not in response.json() and "ession" not in response.text
    ),
    FaultKind.REDIRECT: lambda response: response.status_code == 302 and response.headers["location"] == "/moved-away",
    FaultKind.OK_FALSE_200: lambda response: (
        response.status_code == 200 and response.json()["ok"] is False and "ession" not in response.text
    ),
    FaultKind.DUPLICATE_ITEM: lambda response: (
        response.json()
        == {"count": 3, "participants": [*TRUE_ITEMS, {"peerId": "a", "joinTime": NOW + 1000, "metadata": ANN}]}
    ),
    FaultKind.EXTRA_FIELDS: lambda response: (
        response.json() != TRUTH
        and response.json()["count"] == 2
        and all(
            item.items() >= true.items() for item, true in zip(response.json()["participants"], TRUE_ITEMS, strict=True)
        )
    ),
    FaultKind.SLOW: lambda response: response.json() == TRUTH,
}
"""The kinds that still give an response: what is peculiar about it."""

ELSEWHERE = {
    FaultKind.TIMEOUT,
    FaultKind.RESET,
    FaultKind.CUT,
    FaultKind.NO_SESSION_412,
    FaultKind.EMPTY_200,
    FaultKind.SHUFFLED,
    FaultKind.STALE,
    FaultKind.API_V2_ARRAY,
    FaultKind.ISO_TIMES,
}
"""The kinds with tests of their own below."""

OPTIONS: dict[FaultKind, dict[str, Any]] = {FaultKind.STATUS: {"status": 503}, FaultKind.SLOW: {"seconds": 0.01}}


def _is_text_but_not_json(text: object) -> bool:
    try:
        json.loads(text if isinstance(text, str) else "{}")
    except ValueError:
        return True
    return False


def _true_bytes() -> bytes:
    return json.dumps(TRUTH, separators=(",", ":")).encode()


@pytest.fixture(autouse=True)
def _two_peers(simulation: Simulation) -> None:
    simulation.join("r", peer_id="a", metadata=ANN)
    simulation.join("r", peer_id="b")


def switch_on(simulation: Simulation, kind: FaultKind, **options: Any) -> None:  # noqa: ANN401 - any JSON is an option
    fault = Fault.model_validate({"kind": kind, **OPTIONS.get(kind, {}), **options})
    simulation.faults.replace([fault])


def test_every_kind_of_fault_does_something_and_is_tested() -> None:
    done = BREAKAGES.keys() | DISTORTIONS.keys() | {FaultKind.STALE, FaultKind.SLOW}
    assert done == set(FaultKind)
    assert LIST_FAULTS.keys() | ANSWER_FAULTS.keys() | ELSEWHERE == set(FaultKind)


async def test_without_faults_the_answer_is_true(upstream: httpx.AsyncClient) -> None:
    assert (await upstream.get(ROOM)).content == _true_bytes()


@pytest.mark.parametrize("kind", LIST_FAULTS)
async def test_faults_in_the_items(simulation: Simulation, upstream: httpx.AsyncClient, kind: FaultKind) -> None:
    switch_on(simulation, kind)
    response = await upstream.get(ROOM)
    assert (response.status_code, response.json()["count"]) == (200, 2)
    assert LIST_FAULTS[kind](response.json()["participants"]), response.text


@pytest.mark.parametrize("kind", ANSWER_FAULTS)
async def test_faults_in_the_answer(simulation: Simulation, upstream: httpx.AsyncClient, kind: FaultKind) -> None:
    switch_on(simulation, kind)
    response = await upstream.get(ROOM)
    assert ANSWER_FAULTS[kind](response), response.text


@pytest.mark.parametrize("kind", sorted(LIST_FAULTS.keys() | ANSWER_FAULTS.keys()))
async def test_when_a_fault_is_gone_the_answer_is_true_again(
    simulation: Simulation, upstream: httpx.AsyncClient, kind: FaultKind
) -> None:
    switch_on(simulation, kind, times=1)
    await upstream.get(ROOM)
    assert (await upstream.get(ROOM)).content == _true_bytes()


@pytest.mark.parametrize("kind", [FaultKind.COUNT_MISMATCH, FaultKind.METADATA_NULL, FaultKind.SHUFFLED])
async def test_faults_in_lists_leave_other_answers_alone(
    simulation: Simulation, upstream: httpx.AsyncClient, kind: FaultKind
) -> None:
    simulation.add_room("idle")
    switch_on(simulation, kind)
    assert (await upstream.get("/live-sessions/participants/idle")).json()["message"] == "Session Not Found"
    assert (await upstream.get("/live-sessions")).json()["liveSessions"][0]["roomId"] == "r"


async def test_a_status_carries_what_it_is_given(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    switch_on(simulation, FaultKind.STATUS, status=502, body={"a": None}, headers={"X-Edge": "1"})
    response = await upstream.get(ROOM)
    assert (response.status_code, response.json(), response.headers["x-edge"]) == (502, {"a": None}, "1")

    switch_on(simulation, FaultKind.STATUS, status=500, body="<oops>", content_type="text/html")
    response = await upstream.get(ROOM)
    assert (response.text, response.headers["content-type"]) == ("<oops>", "text/html")

    switch_on(simulation, FaultKind.STATUS, status=204)
    assert (await upstream.get(ROOM)).content == b""


@pytest.mark.parametrize(("asked", "said"), [(3, "3"), (1.5, "1.5"), ("Wed, 21 Oct 2099 07:28:00 GMT",) * 2])
async def test_rate_limits_may_say_when_to_come_back(
    simulation: Simulation, upstream: httpx.AsyncClient, asked: float | str, said: str
) -> None:
    switch_on(simulation, FaultKind.RATE_LIMITED, retry_after=asked)
    assert (await upstream.get(ROOM)).headers["retry-after"] == said


async def test_options_reach_the_faults(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    switch_on(simulation, FaultKind.COUNT_MISMATCH, by=-2)
    assert (await upstream.get(ROOM)).json()["count"] == 0
    switch_on(simulation, FaultKind.JOIN_TIME_FUTURE, seconds=600)
    assert (await upstream.get(ROOM)).json()["participants"][0]["joinTime"] == NOW + 600_000


async def test_surrogates_travel_as_javascript_writes_them(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    switch_on(simulation, FaultKind.METADATA_SURROGATE)
    assert rb"\ud83d" in (await upstream.get(ROOM)).content
    simulation.faults.clear()
    simulation.change_metadata("r", "a", "é \udc00")
    assert rb'"' + "é ".encode() + rb"\udc00" in (await upstream.get(ROOM)).content


async def test_timeout_hangs_until_the_caller_gives_up(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    switch_on(simulation, FaultKind.TIMEOUT)
    with pytest.raises(httpx.ReadTimeout):
        await upstream.get(ROOM, timeout=0.2)
    assert simulation.requests.since()[0].status is None


async def test_timeout_can_end_with_a_closed_connection(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    switch_on(simulation, FaultKind.TIMEOUT, seconds=0.01)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        await upstream.get(ROOM, timeout=30)


async def test_reset_is_a_reset_and_not_an_orderly_close(simulation: Simulation, base_url: str) -> None:
    switch_on(simulation, FaultKind.RESET)
    url = httpx.URL(base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"GET /api/v2/sdk/live-sessions HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_cut_breaks_off_in_the_middle_of_the_body(simulation: Simulation, base_url: str) -> None:
    switch_on(simulation, FaultKind.CUT)
    url = httpx.URL(base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"GET /api/v2/sdk{ROOM} HTTP/1.1\r\nHost: x\r\nx-api-key: simulated-key\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    truth = _true_bytes()
    assert f"content-length: {len(truth)}".encode() in head.lower()
    assert body == truth[: len(truth) // 2]


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.CUT])
async def test_after_a_broken_connection_the_next_one_is_answered(
    simulation: Simulation, upstream: httpx.AsyncClient, kind: FaultKind
) -> None:
    switch_on(simulation, kind, times=1)
    with pytest.raises(httpx.TransportError):
        await upstream.get(ROOM)
    assert (await upstream.get(ROOM)).json() == TRUTH


async def test_a_slow_answer_tells_the_truth_of_the_moment_it_is_given(
    simulation: Simulation, upstream: httpx.AsyncClient
) -> None:
    switch_on(simulation, FaultKind.SLOW, seconds=0.5)
    asked = asyncio.create_task(upstream.get(ROOM, timeout=30))
    while not simulation.requests.since():  # noqa: ASYNC110 - the log is all there is to see of a request under way
        await asyncio.sleep(0)
    simulation.leave("r", "a")
    assert (await asked).json() == {"count": 1, "participants": [TRUE_ITEMS[1]]}


@pytest.mark.parametrize(
    ("kind", "status", "message"), [(FaultKind.NO_SESSION_412, 412, "No ongoing"), (FaultKind.EMPTY_200, 200, "[]")]
)
async def test_other_ways_to_say_that_there_is_no_session(
    simulation: Simulation, upstream: httpx.AsyncClient, kind: FaultKind, status: int, message: str
) -> None:
    switch_on(simulation, kind, times=2)
    assert (await upstream.get(ROOM)).json() == TRUTH
    simulation.end("r")
    for path in (ROOM, "/live-sessions/participants/unknown"):
        response = await upstream.get(path)
        assert response.status_code == status
        assert message in response.text
    assert (await upstream.get(ROOM)).status_code == 404


async def test_shuffled_lists_have_the_same_people_in_another_order(
    simulation: Simulation, upstream: httpx.AsyncClient
) -> None:
    for assign_sequences in range(20):
        simulation.join("r", peer_id=f"p{assign_sequences}")
    truth = (await upstream.get(ROOM)).json()["participants"]
    switch_on(simulation, FaultKind.SHUFFLED)
    shuffled = (await upstream.get(ROOM)).json()["participants"]
    assert shuffled != truth
    assert sorted(shuffled, key=lambda item: item["peerId"]) == sorted(truth, key=lambda item: item["peerId"])


async def test_stale_lists_are_as_they_were(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    simulation.clock.advance(10_000)
    simulation.join("r", peer_id="c")
    simulation.change_metadata("r", "a", "new")
    simulation.clock.advance(2000)
    switch_on(simulation, FaultKind.STALE, seconds=5)
    assert (await upstream.get(ROOM)).json() == TRUTH
    simulation.end("r")
    assert (await upstream.get(ROOM)).json() == TRUTH
    simulation.clock.advance(5000)
    assert (await upstream.get(ROOM)).status_code == 404
    simulation.clock.set_to(NOW + 4999)
    assert (await upstream.get(ROOM)).status_code == 404


async def test_shuffling_does_not_change_the_ids_to_come(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    undisturbed = Simulation(seed=1)
    undisturbed.join("r", peer_id="a")  # the same draws as in this test's simulation: one session id
    switch_on(simulation, FaultKind.SHUFFLED)
    for _ in range(5):
        await upstream.get(ROOM)
    assert simulation.join("r").peer_id == undisturbed.join("r").peer_id


async def test_a_session_that_is_over_but_still_shown_is_not_said_to_be_missing(
    simulation: Simulation, upstream: httpx.AsyncClient
) -> None:
    simulation.clock.advance(2000)
    simulation.end("r")
    simulation.faults.replace([Fault(kind=FaultKind.STALE, seconds=1), Fault(kind=FaultKind.EMPTY_200)])
    assert (await upstream.get(ROOM)).json() == TRUTH
    simulation.clock.advance(1000)
    assert (await upstream.get(ROOM)).json() == {"count": 0, "participants": []}


async def test_the_live_session_as_the_documentation_shows_it(
    simulation: Simulation, upstream: httpx.AsyncClient
) -> None:
    switch_on(simulation, FaultKind.API_V2_ARRAY, times=1)
    assert (await upstream.get(ROOM)).json() == TRUTH
    assert (await upstream.get("/live-sessions/r")).json() == {
        "liveSessions": [
            {"roomid": "r", "starttime": NOW, "currentPeerCount": 2, "livestreamCount": 0, "recordingCount": 0}
        ]
    }


async def test_iso_times_everywhere(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    simulation.change_metadata("r", "a", {"joinTime": 1})
    switch_on(simulation, FaultKind.ISO_TIMES)
    iso = datetime.fromisoformat((await upstream.get("/live-sessions")).json()["liveSessions"][0]["startTime"])
    assert iso.timestamp() * 1000 == NOW
    session = (await upstream.get("/rooms/session-details?roomId=r")).json()["sessions"][0]
    assert session["startTime"].endswith("Z")
    assert session["endTime"] is None
    item = (await upstream.get(ROOM)).json()["participants"][0]
    assert item["joinTime"] == session["startTime"]
    assert item["metadata"] == {"joinTime": 1}
    assert (await upstream.get("/rooms/get-rooms")).json()["rooms"][0]["createdAt"] == session["startTime"]

"""The control API moves the runtime and tells the truth about it; what makes no sense changes nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from bridge.simulator import Simulation

NOW = 1_795_000_000_000
LIST = "/live-sessions/participants"


async def test_somebody_comes_changes_and_goes(control: httpx.AsyncClient, upstream: httpx.AsyncClient) -> None:
    joined = await control.post("/rooms/r/join", json={"peer_id": "a", "metadata": {"displayName": "Ann"}})
    assert (joined.status_code, joined.json()) == (200, {"peerId": "a", "joinTime": NOW})
    await control.post("/rooms/r/metadata", json={"peer_id": "a", "metadata": ["new"]})
    assert (await upstream.get(f"{LIST}/r")).json() == {
        "count": 1,
        "participants": [{"peerId": "a", "joinTime": NOW, "metadata": ["new"]}],
    }
    await control.post("/rooms/r/leave", json={"peer_id": "a"})
    assert (await upstream.get(f"{LIST}/r")).status_code == 404


async def test_joining_says_who_and_when_as_the_upstream_will(control: httpx.AsyncClient) -> None:
    assert (await control.post("/rooms/r/join")).json()["peerId"].startswith("peerId-")
    for asked in (NOW - 5, 1.5, "2024-08-06T06:42:06.356Z", None):
        assert (await control.post("/rooms/r/join", json={"join_time": asked})).json()["joinTime"] == asked
    assert (await control.post("/rooms/r/join", json={"omit_join_time": True})).json()["joinTime"] is None


async def test_fields_can_be_kept_out_of_the_answers(control: httpx.AsyncClient, upstream: httpx.AsyncClient) -> None:
    await control.post("/rooms/r/join", json={"peer_id": "a", "omit_join_time": True, "omit_metadata": True})
    assert (await upstream.get(f"{LIST}/r")).json()["participants"] == [{"peerId": "a"}]


async def test_a_swap_is_one_move(control: httpx.AsyncClient, upstream: httpx.AsyncClient) -> None:
    await control.post("/rooms/r/join", json={"peer_id": "a"})
    swapped = await control.post("/rooms/r/swap", json={"leave": "a", "join": {"peer_id": "b", "join_time": 7}})
    assert swapped.json() == {"peerId": "b", "joinTime": 7}
    assert [item["peerId"] for item in (await upstream.get(f"{LIST}/r")).json()["participants"]] == ["b"]


async def test_the_truth_about_a_room(control: httpx.AsyncClient, simulation: Simulation) -> None:
    await control.post("/rooms/r/join", json={"peer_id": "a", "omit_metadata": True, "metadata": 5})
    simulation.clock.advance(10)
    await control.post("/rooms/r/metadata", json={"peer_id": "a", "metadata": 6})
    truth = (await control.get("/rooms/r")).json()
    assert truth == {
        "room_id": "r",
        "live": True,
        "session_id": simulation.rooms["r"].sessions[0].session_id,
        "peers": [{"peerId": "a", "joinTime": NOW, "metadata": 6}],
        "history": [
            {"at": NOW, "what": "join", "peerId": "a"},
            {"at": NOW + 10, "what": "metadata", "peerId": "a"},
        ],
    }
    await control.post("/rooms/r/end")
    truth = (await control.get("/rooms/r")).json()
    assert (truth["live"], truth["session_id"], truth["peers"]) == (False, None, [])
    assert truth["history"][2:] == [
        {"at": NOW + 10, "what": "leave", "peerId": "a"},
        {"at": NOW + 10, "what": "end", "peerId": None},
    ]
    assert (await control.get("/rooms")).json() == [truth]


async def test_rooms_are_created_for_the_first_key_or_another(
    control: httpx.AsyncClient, upstream: httpx.AsyncClient
) -> None:
    made = await control.post("/rooms", json={"room_id": "a/b ü", "metadata": {"title": "x"}})
    assert (made.status_code, made.json()) == (201, {"room_id": "a/b ü"})
    assert len((await control.post("/rooms")).json()["room_id"]) == 12
    await control.post("/rooms", json={"room_id": "theirs", "api_key": "another-key"})
    assert (await upstream.get("/rooms/get-rooms")).json()["count"] == 2

    await control.post("/rooms/theirs/join")
    await control.post("/rooms/a%2Fb%20%C3%BC/join", json={"peer_id": "p"})
    assert (await control.get("/rooms/a%2Fb%20%C3%BC")).json()["peers"][0]["peerId"] == "p"
    assert (await upstream.get(f"{LIST}/theirs")).status_code == 404
    assert (await upstream.get(f"{LIST}/theirs", headers={"x-api-key": "another-key"})).status_code == 200


async def test_a_room_is_created_once(control: httpx.AsyncClient) -> None:
    await control.post("/rooms", json={"room_id": "r"})
    again = await control.post("/rooms", json={"room_id": "r"})
    assert (again.status_code, again.json()) == (400, {"error": "room 'r' exists already"})


async def test_a_script_does_all_its_steps(control: httpx.AsyncClient, upstream: httpx.AsyncClient) -> None:
    steps = [
        {"room": "r", "do": "join", "peer_id": "a"},
        {"room": "r", "do": "join", "peer_id": "b"},
        {"room": "r", "do": "metadata", "peer_id": "b", "metadata": 1},
        {"room": "r", "do": "swap", "leave": "a", "join": {"peer_id": "c"}},
        {"room": "r", "do": "leave", "peer_id": "b"},
        {"room": "other", "do": "join", "peer_id": "d"},
        {"room": "other", "do": "end"},
        {"do": "faults", "faults": [{"kind": "count_missing"}]},
    ]
    done = await control.post("/script", json={"steps": steps})
    assert done.status_code == 200
    assert done.json()["results"][3] == {"peerId": "c", "joinTime": NOW}
    assert len(done.json()["results"]) == len(steps)
    assert (await upstream.get(f"{LIST}/r")).json() == {
        "participants": [{"peerId": "c", "joinTime": NOW, "metadata": None}]
    }
    assert (await control.get("/rooms/other")).json()["live"] is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"room": "r", "do": "leave", "peer_id": "nobody"},
        {"room": "r", "do": "dance"},
        {"room": "r", "do": "leave"},
        {"room": "unknown", "do": "end"},
    ],
)
async def test_a_script_that_fails_changes_nothing(
    control: httpx.AsyncClient, upstream: httpx.AsyncClient, wrong: dict[str, Any]
) -> None:
    await control.post("/rooms/r/join", json={"peer_id": "a"})
    before = ((await control.get("/rooms")).json(), (await upstream.get(f"{LIST}/r")).json())
    steps = [
        {"do": "faults", "faults": [{"kind": "reset"}]},
        {"room": "r", "do": "leave", "peer_id": "a"},
        {"room": "new", "do": "join"},
        wrong,
    ]
    assert (await control.post("/script", json={"steps": steps})).status_code in (400, 404)
    assert ((await control.get("/rooms")).json(), (await upstream.get(f"{LIST}/r")).json()) == before


async def test_faults_are_switched_on_and_off(control: httpx.AsyncClient, upstream: httpx.AsyncClient) -> None:
    async def status() -> int:
        return (await upstream.get(f"{LIST}/r")).status_code

    await control.post("/rooms/r/join")
    await control.put("/faults", json={"faults": [{"kind": "status", "status": 500, "times": 1}]})
    assert [await status(), await status()] == [500, 200]
    await control.put("/faults", json={"faults": [{"kind": "status", "status": 502}], "room": "r"})
    await control.put("/faults", json={"faults": [{"kind": "rate_limited"}]})
    assert await status() == 502
    await control.put("/faults", json={"faults": [], "room": "r"})
    assert await status() == 429
    assert (await control.request("DELETE", "/faults")).status_code == 200
    assert await status() == 200


async def test_settings(control: httpx.AsyncClient, upstream: httpx.AsyncClient) -> None:
    changed = await control.put("/settings", json={"empty_as": "200"})
    assert changed.json() == {"end_lag_seconds": 0, "empty_as": "200"}
    await control.post("/rooms", json={"room_id": "r"})
    assert (await upstream.get(f"{LIST}/r")).json() == {"count": 0, "participants": []}
    assert (await control.put("/settings", json={"end_lag_seconds": 1.5})).json()["end_lag_seconds"] == 1.5
    await control.put("/settings", json={"empty_as": "404"})
    assert (await upstream.get(f"{LIST}/r")).status_code == 404
    await control.post("/rooms/r/join", json={"peer_id": "a"})
    await control.post("/rooms/r/leave", json={"peer_id": "a"})
    assert (await upstream.get(f"{LIST}/r")).status_code == 200
    await control.post("/clock", json={"advance_ms": 1500})
    assert (await upstream.get(f"{LIST}/r")).status_code == 404


async def test_requests_are_written_down_as_they_came(
    control: httpx.AsyncClient, upstream: httpx.AsyncClient, simulation: Simulation
) -> None:
    await upstream.get(f"{LIST}/a%2Fb", headers=[("X-Twice", "1"), ("x-twice", "2")])
    simulation.clock.advance(2500)
    await upstream.post("/rooms/create-room?x=1")
    await upstream.get("/live-sessions", headers={"x-api-key": "wrong"})

    requests = (await control.get("/requests")).json()

    assert [{**entry, "headers": ...} for entry in requests] == [
        {
            "n": 1,
            "at": NOW,
            "method": "GET",
            "path": f"/api/v2/sdk{LIST}/a%2Fb",
            "headers": ...,
            "room_id": "a/b",
            "status": 404,
        },
        {
            "n": 2,
            "at": NOW + 2500,
            "method": "POST",
            "path": "/api/v2/sdk/rooms/create-room?x=1",
            "headers": ...,
            "room_id": None,
            "status": 201,
        },
        {
            "n": 3,
            "at": NOW + 2500,
            "method": "GET",
            "path": "/api/v2/sdk/live-sessions",
            "headers": ...,
            "room_id": None,
            "status": 401,
        },
    ]
    assert requests[0]["headers"]["x-api-key"] == "simulated-key"
    assert requests[0]["headers"]["x-twice"] == "1, 2"
    assert [entry["n"] for entry in (await control.get("/requests?since=1")).json()] == [2, 3]
    await control.request("DELETE", "/requests")
    assert (await control.get("/requests")).json() == []
    await upstream.get("/live-sessions")
    assert [entry["n"] for entry in (await control.get("/requests?since=3")).json()] == [4]


async def test_the_clock_can_be_taken_in_hand(control: httpx.AsyncClient) -> None:
    assert (await control.post("/clock", json={"now": 1000})).json() == {"now": 1000}
    assert (await control.post("/clock", json={"advance_ms": 500})).json() == {"now": 1500}
    assert (await control.post("/clock", json={"now": 0, "advance_ms": 7})).json() == {"now": 7}
    assert (await control.post("/rooms/r/join")).json()["joinTime"] == 7


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "complaint"),
    [
        ("POST", "/rooms/r/leave", b'{"peer_id": "x"}', 404, "peer 'x' is not in room 'r' (there now: a)"),
        ("POST", "/rooms/unknown/leave", b'{"peer_id": "x"}', 404, "no room 'unknown'"),
        ("POST", "/rooms/unknown/end", b"", 404, "no room 'unknown'"),
        ("GET", "/rooms/unknown", b"", 404, "no room 'unknown'"),
        ("POST", "/rooms/r/dance", b"", 400, "dance"),
        ("POST", "/rooms/r/leave", b"{}", 400, "peer_id"),
        ("POST", "/rooms/r/join", b'{"peerid": "x"}', 400, "peerid"),
        ("POST", "/rooms/r/join", b'{"join_time": {}}', 400, "join_time"),
        ("POST", "/rooms/r/join", b"[1]", 400, "not a JSON object"),
        ("POST", "/rooms/r/join", b"{", 400, "not JSON"),
        ("POST", "/script", b"{}", 400, "steps"),
        ("PUT", "/faults", b'{"faults": [{"kind": "unheard_of"}]}', 400, "faults.0.kind"),
        ("PUT", "/faults", b"{}", 400, "faults"),
        ("PUT", "/settings", b'{"empty_as": "403"}', 400, "empty_as"),
        ("PUT", "/settings", b'{"end_lag": 1}', 400, "end_lag"),
        ("POST", "/clock", b'{"advance_ms": -1}', 400, "advance_ms"),
        ("GET", "/requests?since=x", b"", 400, "since"),
        ("GET", "/nonsense", b"", 404, "no GET /_control/nonsense"),
        ("GET", "/faults", b"", 404, "no GET /_control/faults"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    control: httpx.AsyncClient, method: str, path: str, body: bytes, status: int, complaint: str
) -> None:
    await control.post("/rooms/r/join", json={"peer_id": "a"})
    before = (await control.get("/rooms")).json()
    response = await control.request(method, path, content=body)
    assert response.status_code == status, response.text
    assert complaint in response.json()["error"]
    assert (await control.get("/rooms")).json() == before

"""Every route of the simulated upstream has the shape of Huddle01's API, through a socket."""

from __future__ import annotations

import httpx
import pytest

from bridge.simulator import Simulation
from bridge.simulator.rooms import Json
from tests.harness.clock import StoppedClock

NOW = 1_795_000_000_000
ANN: Json = {"displayName": "Ann", "avatarUrl": "https://example.com/a.png"}


async def test_participants_of_a_live_room(
    simulation: Simulation, clock: StoppedClock, upstream: httpx.AsyncClient
) -> None:
    simulation.join("abc-defg-hij", peer_id="peerId-ann", metadata=ANN)
    clock.advance(1500)
    simulation.join("abc-defg-hij", peer_id="peerId-bob")

    response = await upstream.get("/live-sessions/participants/abc-defg-hij")

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "count": 2,
        "participants": [
            {"peerId": "peerId-ann", "joinTime": NOW, "metadata": ANN},
            {"peerId": "peerId-bob", "joinTime": NOW + 1500, "metadata": None},
        ],
    }


@pytest.mark.parametrize("room", ["unknown", "foreign", "idle", "ended"])
async def test_no_session_looks_the_same_whatever_the_cause(
    simulation: Simulation, upstream: httpx.AsyncClient, room: str
) -> None:
    simulation.add_room("foreign", api_key="another-key")
    simulation.join("foreign")
    simulation.add_room("idle")
    simulation.join("ended")
    simulation.end("ended")

    response = await upstream.get(f"/live-sessions/participants/{room}")

    assert response.status_code == 404
    assert response.json() == {"ok": False, "message": "Session Not Found"}


async def test_each_project_sees_its_own_rooms(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    simulation.add_room("theirs", api_key="another-key")
    simulation.join("theirs", peer_id="t")
    simulation.join("ours", peer_id="o")
    theirs = {"x-api-key": "another-key"}

    assert [room["roomId"] for room in (await upstream.get("/live-sessions")).json()["liveSessions"]] == ["ours"]
    assert [room["roomId"] for room in (await upstream.get("/rooms/get-rooms")).json()["rooms"]] == ["ours"]
    assert (await upstream.get("/rooms/room-details/theirs")).status_code == 404
    assert (await upstream.get("/rooms/session-details?roomId=theirs")).status_code == 404
    assert (await upstream.get("/live-sessions/participants/theirs", headers=theirs)).json()["count"] == 1
    assert (await upstream.get("/live-sessions/participants/ours", headers=theirs)).status_code == 404


@pytest.mark.parametrize("room", ["a/b c?d#e", "räum 50%", "../x", "%2F", "."])
async def test_room_ids_are_taken_percent_encoded(
    simulation: Simulation, base_url: str, upstream: httpx.AsyncClient, room: str
) -> None:
    simulation.join(room, peer_id="a")
    encoded = "".join(f"%{byte:02X}" for byte in room.encode())

    response = await upstream.get(httpx.URL(f"{base_url}/api/v2/sdk/live-sessions/participants/{encoded}"))

    assert response.json()["count"] == 1
    assert (await upstream.get(f"{base_url}/api/v2/sdk/live-sessions/{encoded}")).json()["liveSessions"][
        "roomId"
    ] == room


@pytest.mark.parametrize("headers", [{"x-api-key": "wrong"}, {"x-api-key": ""}, {}], ids=["wrong", "empty", "none"])
@pytest.mark.parametrize(
    "path",
    ["/live-sessions/participants/r", "/live-sessions", "/rooms/get-rooms", "/rooms/room-details/r", ""],
)
async def test_without_the_right_key_every_route_refuses(
    simulation: Simulation, base_url: str, path: str, headers: dict[str, str]
) -> None:
    simulation.join("r")
    async with httpx.AsyncClient(trust_env=False) as stranger:
        response = await stranger.get(f"{base_url}/api/v2/sdk{path}", headers=headers)
    assert response.status_code == 401
    assert response.json() == {"message": "Incorrect or no API key provided", "ok": False, "validated": False}


async def test_rooms_come_in_pages_of_ten(simulation: Simulation, upstream: httpx.AsyncClient) -> None:
    for number in range(12):
        simulation.add_room(f"room-{number}", metadata={"title": f"Room {number}"})

    first = (await upstream.get("/rooms/get-rooms")).json()
    second = (await upstream.get("/rooms/get-rooms", params={"cursor": first["nextCursor"]})).json()

    assert [room["roomId"] for room in first["rooms"]] == [f"room-{number}" for number in range(10)]
    assert {**first, "rooms": ...} == {
        "rooms": ...,
        "pageSize": 10,
        "current": 0,
        "nextCursor": 1,
        "prevCursor": None,
        "count": 12,
    }
    assert second == {
        "rooms": [
            {"roomId": "room-10", "createdAt": NOW, "roomLocked": False, "metadata": {"title": "Room 10"}},
            {"roomId": "room-11", "createdAt": NOW, "roomLocked": False, "metadata": {"title": "Room 11"}},
        ],
        "pageSize": 2,
        "current": 1,
        "nextCursor": None,
        "prevCursor": 0,
        "count": 12,
    }


async def test_sessions_of_a_room_newest_first(
    simulation: Simulation, clock: StoppedClock, upstream: httpx.AsyncClient
) -> None:
    simulation.join("r", peer_id="a")
    clock.advance(60_000)
    simulation.end("r")
    clock.advance(60_000)
    simulation.join("r", peer_id="a")

    sessions = (await upstream.get("/rooms/session-details?roomId=r")).json()["sessions"]

    ids = [session.pop("sessionId") for session in sessions]
    assert sessions == [{"startTime": NOW + 120_000, "endTime": None}, {"startTime": NOW, "endTime": NOW + 60_000}]
    assert len(set(ids)) == 2
    older = (await upstream.get("/rooms/session-details?roomId=r&limit=1&cursor=1")).json()["sessions"]
    assert [session["sessionId"] for session in older] == [ids[1]]


@pytest.mark.parametrize("route", ["participant-list", "participant-lists"])
async def test_the_record_of_a_session_has_one_item_per_visit(
    simulation: Simulation, clock: StoppedClock, upstream: httpx.AsyncClient, route: str
) -> None:
    simulation.join("r", peer_id="a", metadata="first")
    clock.advance(1000)
    simulation.leave("r", "a")
    simulation.join("r", peer_id="b")
    simulation.join("r", peer_id="a", metadata="second", joined_at=NOW + 999)
    session = simulation.rooms["r"].sessions[-1].session_id

    record = (await upstream.get(f"/rooms/{route}", params={"sessionId": session})).json()

    # The first session ended as the room emptied; this is the second.
    assert record == {
        "participants": [
            {"peerId": "b", "joinTime": NOW + 1000, "metadata": None},
            {"peerId": "a", "joinTime": NOW + 999, "metadata": "second"},
        ]
    }
    clock.advance(500)
    simulation.end("r")
    ended = (await upstream.get(f"/rooms/{route}", params={"sessionId": session})).json()["participants"]
    assert [item["exitTime"] for item in ended] == [NOW + 1500, NOW + 1500]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("get-rooms?limit=x", 400),
        ("get-rooms?cursor=-1", 400),
        ("room-details/other", 404),
        ("session-details", 400),
        ("session-details?roomId=r&limit=1.5", 400),
        ("session-details?roomId=other", 404),
        ("participant-list", 400),
        ("participant-list?sessionId=unknown", 404),
    ],
)
async def test_queries_that_are_wrong_or_name_nothing_are_refused(
    simulation: Simulation, upstream: httpx.AsyncClient, path: str, status: int
) -> None:
    simulation.add_room("r")
    assert (await upstream.get(f"/rooms/{path}")).status_code == status


@pytest.mark.parametrize(
    "path",
    [
        "/api/v2/sdk/live-sessions/participants/",
        "/api/v2/sdk/live-sessions/participants/a/b",
        "/api/v1/live-meetings",
        "/api/v2/sdkx",
        "/",
    ],
)
async def test_other_paths_are_not_found_in_plain_text(upstream: httpx.AsyncClient, base_url: str, path: str) -> None:
    response = await upstream.get(base_url + path)
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/plain")

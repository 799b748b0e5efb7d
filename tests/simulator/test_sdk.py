"""The official SDK works against the simulated upstream, unchanged: what it makes of every route it can call."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from bridge.simulator import Simulation
from tests.harness.oracles import node, require_oracles

NOW = 1_795_000_000_000
ANN: Any = {"displayName": "Ann"}


async def ask_sdk(base_url: str, *calls: list[Any], api_key: str = "simulated-key") -> list[dict[str, Any]]:
    """The outcomes of calls to the SDK's API class, each a method's name and its argument."""
    env = {"HUDDLE_BASE_URL": base_url}
    said = await asyncio.to_thread(node, "sdk-api.mjs", api_key, input=json.dumps(calls), env=env)
    outcomes: list[dict[str, Any]] = json.loads(said)
    return outcomes


async def test_the_sdk_reads_a_live_room(simulation: Simulation, base_url: str) -> None:
    require_oracles()
    simulation.join("abc-defg-hij", peer_id="peerId-ann", metadata=ANN)
    simulation.join("abc-defg-hij", peer_id="peerId-bob", says_join_time=False)
    room = {"roomId": "abc-defg-hij"}

    live, sessions, session = await ask_sdk(
        base_url, ["getLivePartipantsDetails", room], ["getLiveSessions"], ["getLiveSessions", room]
    )

    assert live["value"] == [
        {"peerId": "peerId-ann", "joinTime": NOW, "metadata": ANN},
        {"peerId": "peerId-bob", "metadata": None},
    ]
    counts = {"livestreamCount": 0, "recordingCount": 0}
    assert sessions["value"] == [{"roomId": "abc-defg-hij", "startTime": NOW, **counts}]
    assert session["value"] == {"roomId": "abc-defg-hij", "startTime": NOW, "currentPeerCount": 2, **counts}
    sent = simulation.requests.since()[0].as_json()["headers"]
    assert isinstance(sent, dict)
    assert sent["x-sdk-version"] == "2.6.2"


async def test_the_sdk_creates_and_lists_rooms(simulation: Simulation, base_url: str) -> None:
    require_oracles()
    created, listed, page = await ask_sdk(
        base_url,
        ["createRoom", {"roomLocked": True, "metadata": '{"title":"x"}'}],
        ["getRooms"],
        ["getRooms", {"limit": 5, "cursor": 1}],
    )
    (room_id,) = simulation.rooms
    (details,) = await ask_sdk(base_url, ["getRoomDetails", {"roomId": room_id}])

    assert created["value"] == {"message": "Room Created Successfully", "roomId": room_id}
    assert [room["roomId"] for room in listed["value"]["rooms"]] == [room_id]
    assert (page["value"]["rooms"], page["value"]["prevCursor"], page["value"]["count"]) == ([], 0, 1)
    assert details["value"] == {"roomId": room_id, "roomLocked": True, "metadata": '{"title":"x"}'}


async def test_the_sdk_reads_the_record(simulation: Simulation, base_url: str) -> None:
    require_oracles()
    simulation.join("r", peer_id="a", metadata=ANN)
    simulation.clock.advance(1000)
    simulation.end("r")
    session = simulation.rooms["r"].sessions[0].session_id

    sessions, record, metrics, recordings = await ask_sdk(
        base_url,
        ["getRoomSessions", {"roomId": "r"}],
        ["getPartipantsDetails", {"sessionId": session}],
        ["getMetrics"],
        ["getRecordings"],
    )

    assert sessions["value"] == [{"sessionId": session, "startTime": NOW, "endTime": NOW + 1000}]
    assert record["value"] == [{"peerId": "a", "joinTime": NOW, "exitTime": NOW + 1000, "metadata": ANN}]
    assert metrics["value"]["totalSessions"] == 1
    assert recordings["value"] == {"data": {"recordings": [], "nextCursor": None}}


async def test_the_sdk_understands_refusals(base_url: str) -> None:
    require_oracles()
    room = {"roomId": "unknown"}
    no_session, not_live = await ask_sdk(base_url, ["getLivePartipantsDetails", room], ["getLiveSessions", room])
    (wrong_key,) = await ask_sdk(base_url, ["getLivePartipantsDetails", room], api_key="wrong")
    assert no_session == {"error": "No ongoing session found for the room and project"}
    assert not_live == {"error": "Error getting live sessions"}
    assert wrong_key == {"error": "Error getting participants details"}

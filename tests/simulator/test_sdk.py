"""The official SDK works against the simulated upstream, unchanged: its results for every route that it reads."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from bridge.simulator import Simulation
from tests.harness.clock import StoppedClock
from tests.harness.oracles import node, require_oracles

NOW = 1_795_000_000_000
ANN: Any = {"displayName": "Ann"}


async def call_sdk(base_url: str, *calls: list[Any], api_key: str = "simulated-key") -> list[dict[str, Any]]:
    """Return the outcomes of calls to the SDK's API class, each a method's name and its argument."""
    env = {"HUDDLE_BASE_URL": base_url}
    printed = await asyncio.to_thread(node, "sdk-api.mjs", api_key, input=json.dumps(calls), env=env)
    outcomes: list[dict[str, Any]] = json.loads(printed)
    return outcomes


async def test_the_sdk_reads_live_rooms_and_the_record(
    simulation: Simulation, clock: StoppedClock, base_url: str
) -> None:
    require_oracles()
    simulation.join("over", peer_id="a", metadata=ANN)
    clock.advance(1000)
    simulation.end("over")
    simulation.join("abc-defg-hij", peer_id="peerId-ann", metadata=ANN)
    room, session = {"roomId": "abc-defg-hij"}, simulation.rooms["over"].sessions[0].session_id

    live, lives, one, rooms, page, details, sessions, record = await call_sdk(
        base_url,
        ["getLivePartipantsDetails", room],
        ["getLiveSessions"],
        ["getLiveSessions", room],
        ["getRooms"],
        ["getRooms", {"limit": 5, "cursor": 1}],
        ["getRoomDetails", room],
        ["getRoomSessions", {"roomId": "over"}],
        ["getPartipantsDetails", {"sessionId": session}],
    )

    counts = {"livestreamCount": 0, "recordingCount": 0}
    assert live["value"] == [{"peerId": "peerId-ann", "joinTime": NOW + 1000, "metadata": ANN}]
    assert lives["value"] == [{"roomId": "abc-defg-hij", "startTime": NOW + 1000, **counts}]
    assert one["value"] == {"roomId": "abc-defg-hij", "startTime": NOW + 1000, "currentPeerCount": 1, **counts}
    assert [found["roomId"] for found in rooms["value"]["rooms"]] == ["over", "abc-defg-hij"]
    assert (page["value"]["rooms"], page["value"]["prevCursor"], page["value"]["count"]) == ([], 0, 2)
    assert details["value"] == {"roomId": "abc-defg-hij", "roomLocked": False, "metadata": None}
    assert sessions["value"] == [{"sessionId": session, "startTime": NOW, "endTime": NOW + 1000}]
    assert record["value"] == [{"peerId": "a", "joinTime": NOW, "exitTime": NOW + 1000, "metadata": ANN}]


async def test_the_sdk_understands_errors(base_url: str) -> None:
    require_oracles()
    room = {"roomId": "unknown"}
    no_session, not_live = await call_sdk(base_url, ["getLivePartipantsDetails", room], ["getLiveSessions", room])
    (wrong_key,) = await call_sdk(base_url, ["getLivePartipantsDetails", room], api_key="wrong")
    assert no_session == {"error": "No ongoing session found for the room and project"}
    assert not_live == {"error": "Error getting live sessions"}
    assert wrong_key == {"error": "Error getting participants details"}

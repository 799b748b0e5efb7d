"""Discovery by the real program: no room is configured, and idle ones cost few requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from tests.harness.config import Configure
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver
from tests.harness.simulator import Simulator

pytestmark = pytest.mark.slow

THREE = ["peer.joined", "peer.left", "room.empty"]


def test_a_discovered_room_is_delivered_from_its_first_peer(
    configure: Configure, simulator: Simulator, receiver: Receiver
) -> None:
    config = configure(
        sources={"main": {"discover": True, "discover_rooms": ["team-*"]}},
        endpoints=[receiver.endpoint("crm", events=THREE)],
    )
    with BridgeProcess(config) as bridge:
        bridge.wait_ready()
        simulator.join("private", "eve")
        simulator.join("team-1", "ann")
        receiver.wait_for_count(1)
        simulator.leave("team-1", "ann")
        events = receiver.wait_for_count(3)
        assert bridge.stop() == 0
    assert [event["type"] for event in events] == ["peer.joined", "peer.left", "room.empty"]
    assert {event["data"]["room_id"] for event in events} == {"team-1"}
    assert {poll.room for poll in simulator.polls(since=0)} == {"team-1"}, "rooms that match no glob are not polled"


@pytest.mark.campaign
def test_a_room_is_forgotten_and_found_again(configure: Configure, simulator: Simulator, receiver: Receiver) -> None:
    simulator.set_end_lag(0)
    config = configure(
        sources={"main": {"discover": True, "discover_forget": "1s"}},
        endpoints=[receiver.endpoint("crm", events=THREE)],
    )
    simulator.join("team-1", "ann")
    with BridgeProcess(config) as bridge:
        bridge.wait_ready()
        receiver.wait_for_count(1)
        simulator.end("team-1")
        receiver.wait_for_count(3)
        bridge.wait_for_output("rooms.forgotten")
        polls = len(simulator.polls(since=0))
        bridge.wait_for_output("rooms.listed")
        assert len(simulator.polls(since=0)) == polls
        simulator.join("team-1", "bob")
        events = receiver.wait_for_count(4)
        assert bridge.stop() == 0
    assert [event["type"] for event in events] == ["peer.joined", "peer.left", "room.empty", "peer.joined"]
    sequences = [event["data"]["sequence"] for event in events]
    assert sequences == sorted(set(sequences)), "the log goes on where it ended"


def test_idle_rooms_are_polled_once_and_found_by_the_list(
    configure: Configure, simulator: Simulator, receiver: Receiver
) -> None:
    idle = [f"idle-{number}" for number in range(30)]
    config = configure(
        rooms=[*idle, "busy"],
        sources={"main": {"discover": True, "discover_rooms": ["none"]}},
        endpoints=[receiver.endpoint("crm", events=["peer.joined", "room.empty"])],
        polling={"interval": "100ms", "idle_interval": "1h"},
    )
    simulator.set_end_lag(0)
    simulator.join("busy", "ann")
    with BridgeProcess(config) as bridge:
        bridge.wait_ready()
        simulator.wait_for_polls(20, "busy", since=0)
        assert polls(simulator, idle) == dict.fromkeys(idle, 1), "though twenty intervals have passed"
        simulator.join("idle-7", "bob")
        receiver.wait_for_count(1, room="idle-7")
        simulator.wait_for_polls(5, "idle-7")
        simulator.end("idle-7")
        receiver.wait_for_count(2, room="idle-7")
        simulator.wait_for_polls(20, "busy")
        after = polls(simulator, idle)
        assert bridge.stop() == 0
    del after["idle-7"]
    assert set(after.values()) == {1}


def polls(simulator: Simulator, rooms: Sequence[str]) -> dict[str | None, int]:
    counts = Counter(poll.room for poll in simulator.polls(since=0))
    return {room: counts[room] for room in rooms}

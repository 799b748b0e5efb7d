"""A real livekit-server with real participants: our events are its own record of the meeting, each signed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.harness.config import Configure, write_config
from tests.harness.deliveries import all_problems, wait_until_delivered
from tests.harness.livekit import LiveKitServer, Participants, own_record
from tests.harness.postgres import free_port
from tests.harness.process import BridgeProcess, command
from tests.harness.receiver import Event, Receiver
from tests.harness.waiting import wait_until

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]  # the server may have to be built

ROOM = "meeting/ä"
CLASS = "class-7"
DISCOVERING = {"discover": True, "discover_rooms": ["class-*"]}
CROWD = [f"guest-{number}" for number in range(20)]


@pytest.fixture
def own() -> Iterator[Receiver]:
    """A receiver of the server's own webhooks: its record of the meeting."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def configure(tmp_path: Path, sqlite_migrated_url: str) -> Configure:
    return partial(write_config, tmp_path / "bridge.toml", database_url=sqlite_migrated_url, upstream="")


def present(events: list[Event]) -> list[str]:
    """The people who are present, by the last event about each peer."""
    about = {event["data"]["peer_id"]: event for event in events if event["type"] in ("peer.joined", "peer.left")}
    return sorted(event["data"]["person_key"] for event in about.values() if event["type"] == "peer.joined")


def joins(events: list[Event], identity: str) -> int:
    people = [event["data"]["person_key"] for event in events if event["type"] == "peer.joined"]
    return people.count(f"{identity}@example.com")


def milliseconds(event: Event) -> int:
    at = datetime.fromisoformat(event["data"]["joined_at"])
    return round((at - datetime.fromtimestamp(0, at.tzinfo)) / timedelta(milliseconds=1))


def failed_polls(bridge: BridgeProcess) -> int:
    return len([line for line in bridge.lines("room.polled") if line["outcome"] == "unreachable"])


def tracked(config: Path) -> list[dict[str, Any]]:
    rooms: list[dict[str, Any]] = json.loads(command(config, "rooms", "list", "--json"))
    return rooms


def outcomes(bridge: BridgeProcess, room: str) -> list[str]:
    """Of the server's own messages about a room."""
    return [line["outcome"] for line in bridge.lines("poke.received") if line["room"] == room]


def listed(bridge: BridgeProcess) -> list[int]:
    """The number of live rooms on each list so far."""
    return [line["live"] for line in bridge.lines("rooms.listed")]


def waiting_for(receiver: Receiver) -> Callable[..., list[Event]]:
    def wait(*identities: str) -> list[Event]:
        people = sorted(f"{identity}@example.com" for identity in identities)
        return receiver.wait_for(lambda events: present(events) == people, f"{people} to be present", timeout=120)

    return wait


def wait_for_record(own: Receiver, kind: str, count: int) -> None:
    """Wait for the server's record: of a participant that leaves before its media connection is up, there is none."""
    wait_until(lambda: len(own_record(own, kind)) == count, what=f"{count} {kind} by the server itself")


def assert_recorded(events: list[Event], own: Receiver, cut_off: set[str]) -> None:
    """The server has recorded every join with its time, and every leave except those of killed participants."""
    joined = {event["data"]["peer_id"]: event for event in events if event["type"] == "peer.joined"}
    recorded = own_record(own, "participant_joined")
    assert {sid: milliseconds(event) for sid, event in joined.items()} == {
        sid: int(one["joinedAtMs"]) for sid, one in recorded.items()
    }
    for sid, event in joined.items():
        assert event["data"]["metadata"]["identity"] == recorded[sid]["identity"]
    left = [event["data"]["peer_id"] for event in events if event["type"] == "peer.left"]
    assert sorted(left) == sorted({*own_record(own, "participant_left"), *cut_off})


def test_the_events_of_a_meeting_are_the_servers_own_record(
    configure: Configure, receiver: Receiver, own: Receiver, tmp_path: Path, sqlite_migrated_url: str
) -> None:
    wait = waiting_for(receiver)
    with LiveKitServer(tmp_path, own.url) as server:
        config = configure(
            rooms=[ROOM], endpoints=[receiver.endpoint()], sources={"meet": {**server.source(), "timeout": "2s"}}
        )
        with BridgeProcess(config) as bridge, Participants(server, ROOM) as people:
            people.join("ann", "bob")
            wait("ann", "bob")
            wait_for_record(own, "participant_joined", 2)
            people.leave("ann")
            wait("bob")
            people.join("ann")
            wait("ann", "bob")
            with Participants(server, ROOM) as crowd:
                crowd.join(*CROWD)
                wait("ann", "bob", *CROWD)
                wait_for_record(own, "participant_joined", 23)
            wait("ann", "bob")  # the crowd was killed without a goodbye
            with Participants(server, ROOM) as second:
                second.join("bob")  # LiveKit removes the first one of that identity
                receiver.wait_for(lambda events: joins(events, "bob") == 2, "the second bob")
                wait("ann", "bob")
                wait_for_record(own, "participant_joined", 24)
                server.call("RemoveParticipant", room=ROOM, identity="bob")
                wait("ann")
            server.call("DeleteRoom", room=ROOM)
            wait()
            with Participants(server, ROOM) as last:
                last.join("cleo", "dora")
                before = wait("cleo", "dora")
                wait_for_record(own, "participant_joined", 26)
                server.kill()
                wait_until(lambda: failed_polls(bridge) >= 2, what=lambda: f"failed polls: {[*bridge.lines()][-5:]}")
                assert receiver.events() == before, "a server that is down says nothing about who is there"
            server.start()
            after = wait()
            with Participants(server, ROOM) as returned:
                returned.join("cleo")
                wait("cleo")
                wait_for_record(own, "participant_joined", 27)
            wait()
            wait_for_record(own, "participant_left", 25)
            wait_until_delivered(receiver, sqlite_migrated_url)
            assert bridge.stop() == 0

    events = receiver.events()
    assert all_problems(receiver.deliveries, sqlite_migrated_url) == []
    cut_off = {event["data"]["peer_id"] for event in after[len(before) :] if event["type"] == "peer.left"}
    assert_recorded(events, own, cut_off)
    assert len(cut_off) == 2, "those who were there when the server was killed, which records no leave of theirs"
    assert [event["type"] for event in events].count("room.empty") == 3


def test_its_own_webhooks_bring_the_events_at_once(
    configure: Configure, receiver: Receiver, tmp_path: Path, sqlite_migrated_url: str
) -> None:
    wait = waiting_for(receiver)
    port = free_port()
    with LiveKitServer(tmp_path, f"http://127.0.0.1:{port}/pokes/meet") as server:
        config = configure(
            rooms=[ROOM],
            endpoints=[receiver.endpoint()],
            sources={"meet": server.source()},
            polling={"interval": "1h"},
            web={"listen": f"127.0.0.1:{port}"},
            log={"level": "debug"},
        )
        with BridgeProcess(config) as bridge, Participants(server, ROOM) as people:
            bridge.wait_ready()
            for _ in range(3):
                people.join("ann", "bob")
                wait("ann", "bob")
                people.leave("ann")
                wait("bob")
                people.leave("bob")
                wait()
            with Participants(server, ROOM) as vanishing:
                vanishing.join("cleo", "dora", "emil")
                wait("cleo", "dora", "emil")
                server.call("RemoveParticipant", room=ROOM, identity="emil")
                wait("cleo", "dora")
            wait()  # the two were killed without a goodbye, the process being gone
            people.join("ann")
            wait("ann")
            server.call("DeleteRoom", room=ROOM)
            wait()
            with Participants(server, "elsewhere") as others:
                others.join("fred")
                wait_until(lambda: "untracked" in outcomes(bridge, "elsewhere"), what="a poke for the other room")
            assert [room["room_id"] for room in tracked(config)] == [ROOM]
            wait_until_delivered(receiver, sqlite_migrated_url)
            assert bridge.stop() == 0
    assert all_problems(receiver.deliveries, sqlite_migrated_url) == []


def test_rooms_are_tracked_while_they_are_live(
    configure: Configure, receiver: Receiver, tmp_path: Path, sqlite_migrated_url: str
) -> None:
    wait = waiting_for(receiver)
    with LiveKitServer(tmp_path) as server:
        config = configure(
            endpoints=[receiver.endpoint()],
            sources={"meet": {**server.source(), **DISCOVERING, "discover_forget": "1s"}},
            polling={"interval": "500ms", "idle_interval": "1h"},
            log={"level": "debug"},
        )
        with (
            BridgeProcess(config) as bridge,
            Participants(server, "staff") as others,
            Participants(server, CLASS) as people,
        ):
            others.join("zoe")
            people.join("ann", "bob")
            wait("ann", "bob")
            wait_until(lambda: 2 in listed(bridge), what=lambda: f"both rooms on a list: {listed(bridge)}")
            assert [(room["room_id"], room["origin"]) for room in tracked(config)] == [(CLASS, "discovered")]
            people.leave("ann", "bob")
            wait()
            wait_until(lambda: not tracked(config), what="the room to be forgotten")
            kept = json.loads(command(config, "events", "list", "--room", CLASS, "--json"))
            assert sorted(event["id"] for event in kept) == sorted(event["id"] for event in receiver.events())
            people.join("ann")
            wait("ann")
            assert [room["room_id"] for room in tracked(config)] == [CLASS]
            wait_until_delivered(receiver, sqlite_migrated_url)
            assert bridge.stop() == 0
    assert all_problems(receiver.deliveries, sqlite_migrated_url) == []
    assert {event["data"]["room_id"] for event in receiver.events()} == {CLASS}


def test_its_own_webhooks_find_rooms_at_once(configure: Configure, receiver: Receiver, tmp_path: Path) -> None:
    wait = waiting_for(receiver)
    port = free_port()
    with LiveKitServer(tmp_path, f"http://127.0.0.1:{port}/pokes/meet") as server:
        config = configure(
            endpoints=[receiver.endpoint()],
            sources={"meet": {**server.source(), **DISCOVERING}},
            polling={"interval": "1h"},
            web={"listen": f"127.0.0.1:{port}"},
            log={"level": "debug"},
        )
        with (
            BridgeProcess(config) as bridge,
            Participants(server, "staff") as others,
            Participants(server, CLASS) as people,
        ):
            wait_until(lambda: listed(bridge), what="the only list within an hour")
            others.join("zoe")
            people.join("ann")
            wait("ann")
            wait_until(lambda: "untracked" in outcomes(bridge, "staff"), what="a poke for the other room")
            assert [room["room_id"] for room in tracked(config)] == [CLASS]
            people.leave("ann")
            wait()
            assert listed(bridge) == [0]
            assert bridge.stop() == 0


def test_the_command_tracks_what_is_live(configure: Configure, tmp_path: Path) -> None:
    with (
        LiveKitServer(tmp_path) as server,
        Participants(server, "staff") as others,
        Participants(server, CLASS) as people,
    ):
        config = configure(sources={"meet": {**server.source(), "discover_rooms": ["class-*"]}})
        others.join("zoe")
        people.join("ann", "bob")

        def discover(*options: str) -> list[tuple[str, int, bool, bool]]:
            found = json.loads(command(config, "rooms", "discover", "--json", *options))
            return [(room["room_id"], room["peer_count"], room["tracked"], room["new"]) for room in found]

        wait_until(
            lambda: discover("--dry-run") == [(CLASS, 2, True, True), ("staff", 1, False, False)],
            what=lambda: f"the server's list, which lags by some seconds: {discover('--dry-run')}",
        )
        assert tracked(config) == []
        assert discover() == [(CLASS, 2, True, True), ("staff", 1, False, False)]
        assert [(room["room_id"], room["origin"]) for room in tracked(config)] == [(CLASS, "discovered")]
        assert discover() == [(CLASS, 2, True, False), ("staff", 1, False, False)]

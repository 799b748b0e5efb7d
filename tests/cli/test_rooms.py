from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import ROOM, Cli
from tests.harness.simulator import Simulator

KEYS = {
    "room_id", "name", "source", "origin", "enabled", "state", "peer_count", "session_id", "interval_seconds",
    "leave_after_missed", "added_at", "polled_at", "next_poll_at", "failures", "last_failure",
}  # fmt: skip


def test_an_added_room_is_listed_as_unknown_until_it_is_polled(cli: Cli) -> None:
    done = cli("rooms", "add", ROOM, "--name", "Weekly", "--interval", "5s", "--leave-after-missed", "2")
    assert done.out == ""
    assert f"{ROOM} is tracked" in done.err
    (room,) = cli("rooms", "list", "--json").json()
    assert room.keys() == KEYS
    assert {key: room[key] for key in KEYS - {"added_at", "next_poll_at"}} == {
        "room_id": ROOM,
        "name": "Weekly",
        "source": "main",
        "origin": "manual",
        "enabled": True,
        "state": "unknown",
        "peer_count": 0,
        "session_id": None,
        "interval_seconds": 5.0,
        "leave_after_missed": 2,
        "polled_at": None,
        "failures": 0,
        "last_failure": None,
    }


def test_a_room_is_shown_with_its_peers(tracked: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "anna", metadata={"displayName": "Anna A."}, joined_at=1_700_000_000_000)
    tracked("poll", ROOM)
    shown = tracked("rooms", "show", ROOM, "--json").json()
    assert shown.keys() == KEYS | {"source_condition", "session", "peers"}
    assert shown["source_condition"] == "ok"
    assert shown["session"]["id"] == shown["session_id"]
    assert shown["session"]["peak_peer_count"] == 1
    (peer,) = shown["peers"]
    assert peer.pop("visit_id").startswith("vis_")
    assert peer.pop("last_seen_at") == shown["polled_at"]
    assert peer == {
        "peer_id": "anna",
        "display_name": "Anna A.",
        "joined_at": "2023-11-14T22:13:20.000Z",
        "joined_at_source": "upstream",
        "initial": True,
        "metadata": {"displayName": "Anna A."},
    }
    out = tracked("rooms", "show", ROOM).out
    assert "Anna A." in out
    assert shown["session_id"] in out


def test_a_room_is_shown_with_its_last_failure(tracked: Cli, simulator: Simulator) -> None:
    simulator.faults({"kind": "unauthorized"})
    tracked("poll", ROOM, code=1)
    shown = tracked("rooms", "show", ROOM, "--json").json()
    assert (shown["failures"], shown["source_condition"], shown["state"]) == (1, "unauthorized", "unknown")
    assert "unauthorized" in shown["last_failure"]
    listed = tracked("rooms", "list")
    assert "source main has been unauthorized" in listed.err
    assert "source main" not in listed.out


def test_adding_a_room_again_changes_its_settings(cli: Cli) -> None:
    cli("rooms", "add", ROOM, "--interval", "5s")
    assert "tracked already" in cli("rooms", "add", ROOM, "--interval", "9s").err
    added = cli("rooms", "add", ROOM, "--interval", "1m", "--json").json()
    assert added["interval_seconds"] == 60.0
    assert [room["interval_seconds"] for room in cli("rooms", "list", "--json").json()] == [60.0]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((ROOM, "--interval", "soon"), "--interval: must be a duration"),
        ((ROOM, "--interval", "0s"), "--interval: must be longer than zero"),
        ((ROOM, "--leave-after-missed", "0"), "--leave-after-missed: must be at least 1"),
        ((ROOM, "--source", "mian"), '--source: there is no source "mian"; did you mean "main"?'),
        ((ROOM, "--name", " "), "--name: must not be empty"),
        (("..",), "ROOM: cannot be the id of a room"),
    ],
)
def test_a_wrong_room_is_refused_as_in_the_configuration(cli: Cli, arguments: tuple[str, ...], complaint: str) -> None:
    (line,) = cli.refuses("rooms", "add", *arguments, code=2).splitlines()
    assert line.startswith(f"bridge: {complaint}")
    assert not cli.database_file.exists()


def test_every_mistake_is_reported_at_once(cli: Cli) -> None:
    message = cli.refuses("rooms", "add", "..", "--interval", "x", "--source", "nobody", code=2)
    assert [line.split(":")[1].strip() for line in message.splitlines()] == ["ROOM", "--interval", "--source"]


def test_with_several_sources_a_room_must_name_its_source(cli: Cli) -> None:
    cli.configure(sources={"main": {}, "other": {}})
    message = cli.refuses("rooms", "add", ROOM, code=2)
    assert 'must name its source, for there are several: "main" or "other"' in message
    cli("rooms", "add", ROOM, "--source", "other")
    cli("rooms", "add", ROOM, "--source", "main")
    assert [room["source"] for room in cli("rooms", "list", "--json").json()] == ["main", "other"]
    assert [room["source"] for room in cli("rooms", "list", "--json", "--source", "other").json()] == ["other"]
    assert "name one with --source" in cli.refuses("rooms", "show", ROOM, code=1)
    assert "name one with --source" in cli.refuses("rooms", "remove", ROOM, code=1)
    assert cli("rooms", "show", ROOM, "--source", "other", "--json").json()["source"] == "other"
    cli("rooms", "remove", ROOM, "--source", "other")
    assert [room["source"] for room in cli("rooms", "list", "--json").json()] == ["main"]


def test_an_unknown_source_is_an_error(tracked: Cli) -> None:
    assert 'did you mean "main"?' in tracked.refuses("rooms", "list", "--source", "maim", code=2)


def test_without_a_source_no_room_can_be_added(cli: Cli, tmp_path: Path) -> None:
    cli.config.write_text(f'database = {{ url = "sqlite:///{tmp_path}/bridge.db" }}\n')
    assert "a room needs a source" in cli.refuses("rooms", "add", ROOM, code=2)


def test_a_room_of_the_configuration_is_changed_there(cli: Cli) -> None:
    cli.configure(rooms=[ROOM])
    for arguments in (("add", ROOM), ("remove", ROOM)):
        cli.take_up()
        message = cli.refuses("rooms", *arguments, code=2)
        assert f"is in {cli.config}" in message
        assert "reload" in message
    (room,) = cli("rooms", "list", "--json").json()
    assert room["origin"] == "config"


def test_a_room_that_left_the_configuration_waits_for_the_reload(cli: Cli) -> None:
    cli.configure(rooms=[ROOM])
    cli.take_up()
    cli.configure()
    for command in ("add", "remove"):
        assert "was in the configuration and is no longer" in cli.refuses("rooms", command, ROOM, code=2)
    cli.take_up()
    cli("rooms", "add", ROOM)
    assert [room["origin"] for room in cli("rooms", "list", "--json").json()] == ["manual"]


def test_removing_a_room_ends_its_visits_as_unwatched(tracked: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "anna")
    simulator.join(ROOM, "bert")
    tracked("poll", ROOM)
    done = tracked("rooms", "remove", ROOM)
    assert "events written: 2 peer.left, 1 room.empty" in done.err
    written = [(event["type"], event["data"].get("leave_reason")) for event in tracked.events()[:3]]
    assert written == [("room.empty", None), ("peer.left", "unwatched"), ("peer.left", "unwatched")]
    assert tracked("rooms", "list", "--json").json() == []
    assert "is not tracked" in tracked.refuses("rooms", "show", ROOM, code=1)
    assert "is not tracked" in tracked.refuses("rooms", "remove", ROOM, code=1)


def test_a_disabled_room_is_shown_as_such(cli: Cli) -> None:
    cli.configure(rooms=[{"id": ROOM, "enabled": False}])
    cli.take_up()
    (room,) = cli("rooms", "list", "--json").json()
    assert (room["enabled"], room["next_poll_at"]) == (False, None)
    assert "disabled" in cli("rooms", "list").out
    assert "is disabled" in cli.refuses("poll", ROOM, code=2)


def test_rooms_are_filtered_by_state(cli: Cli, simulator: Simulator) -> None:
    for room in ("empty", "occupied", "unknown"):
        cli("rooms", "add", room)
    simulator.join("occupied", "anna")
    cli("poll", "empty")
    cli("poll", "occupied")
    for state in ("empty", "occupied", "unknown"):
        assert [room["room_id"] for room in cli("rooms", "list", "--json", "--state", state).json()] == [state]
    assert "--state" in cli.refuses("rooms", "list", "--state", "full", code=2)


def test_a_long_list_of_rooms_is_cut_at_its_limit(cli: Cli) -> None:
    cli.configure(rooms=[f"room-{number:03}" for number in range(103)])
    cli.take_up()
    listed = cli("rooms", "list", "--json")
    assert len(listed.json()) == 100
    assert listed.err.startswith("3 more are not shown")
    assert [room["room_id"] for room in cli("rooms", "list", "--json", "--limit", "2").json()] == [
        "room-000",
        "room-001",
    ]
    assert len(cli("rooms", "list", "--json", "--limit", "1000").json()) == 103


def test_rooms_without_a_configured_source_are_pointed_out(cli: Cli) -> None:
    cli.configure(sources={"main": {}, "old": {}})
    cli("rooms", "add", ROOM, "--source", "old")
    cli.configure()
    assert 'source "old" is not in the configuration, so 1 room shown here cannot be polled' in cli("rooms", "list").err
    assert 'source "old" is not in the configuration' in cli("rooms", "show", ROOM).err

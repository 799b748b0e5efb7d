from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.harness.simulator import SimulatorClient

ROOM = "abc-defg-hij"
KEYS = {
    "room_id", "name", "source", "origin", "enabled", "state", "peer_count", "session_id", "interval_seconds",
    "leave_after_missed", "added_at", "polled_at", "next_poll_at", "failures", "last_failure",
}  # fmt: skip


def test_without_a_database_a_listing_says_so_and_makes_none(cli: Cli) -> None:
    said = cli.refuses("rooms", "list", code=1)
    assert "there is no database" in said
    assert "bridge run" in said
    assert not cli.database_file.exists()


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


def test_the_state_of_a_room_follows_its_polls(cli: Cli, simulator: SimulatorClient) -> None:
    cli("rooms", "add", ROOM)
    simulator.join(ROOM, "anna")
    simulator.join(ROOM, "bert")
    cli("poll", ROOM)
    (room,) = cli("rooms", "list", "--json").json()
    assert (room["state"], room["peer_count"]) == ("occupied", 2)
    assert room["session_id"].startswith("ses_")
    simulator.end(ROOM)
    cli("poll", ROOM)
    (room,) = cli("rooms", "list", "--json").json()
    assert (room["state"], room["peer_count"], room["session_id"]) == ("empty", 0, None)


def test_a_shown_room_says_who_is_there(cli: Cli, simulator: SimulatorClient) -> None:
    cli("rooms", "add", ROOM)
    simulator.join(ROOM, "anna", metadata={"displayName": "Anna A."}, join_time=1_700_000_000_000)
    cli("poll", ROOM)
    shown = cli("rooms", "show", ROOM, "--json").json()
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
    out = cli("rooms", "show", ROOM).out
    assert "Anna A." in out
    assert shown["session_id"] in out


def test_a_shown_room_says_why_polling_fails(cli: Cli, simulator: SimulatorClient) -> None:
    cli("rooms", "add", ROOM)
    simulator.faults({"kind": "unauthorized"})
    cli("poll", ROOM, code=1)
    shown = cli("rooms", "show", ROOM, "--json").json()
    assert (shown["failures"], shown["source_condition"], shown["state"]) == (1, "unauthorized", "unknown")
    assert "unauthorized" in shown["last_failure"]
    listed = cli("rooms", "list")
    assert "source main is unauthorized" in listed.err
    assert "source main" not in listed.out


def test_adding_again_changes_the_settings(cli: Cli) -> None:
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
def test_a_wrong_room_is_refused_as_the_configuration_would(
    cli: Cli, arguments: tuple[str, ...], complaint: str
) -> None:
    assert cli.refuses("rooms", "add", *arguments, code=2) == f"bridge: {complaint}{_rest(complaint)}"
    assert not cli.database_file.exists()


def _rest(complaint: str) -> str:
    durations = ', like "250ms", "10s", "5m", "2h", "5d" or a number of seconds'
    return (durations if complaint.endswith("a duration") else "") + "\n"


def test_everything_that_is_wrong_is_said_at_once(cli: Cli) -> None:
    said = cli.refuses("rooms", "add", "..", "--interval", "x", "--source", "nobody", code=2)
    assert [line.split(":")[1].strip() for line in said.splitlines()] == ["ROOM", "--interval", "--source"]


def test_with_several_sources_the_room_must_name_its_own(cli: Cli) -> None:
    cli.configure(sources={"main": {}, "other": {}})
    said = cli.refuses("rooms", "add", ROOM, code=2)
    assert 'must name its source, for there are several: "main" or "other"' in said
    cli("rooms", "add", ROOM, "--source", "other")
    cli("rooms", "add", ROOM, "--source", "main")
    assert [room["source"] for room in cli("rooms", "list", "--json").json()] == ["main", "other"]
    assert [room["source"] for room in cli("rooms", "list", "--json", "--source", "other").json()] == ["other"]
    assert "say which with --source" in cli.refuses("rooms", "show", ROOM, code=1)
    assert "say which with --source" in cli.refuses("rooms", "remove", ROOM, code=1)
    assert cli("rooms", "show", ROOM, "--source", "other", "--json").json()["source"] == "other"
    cli("rooms", "remove", ROOM, "--source", "other")
    assert [room["source"] for room in cli("rooms", "list", "--json").json()] == ["main"]


def test_an_unknown_source_is_no_empty_listing(cli: Cli) -> None:
    cli("rooms", "add", ROOM)
    assert 'did you mean "main"?' in cli.refuses("rooms", "list", "--source", "maim", code=2)


def test_without_a_source_no_room_can_be_added(cli: Cli, tmp_path: Path) -> None:
    cli.config.write_text(f'database = {{ url = "sqlite:///{tmp_path}/bridge.db" }}\n')
    assert "a room needs a source: add [sources.main]" in cli.refuses("rooms", "add", ROOM, code=2)


def test_what_the_file_owns_is_changed_in_the_file(cli: Cli) -> None:
    cli.configure(rooms=[ROOM])
    for arguments in (("add", ROOM), ("remove", ROOM)):
        cli.take_up()
        said = cli.refuses("rooms", *arguments, code=2)
        assert f"stands in {cli.config}" in said
        assert "reload" in said
    (room,) = cli("rooms", "list", "--json").json()
    assert room["origin"] == "config"


def test_a_room_that_the_file_has_just_named_is_the_files(cli: Cli) -> None:
    cli("rooms", "add", ROOM)
    cli.configure(rooms=[ROOM])
    assert f"stands in {cli.config}" in cli.refuses("rooms", "remove", ROOM, code=2)


def test_a_room_that_the_file_names_no_more_waits_for_the_reload(cli: Cli) -> None:
    cli.configure(rooms=[ROOM])
    cli.take_up()
    cli.configure()
    for command in ("add", "remove"):
        assert "does not name it any more" in cli.refuses("rooms", command, ROOM, code=2)
    cli.take_up()
    cli("rooms", "add", ROOM)
    assert [room["origin"] for room in cli("rooms", "list", "--json").json()] == ["manual"]


def test_removing_a_room_tells_that_nobody_watches_it(cli: Cli, simulator: SimulatorClient) -> None:
    cli("rooms", "add", ROOM)
    simulator.join(ROOM, "anna")
    simulator.join(ROOM, "bert")
    cli("poll", ROOM)
    done = cli("rooms", "remove", ROOM)
    assert "told: 2 peer.left, 1 room.empty" in done.err
    told = [(event["type"], event["data"].get("leave_reason")) for event in cli.events()[:3]]
    assert told == [("room.empty", None), ("peer.left", "unwatched"), ("peer.left", "unwatched")]
    assert cli("rooms", "list", "--json").json() == []
    assert "is not tracked" in cli.refuses("rooms", "show", ROOM, code=1)
    assert "is not tracked" in cli.refuses("rooms", "remove", ROOM, code=1)


def test_a_removed_room_can_be_added_again(cli: Cli, simulator: SimulatorClient) -> None:
    cli("rooms", "add", ROOM)
    assert "nobody was there" in cli("rooms", "remove", ROOM).err
    assert "polls it at once" in cli("rooms", "add", ROOM).err
    simulator.join(ROOM, "anna")
    cli("poll", ROOM)
    assert [event["data"]["sequence"] for event in cli.events()] == [2, 1]


def test_a_disabled_room_is_shown_as_such(cli: Cli) -> None:
    cli.configure(rooms=[{"id": ROOM, "enabled": False}])
    cli.take_up()
    (room,) = cli("rooms", "list", "--json").json()
    assert (room["enabled"], room["next_poll_at"]) == (False, None)
    assert "disabled" in cli("rooms", "list").out
    assert "is disabled" in cli.refuses("poll", ROOM, code=2)

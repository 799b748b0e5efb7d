"""`bridge rooms discover`: asks the sources, tracks what is live."""

from __future__ import annotations

from tests.cli.conftest import Cli
from tests.harness.config import API_KEY
from tests.harness.simulator import Simulator


def test_live_rooms_are_shown_and_tracked(cli: Cli, simulator: Simulator) -> None:
    cli.configure(sources={"main": {"discover_rooms": ["team-*"]}})
    cli("rooms", "add", "team-0")
    for room in ("team-0", "team-1", "other"):
        simulator.join(room, "ann")

    dry = cli("rooms", "discover", "--dry-run").out
    assert [line.split(maxsplit=3)[0::3] for line in dry.splitlines()[1:]] == [
        ["other", 'no: "discover_rooms" does not match it'],
        ["team-0", "already"],
        ["team-1", "would be"],
    ]
    assert [room["room_id"] for room in cli("rooms", "list", "--json").json()] == ["team-0"]

    done = cli("rooms", "discover")
    assert "1 room added" in done.err
    assert [(room["room_id"], room["origin"]) for room in cli("rooms", "list", "--json").json()] == [
        ("team-0", "manual"),
        ("team-1", "discovered"),
    ]
    again = cli("rooms", "discover", "--json").json()
    assert again == [
        {"source": "main", "room_id": "other", "peer_count": None, "tracked": False, "new": False},
        {"source": "main", "room_id": "team-0", "peer_count": None, "tracked": True, "new": False},
        {"source": "main", "room_id": "team-1", "peer_count": None, "tracked": True, "new": False},
    ]


def test_a_dry_run_makes_no_database(cli: Cli, simulator: Simulator) -> None:
    simulator.join("a", "ann")
    assert "would be" in cli("rooms", "discover", "--dry-run").out
    assert not cli.database_file.exists()


def test_nothing_is_live(cli: Cli) -> None:
    done = cli("rooms", "discover")
    assert done.out == ""
    assert "no room is live" in done.err


def test_a_source_that_refuses_the_key_is_an_error_and_the_others_are_asked(cli: Cli, simulator: Simulator) -> None:
    cli.configure(sources={"good": {}, "bad": {"api_key": "wrong-key"}})
    simulator.join("a", "ann")
    done = cli("rooms", "discover", code=1)
    assert "source bad: unauthorized" in done.err
    assert "wrong-key" not in done.err + done.out
    assert API_KEY not in done.err + done.out
    assert [room["source"] for room in cli("rooms", "list", "--json").json()] == ["good"]
    cli("rooms", "discover", "--source", "good")
    assert 'there is no source "other"' in cli("rooms", "discover", "--source", "other", code=2).err


def test_removing_a_room_reports_whether_it_comes_back(cli: Cli, simulator: Simulator) -> None:
    cli.configure(sources={"main": {"discover": True, "discover_rooms": ["a*"]}, "other": {}})
    simulator.join("a", "ann")
    cli("rooms", "discover")
    assert "2m while it is not live" in cli("rooms", "show", "a", "--source", "main").out
    for room in ("a-2", "b"):
        cli("rooms", "add", room, "--source", "main")
    removed = {
        (room, source): cli("rooms", "remove", room, "--source", source).err
        for room, source in (("a", "main"), ("a", "other"), ("a-2", "main"), ("b", "main"))
    }
    comes_back = {room for room, message in removed.items() if "tracked again when it is live" in message}
    assert comes_back == {("a", "main"), ("a-2", "main")}


def test_check_notes_that_no_room_is_listed_unless_rooms_are_discovered(cli: Cli) -> None:
    cli.configure(sources={"main": {"discover": True}})
    assert "no room is listed" not in cli("check").err
    cli.configure()
    assert "no room is listed" in cli("check").err

"""Every command that reads or writes the database, on SQLite and PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import ROOM, Cli
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator


@pytest.fixture
def each(tmp_path: Path, database_url: str, simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line with an empty database of each kind."""
    return Cli(tmp_path, simulator.url, capsys, database_url=database_url)


def test_an_empty_database_is_named_with_the_command_to_run(each: Cli, simulator: Simulator) -> None:
    for command in ("rooms", "endpoints", "events", "deliveries"):
        assert "bridge migrate" in each.refuses(command, "list", code=1)
    simulator.join(ROOM, "anna")
    assert each("poll", ROOM, "--dry-run", "--json").json()["peer_count"] == 1
    each("migrate")
    assert each("rooms", "list", "--json").json() == []


def test_every_command_works(each: Cli, simulator: Simulator, receiver: Receiver) -> None:
    each("migrate")
    receiver.script(Response(status=400, when=lambda delivery: delivery.path == "/bad"))
    each.configure(delivery={"refused_schedule": []})
    for name in ("good", "bad"):
        each("endpoints", "add", name, f"{receiver.url}/{name}", "--secret", receiver.secret)
    each("endpoints", "add", "down", "http://127.0.0.1:1/", "--events", "*")
    each("rooms", "add", ROOM, "--name", "Weekly", "--interval", "1h")
    simulator.join(ROOM, "anna", metadata={"displayName": "Anna A."})
    simulator.join(ROOM, "bert")
    assert each("poll", ROOM, "--json").json()["event_count"] == 3
    each.deliver()
    _check_rooms(each)
    _check_events(each)
    _check_endpoints(each)
    _check_deliveries(each)
    each("endpoints", "remove", "down")
    assert "events written: 2 peer.left, 1 room.empty" in each("rooms", "remove", ROOM).err
    assert [one["owed_events"] for one in each("endpoints", "list", "--json").json()] == [3, 3]


def _check_rooms(cli: Cli) -> None:
    (room,) = cli("rooms", "list", "--json", "--source", "main").json()
    assert (room["state"], room["peer_count"], room["interval_seconds"]) == ("occupied", 2, 3600.0)
    shown = cli("rooms", "show", ROOM, "--json").json()
    assert [peer["display_name"] for peer in shown["peers"]] == ["Anna A.", "bert"]
    assert "Anna A." in cli("rooms", "show", ROOM).out
    assert "Weekly" in cli("rooms", "list").out


def _check_events(cli: Cli) -> None:
    assert [event["data"]["sequence"] for event in cli.events()] == [3, 2, 1]
    (middle,) = cli("events", "list", "--json", "--limit", "1", "--after", cli.events()[0]["id"]).json()
    assert middle["data"]["sequence"] == 2
    filters = ("--room", ROOM, "--type", "peer.*", "--since", "1h", "--until", "2100-01-01T00:00:00Z")
    assert [event["type"] for event in cli.events(*filters)] == ["peer.joined", "peer.joined"]
    assert "room.occupied" in cli("events", "list").out


def _check_endpoints(cli: Cli) -> None:
    listed = {one["name"]: one for one in cli("endpoints", "list", "--json").json()}
    assert {name: (one["owed_events"], one["owed_rooms"], one["dead_letters"]) for name, one in listed.items()} == {
        "good": (0, 0, 0),
        "bad": (0, 0, 2),
        "down": (3, 1, 0),
    }
    assert cli("endpoints", "show", "bad", "--json").json()["last_attempt"]["status"] == 400
    assert "3 events in 1 room" in cli("endpoints", "list").out


def _check_deliveries(cli: Cli) -> None:
    attempts = cli("deliveries", "list", "--json", "--room", ROOM).json()
    assert [attempt["endpoint"] for attempt in attempts if attempt["endpoint"] != "down"].count("good") == 2
    failed = cli("deliveries", "list", "--failed", "--endpoint", "bad", "--since", "1h", "--json").json()
    assert [attempt["sequence"] for attempt in failed] == [3, 2]
    assert len(cli("deliveries", "list", "--dead", "--json", "--limit", "2").json()) == 2
    newest = cli.events()[0]["id"]
    shown = cli("deliveries", "show", newest, "--json").json()
    assert {one["endpoint"]: one["state"] for one in shown["deliveries"]} == {
        "good": "acknowledged",
        "bad": "dead",
        "down": "owed",
    }
    assert "bad: dead (rejected)" in cli("deliveries", "show", newest).out
    oldest = cli.events()[-1]["id"]
    cli("deliveries", "skip", oldest, "--endpoint", "down")
    (skipped,) = cli("deliveries", "list", "--dead", "--endpoint", "down", "--json").json()
    assert (skipped["event_id"], skipped["reason"]) == (oldest, "skipped")

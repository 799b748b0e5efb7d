from __future__ import annotations

import json
import signal
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from bridge.admin.events import EventFilter
from bridge.cli.event_tail import _Tail
from tests.cli.conftest import Cli
from tests.harness.open_writers import writers
from tests.harness.process import Bridge
from tests.harness.simulator import Simulator
from tests.harness.store_driver import StoreDriver
from tests.harness.waiting import wait_until

ROOM, OTHER = "abc-defg-hij", "xyz-xyzx-xyz"


@pytest.fixture
def meeting(cli: Cli, simulator: Simulator) -> Cli:
    """Anna joined, Bert joined and left in one room; Cleo joined in another."""
    for room in (ROOM, OTHER):
        cli("rooms", "add", room)
    simulator.join(ROOM, "anna", metadata={"displayName": "Anna A."})
    cli("poll", ROOM)
    simulator.join(ROOM, "bert")
    cli("poll", ROOM)
    simulator.leave(ROOM, "bert")
    cli("poll", ROOM)
    simulator.join(OTHER, "cleo")
    cli("poll", OTHER)
    return cli


def types_of(events: list[dict[str, object]]) -> list[object]:
    return [event["type"] for event in events]


def test_the_log_is_listed_newest_first(meeting: Cli) -> None:
    events = meeting("events", "list", "--json").json()
    assert types_of(events) == [
        "peer.joined", "room.occupied", "peer.left", "peer.joined", "peer.joined", "room.occupied",
    ]  # fmt: skip
    with sqlite3.connect(meeting.database_file) as connection:
        stored = [json.loads(body) for (body,) in connection.execute("SELECT body FROM events ORDER BY id DESC")]
    assert events == stored
    assert events[0].keys() == {"id", "type", "timestamp", "schema_version", "data"}


def test_the_log_is_filtered(meeting: Cli) -> None:
    wanted = {
        ("--room", OTHER): ["peer.joined", "room.occupied"],
        ("--type", "peer.left"): ["peer.left"],
        ("--type", "room.*"): ["room.occupied", "room.occupied"],
        ("--type", "peer.left,room.*"): ["room.occupied", "peer.left", "room.occupied"],
        ("--type", "peer.left", "--type", "room.occupied", "--room", ROOM): ["peer.left", "room.occupied"],
        ("--limit", "2"): ["peer.joined", "room.occupied"],
        ("--since", "1h", "--room", OTHER): ["peer.joined", "room.occupied"],
        ("--until", "1h"): [],
        ("--since", "2020-01-01T00:00:00Z", "--until", "2020-01-02"): [],
        ("--type", "room.empty"): [],
    }
    found = {filters: types_of(meeting("events", "list", "--json", *filters).json()) for filters in wanted}
    assert found == wanted


def test_since_and_until_compare_the_time_of_recording(meeting: Cli) -> None:
    observed = [event["data"]["observed_at"] for event in meeting.events()]
    left = next(event for event in meeting.events() if event["type"] == "peer.left")["data"]["observed_at"]
    following = (datetime.fromisoformat(left) + timedelta(milliseconds=1)).isoformat()
    assert types_of(list(meeting.events("--since", left, "--until", following))) == ["peer.left"]
    assert len(meeting.events("--since", left)) == observed.index(left) + 1


def test_the_next_page_begins_after_the_last_id(meeting: Cli) -> None:
    everything = meeting.events()
    page = meeting("events", "list", "--json", "--limit", "2", "--after", everything[1]["id"]).json()
    assert page == everything[2:4]
    page = meeting("events", "list", "--json", "--room", ROOM, "--after", everything[3]["id"]).json()
    assert page == everything[4:]
    assert "no event has the id 'evt_nope'" in meeting.refuses("events", "list", "--after", "evt_nope", code=1)
    assert "no room has the id 'nowhere'" in meeting.refuses("events", "list", "--room", "nowhere", code=1)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--type", "peer.jonied"), '--type "peer.jonied": matches no event type; did you mean "peer.joined"?'),
        (("--since", "yesterday"), '--since "yesterday": must be a time'),
        (("--since", "1700000000"), '--since "1700000000": must be a time'),
        (("--until", "5 parsecs"), '--until "5 parsecs": must be a time'),
        (("--since", "1h", "--until", "2h"), "--until must be later than --since"),
        (("--limit", "0"), "--limit"),
    ],
)
def test_a_wrong_filter_is_refused(cli: Cli, arguments: tuple[str, ...], complaint: str) -> None:
    assert complaint in cli.refuses("events", "list", *arguments, code=2)


def test_the_log_of_a_removed_room_stays(meeting: Cli) -> None:
    meeting("rooms", "remove", ROOM)
    assert len(meeting.events("--room", ROOM)) == 6


def test_no_name_can_disturb_the_table(meeting: Cli, simulator: Simulator) -> None:
    simulator.join(OTHER, "evil", metadata={"displayName": "[red]\x1b[2J:boom:\r\n\u202e\x9b31m"})
    meeting("poll", OTHER)
    out = meeting("events", "list").out
    lines = out.splitlines()
    assert len(lines) == 8
    assert "[red]\\x1b[2J:boom:\\r\\n\\u202e\\x9b31m" in lines[1]
    assert all(character.isprintable() or character == "\n" for character in out)
    assert "Anna A." in lines[-2]


def test_events_of_the_bridge_itself_are_in_no_room(tracked: Cli, simulator: Simulator) -> None:
    simulator.faults({"kind": "unauthorized", "times": 1})
    for code in (1, 0):
        tracked("poll", ROOM, code=code)
    recovered, unavailable = tracked("events", "list").out.splitlines()[1:]
    assert recovered.split()[1:3] == ["source.recovered", "(bridge)"]
    assert unavailable.split()[1:6] == ["source.unavailable", "(bridge)", "1", "main", "(unauthorized)"]
    (event, _) = tracked.events()
    assert event["data"]["room_id"] is None
    assert "(bridge) #2" in tracked("deliveries", "show", event["id"]).out


@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "lines"])
def test_tail_follows_the_log_until_ctrl_c(meeting: Cli, simulator: Simulator, form: list[str]) -> None:
    command = ("events", "tail", "--limit", "2", *form, "--config", str(meeting.config))
    with Bridge(*command, directory=meeting.directory) as program:
        wait_until(lambda: len(program.output.splitlines()) >= 2, what="the last two events")
        for name in ("dora", "emil"):
            simulator.join(OTHER, name)
            meeting("poll", OTHER)
            program.wait_for_output(name)
        assert program.stop(signal.SIGINT) == 0
        lines = program.output.splitlines()
    events = list(meeting.events()[:4])[::-1]
    assert len(lines) == 4
    if form:
        assert [json.loads(line) for line in lines] == events
    else:
        assert all(event["id"] in line and event["type"] in line for event, line in zip(events, lines, strict=True))


def test_tail_ends_with_its_period(meeting: Cli) -> None:
    everything = [event["id"] for event in meeting.events()][::-1]
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    done = meeting("events", "tail", "--json", "--since", "1h", "--until", soon)
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == everything
    assert meeting("events", "tail", "--json", "--since", "2h", "--until", "1h").out == ""


def test_tail_finds_events_that_were_committed_late(postgresql_store: StoreDriver) -> None:
    postgresql_store.record_joins(0, "a")
    tail = _Tail(postgresql_store.database, EventFilter())
    with writers(postgresql_store, 2) as (late, other):
        late.append(101)
        assert len(tail.start(10)) == 3
        other.append(102)
        other.commit()
        assert tail.read() == ()
        late.commit()
        assert [event.id for event in tail.read()] == ["evt_101", "evt_102"]
        assert tail.read() == ()

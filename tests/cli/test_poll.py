from __future__ import annotations

import signal
import threading
from functools import partial

from bridge.db.liveness import registered
from bridge.polling.claim import claim_room, release_rooms
from bridge.runtime import system_runtime
from tests.cli.conftest import ROOM, Cli
from tests.harness.log import log_problems, replay
from tests.harness.process import Bridge, BridgeProcess
from tests.harness.simulator import Simulator
from tests.harness.tables import change, everything
from tests.harness.waiting import wait_until


def test_a_dry_run_needs_no_database_and_creates_none(cli: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "anna", metadata={"displayName": "Anna A."})
    before = sorted(cli.directory.iterdir())
    seen = cli("poll", ROOM, "--dry-run", "--json").json()
    assert (seen["outcome"], seen["dry_run"], seen["event_count"]) == ("complete", True, 0)
    assert [change["type"] for change in seen["changes"]] == ["room.occupied", "peer.joined"]
    assert [peer["display_name"] for peer in seen["peers"]] == ["Anna A."]
    assert "unsaved" not in str(seen)
    assert sorted(cli.directory.iterdir()) == before


def test_a_room_without_a_session_is_a_complete_poll_with_a_note(cli: Cli) -> None:
    done = cli("poll", ROOM, "--dry-run")
    assert f"{ROOM}: complete, 0 peers" in done.out
    assert "note: the upstream knows of no session in this room" in done.err


def test_a_dry_run_writes_nothing_and_a_poll_finds_the_same(tracked: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "anna")
    tracked("poll", ROOM)
    simulator.swap(ROOM, leave="anna", join="bert")
    before = everything(tracked.database_url)
    preview = tracked("poll", ROOM, "--dry-run", "--json").json()
    assert everything(tracked.database_url) == before
    happened = tracked("poll", ROOM, "--json").json()
    for seen in (preview, happened):
        assert [(change["type"], change["peer_id"]) for change in seen["changes"]] == [
            ("peer.left", "anna"),
            ("peer.joined", "bert"),
        ]
        assert [peer["peer_id"] for peer in seen["peers"]] == ["bert"]
    assert happened["event_count"] == 2


def test_a_poll_writes_events_and_the_next_one_finds_no_change(tracked: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "anna", metadata={"displayName": "Anna A."})
    done = tracked("poll", ROOM)
    assert "Anna A." in done.out
    assert "peer.joined" in done.out
    assert "2 events written to the log; the running service delivers them" in done.err
    assert [event["type"] for event in tracked.events()] == ["peer.joined", "room.occupied"]
    again = tracked("poll", ROOM)
    assert "Anna A." in again.out
    assert "nothing has changed" in again.err
    assert len(tracked.events()) == 2


def test_the_changes_of_a_poll_have_the_data_of_its_events(tracked: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "anna")
    seen = tracked("poll", ROOM, "--json").json()
    events = tracked.events()[::-1]
    for found, event in zip(seen["changes"], events, strict=True):
        assert (found.pop("type"), found.pop("timestamp")) == (event["type"], event["timestamp"])
        for key in ("source", "room_id", "room_name", "sequence"):
            del event["data"][key]
        assert found == event["data"]


def test_a_failure_is_explained_and_changes_nothing(tracked: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "anna")
    tracked("poll", ROOM)
    simulator.faults({"kind": "status", "status": 500, "body": "out of order"})
    message = tracked.refuses("poll", ROOM, code=1)
    assert "server_error" in message
    assert "out of order" in message
    assert "server_error" in tracked.refuses("poll", ROOM, "--dry-run", code=1)
    seen = tracked("poll", ROOM, "--json", code=1).json()
    assert (seen["outcome"], seen["changes"]) == ("server_error", [])
    assert [peer["peer_id"] for peer in seen["peers"]] == ["anna"]
    (room,) = tracked("rooms", "list", "--json").json()
    assert (room["failures"], room["state"]) == (2, "occupied")


def test_an_untracked_room_needs_a_dry_run(cli: Cli) -> None:
    cli("rooms", "add", "another")
    assert "is not tracked" in cli.refuses("poll", ROOM, code=1)
    cli("poll", ROOM, "--dry-run")
    assert [room["room_id"] for room in cli("rooms", "list", "--json").json()] == ["another"]


def test_a_configured_room_must_be_loaded_by_a_service_first(cli: Cli) -> None:
    cli.configure(rooms=[ROOM])
    cli("rooms", "add", "another")
    assert "no service has loaded it yet" in cli.refuses("poll", ROOM, code=1)
    cli.take_up()
    cli("poll", ROOM)


def test_the_source_is_that_of_the_room_the_only_one_or_the_named_one(cli: Cli) -> None:
    cli.configure(sources={"main": {}, "other": {}}, rooms=[{"id": ROOM, "source": "other"}])
    assert cli("poll", ROOM, "--dry-run", "--json").json()["source"] == "other"
    assert cli("poll", "x", "--dry-run", "--source", "main", "--json").json()["source"] == "main"
    assert '"main" or "other"' in cli.refuses("poll", "x", "--dry-run", code=2)
    assert 'did you mean "main"?' in cli.refuses("poll", "x", "--dry-run", "--source", "mian", code=2)
    cli.take_up()
    assert 'did you mean "main"?' in cli.refuses("poll", ROOM, "--source", "mian", code=2)
    cli.configure(sources={"main": {}})
    for options in ((), ("--dry-run",)):
        assert 'its source "other" is not in the configuration' in cli.refuses("poll", ROOM, *options, code=2)


def test_a_dry_run_waits_for_confirmation_as_the_room_does(cli: Cli, simulator: Simulator) -> None:
    cli("rooms", "add", ROOM, "--leave-after-missed", "2")
    simulator.join(ROOM, "anna")
    cli("poll", ROOM)
    simulator.end(ROOM)
    assert cli("poll", ROOM, "--dry-run", "--json").json()["changes"] == []
    assert cli("poll", ROOM, "--json").json()["changes"] == []
    preview = cli("poll", ROOM, "--dry-run", "--json").json()
    assert [change["type"] for change in preview["changes"]] == ["peer.left", "room.empty"]


def test_a_source_that_rate_limits_is_not_asked(tracked: Cli, simulator: Simulator) -> None:
    simulator.faults({"kind": "rate_limited", "retry_after": 3600, "times": 1})
    assert "rate_limited" in tracked.refuses("poll", ROOM, code=1)
    asked = len(simulator.polls(ROOM))
    assert "is rate-limited by the upstream" in tracked.refuses("poll", ROOM, code=1)
    assert len(simulator.polls(ROOM)) == asked


def test_a_poll_waits_for_a_poll_that_is_under_way(tracked: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "anna")
    database, now = tracked.database(), system_runtime().now()
    claim = partial(claim_room, requests_per_second=0, now=now)
    with registered(database) as other:
        claimed = database.write_now(claim, ROOM, "main", token=other.new_token())
        assert claimed is not None
        assert database.write_now(claim, ROOM, "main", token=other.new_token()) is None
        releasing = threading.Timer(1, database.write_now, (release_rooms, [claimed]))
        releasing.start()
        done = tracked("poll", ROOM)
        releasing.join()
    assert "is being polled already" in done.err
    assert "peer.joined" in done.out
    database.close()


def test_a_poll_that_lost_its_claim_writes_nothing(tracked: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "anna")
    tracked.configure(upstream=simulator.via("tracked"))
    simulator.pause("tracked")

    def overtake() -> None:
        wait_until(lambda: simulator.paused_rooms("tracked"), what="a response that is paused")
        change(tracked.database_url, "UPDATE rooms SET claim_token = 'theirs'")
        simulator.resume("tracked")

    thread = threading.Thread(target=overtake)
    thread.start()
    assert "another process polled room" in tracked.refuses("poll", ROOM, code=1)
    thread.join()
    assert tracked.events() == []


def test_ctrl_c_releases_the_room(tracked: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "anna")
    tracked.configure(upstream=simulator.via("tracked"))
    simulator.pause("tracked")
    with Bridge("poll", ROOM, "--config", str(tracked.config), directory=tracked.directory) as program:
        wait_until(lambda: simulator.paused_rooms("tracked"), what="a response that is paused")
        assert program.stop(signal.SIGINT) == 130
        assert program.output == ""
    simulator.resume("tracked")
    assert tracked.events() == []
    assert "is being polled" not in tracked("poll", ROOM).err
    assert len(tracked.events()) == 2


def test_polls_beside_a_running_service_neither_lose_nor_invent_events(cli: Cli, simulator: Simulator) -> None:
    cli.configure(rooms=[ROOM])
    with BridgeProcess(cli.config) as service:
        service.wait_ready()
        simulator.wait_for_polls(1, ROOM)
        for number in range(8):
            simulator.join(ROOM, f"peer-{number}")
            seen = cli("poll", ROOM, "--json").json()
            assert f"peer-{number}" in {peer["peer_id"] for peer in seen["peers"]}
            if number % 3 == 2:
                simulator.leave(ROOM, f"peer-{number - 1}")
        cli("poll", ROOM)
        simulator.wait_for_polls(2, ROOM)
        assert service.stop() == 0
    events = list(cli.events())
    assert log_problems(events) == []
    assert replay(events) == {ROOM: simulator.members(ROOM)}

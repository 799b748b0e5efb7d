"""SIGHUP: what the file says now is what happens now, and a file that is broken changes nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.harness.config import API_KEY, Table, write_config
from tests.harness.deliveries import delivery_problems, difference_from_log, stored_events
from tests.harness.log import log_problems
from tests.harness.process import READY, BridgeProcess, Process, bridge_command
from tests.harness.receiver import SECRET, Receiver
from tests.harness.simulator import API_PATH, SimulatorClient
from tests.harness.tables import rows
from tests.harness.upstream_gate import Journal, UpstreamGate
from tests.harness.waiting import wait_until

TYPES = ["peer.*", "room.occupied", "room.empty"]


def reload(program: Process, line: str) -> dict[str, object]:
    """SIGHUP, and the line that says what came of it."""
    before = len(list(program.lines(line)))
    program.send(signal.SIGHUP)
    wait_until(lambda: len(list(program.lines(line))) > before, what=lambda: f"{line} in {program.output[-3000:]}")
    return list(program.lines(line))[-1]


@pytest.mark.slow
def test_rooms_and_endpoints_come_and_go(
    tmp_path: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    with Receiver() as leaving, Receiver() as coming:

        def configure(rooms: Sequence[str], endpoints: Sequence[Table]) -> Path:
            return write_config(
                tmp_path / "bridge.toml",
                database_url=ready_url,
                upstream=simulator.url,
                rooms=rooms,
                endpoints=endpoints,
            )

        for room in ("stays", "goes", "comes"):
            simulator.join(room, f"anna-of-{room}")
        config = configure(
            ["stays", "goes"], [receiver.endpoint("staying", events=TYPES), leaving.endpoint("leaving", events=TYPES)]
        )
        with BridgeProcess(config) as program:
            receiver.wait_for_count(4)
            leaving.wait_for_count(4)
            simulator.wait_for_polls(1, "stays", "goes")
            assert simulator.polls("comes") == []

            configure(
                ["stays", "comes"],
                [receiver.endpoint("staying", events=TYPES), coming.endpoint("coming", events=TYPES)],
            )
            reload(program, "configuration.reloaded")
            receiver.wait_for_count(2, room="comes")
            receiver.wait_for_count(4, room="goes")
            assert [
                (event["type"], event["data"].get("leave_reason")) for event in receiver.events(room="goes")[2:]
            ] == [("peer.left", "unwatched"), ("room.empty", None)]
            calls = len(leaving.deliveries)
            since = simulator.last_request()
            simulator.join("stays", "bert")
            receiver.wait_for_count(3, room="stays")
            coming.wait_for(lambda events: any(event["data"].get("peer_id") == "bert" for event in events), "Bert")
            simulator.wait_for_polls(2, "stays", "comes")
            assert simulator.polls("goes", since=since) == []
            assert len(leaving.deliveries) == calls
            assert coming.events(room="stays") == receiver.events(room="stays")[2:], "from now on, nothing from before"

            configure(
                ["stays", "comes", "goes"],
                [receiver.endpoint("staying", events=TYPES), coming.endpoint("coming", events=TYPES)],
            )
            reload(program, "configuration.reloaded")
            receiver.wait_for_count(6, room="goes")
            assert program.stop() == 0
    assert log_problems(receiver.events()) == []
    assert delivery_problems(receiver.deliveries) == []
    assert difference_from_log(receiver.deliveries, stored_events(ready_url)) == []


def _append(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(f"{file.read_text()}\n{text}")


def _replace_by_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


BROKEN: dict[str, Callable[[Path], object]] = {
    "no TOML": _append("[[["),
    "an unknown key": lambda file: file.write_text(file.read_text().replace('"interval"', '"intervall"')),
    "no UTF-8": lambda file: file.write_bytes(b"\xff\xfe" + file.read_bytes()),
    "gone": lambda file: file.unlink(),
    "a directory": _replace_by_directory,
    "a secret file that is gone": lambda file: file.write_text(
        file.read_text().replace(f'"secret" = "{SECRET}"', '"secret_file" = "/nowhere"')
    ),
}


def _cut_off_at(key: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(file.read_text().partition(f'"{key}" = ')[0])


EMPTIED: dict[str, Callable[[Path], object]] = {
    "cut off before its rooms and endpoints": _cut_off_at("rooms"),
    "cut off before its sources": _cut_off_at("sources"),
    "empty": lambda file: file.write_text(""),
}
"""Without a mistake, and all the same not what anybody meant: everything would be given up."""


@pytest.mark.slow
def test_a_broken_file_changes_nothing_and_is_told(
    tmp_path: Path, sqlite_database_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=sqlite_database_url,
        upstream=simulator.url,
        rooms=["room"],
        endpoints=[receiver.endpoint()],
    )
    good = config.read_text()
    # It finds its file by itself: one that is gone then must not leave the environment to be all of the configuration.
    with Process(bridge_command("run"), tmp_path, env={"BRIDGE__BRIDGE__NAME": "Tests"}) as program:
        program.wait_for_output(READY)
        simulator.join("room", "anna")
        receiver.wait_for_count(2)
        for assign_sequences, (name, spoil) in enumerate({**BROKEN, **EMPTIED}.items()):
            spoil(config)
            line = reload(program, "configuration.rejected")
            assert line["level"] == "error", name
            said = "restart the service" if name in EMPTIED else "bridge.toml"
            assert said in str(line["detail"]) + str(line["problems"]), name
            simulator.join("room", f"peer-{assign_sequences}")
            receiver.wait_for_count(3 + assign_sequences)
            if config.is_dir():
                config.rmdir()
            config.write_text(good)
        assert "intervall" in program.output
        assert receiver.secret not in program.output
        assert "Traceback" not in program.output
        reload(program, "configuration.reloaded")
        assert len(list(program.lines("configuration.reloaded"))) == 1
        simulator.leave("room", "anna")
        receiver.wait_for_count(3 + len(BROKEN) + len(EMPTIED))
        assert program.stop() == 0
    assert [event["type"] for event in receiver.events()][-1] == "peer.left", "nobody else has left meanwhile"
    assert delivery_problems(receiver.deliveries) == []


def test_what_the_old_key_is_still_told_does_not_count(
    tmp_path: Path, sqlite_database_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    rooms = ["a", "b", "c", "d"]
    journal = Journal()
    for room in rooms:
        simulator.join(room, "anna")
    with UpstreamGate("main", simulator.url, journal) as gate:

        def configure(api_key: str) -> Path:
            account = {"base_url": gate.url + API_PATH, "api_key": api_key, "max_concurrency": 1}
            return write_config(
                tmp_path / "bridge.toml",
                database_url=sqlite_database_url,
                upstream=simulator.url,
                sources={"main": account, "other": {}},
                rooms=[*({"id": room, "source": "main"} for room in rooms), {"id": "other", "source": "other"}],
                endpoints=[receiver.endpoint()],
            )

        def claimed() -> int:
            statement = "SELECT id FROM rooms WHERE source = 'main' AND claim_token IS NOT NULL"
            return len(rows(sqlite_database_url, statement))

        gate.hold()
        with BridgeProcess(configure("revoked-key")) as program:
            wait_until(lambda: journal.waiting("main"), what="an response to the old key")
            configure(API_KEY)
            reload(program, "configuration.reloaded")
            wait_until(lambda: claimed() == len(rooms), what="the new workers' claim")
            simulator.wait_for_polls(2, "other")
            assert len(journal.polls) == 1, "the old workers' request counts against `max_concurrency`"
            gate.release()
            for room in rooms:
                receiver.wait_for_count(2, room=room)
            assert {line["outcome"] for line in program.lines("room.polled")} == {"complete"}
            assert program.stop() == 0

"""SIGHUP: the bridge follows the file as it is now; a broken file changes nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.simulator.routes import API_PATH
from tests.harness.config import API_KEY, Configure
from tests.harness.deliveries import all_problems, delivery_problems
from tests.harness.process import READY, Bridge, BridgeProcess, Process
from tests.harness.receiver import SECRET, Receiver
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

TYPES = ["peer.*", "room.occupied", "room.empty"]


def reload(program: Process, line: str) -> dict[str, object]:
    """Send SIGHUP and return the log line with its result."""
    before = len(list(program.lines(line)))
    program.send(signal.SIGHUP)
    wait_until(lambda: len(list(program.lines(line))) > before, what=lambda: f"{line} in {program.output[-3000:]}")
    return list(program.lines(line))[-1]


@pytest.mark.slow
def test_rooms_and_endpoints_come_and_go(
    configure: Configure, migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    with Receiver() as leaving, Receiver() as coming:
        for room in ("stays", "goes", "comes"):
            simulator.join(room, f"anna-of-{room}")
        config = configure(
            rooms=["stays", "goes"],
            endpoints=[receiver.endpoint("staying", events=TYPES), leaving.endpoint("leaving", events=TYPES)],
        )
        with BridgeProcess(config) as program:
            receiver.wait_for_count(4)
            leaving.wait_for_count(4)
            simulator.wait_for_polls(1, "stays", "goes")
            assert simulator.polls("comes") == []

            configure(
                rooms=["stays", "comes"],
                endpoints=[receiver.endpoint("staying", events=TYPES), coming.endpoint("coming", events=TYPES)],
            )
            reload(program, "configuration.reloaded")
            receiver.wait_for_count(2, room="comes")
            receiver.wait_for_count(4, room="goes")
            assert [
                (event["type"], event["data"].get("leave_reason")) for event in receiver.events(room="goes")[2:]
            ] == [("peer.left", "unwatched"), ("room.empty", None)]
            calls = len(leaving.deliveries)
            since = simulator.last_poll()
            simulator.join("stays", "bert")
            receiver.wait_for_count(3, room="stays")
            coming.wait_for(lambda events: any(event["data"].get("peer_id") == "bert" for event in events), "Bert")
            simulator.wait_for_polls(2, "stays", "comes")
            assert simulator.polls("goes", since=since) == []
            assert len(leaving.deliveries) == calls
            assert coming.events(room="stays") == receiver.events(room="stays")[2:], (
                "a new endpoint gets events from now on"
            )

            configure(
                rooms=["stays", "comes", "goes"],
                endpoints=[receiver.endpoint("staying", events=TYPES), coming.endpoint("coming", events=TYPES)],
            )
            reload(program, "configuration.reloaded")
            receiver.wait_for_count(6, room="goes")
            assert program.stop() == 0
    assert all_problems(receiver.deliveries, migrated_url) == []


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
"""Valid files that would stop all tracking: they cannot be what was meant."""


@pytest.mark.slow
@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_a_broken_file_changes_nothing_and_is_reported(
    configure: Configure, tmp_path: Path, simulator: Simulator, receiver: Receiver
) -> None:
    config = configure(rooms=["room"], endpoints=[receiver.endpoint()])
    good = config.read_text()
    # Without --config: when the file is gone, the environment must not become the whole configuration.
    with Bridge("run", directory=tmp_path, env={"BRIDGE__BRIDGE__NAME": "Tests"}) as program:
        program.wait_for_output(READY)
        simulator.join("room", "anna")
        receiver.wait_for_count(2)
        for number, (name, spoil) in enumerate({**BROKEN, **EMPTIED}.items()):
            spoil(config)
            line = reload(program, "configuration.rejected")
            assert line["level"] == "error", name
            advice = "restart the service" if name in EMPTIED else "bridge.toml"
            assert advice in str(line["detail"]) + str(line["problems"]), name
            simulator.join("room", f"peer-{number}")
            receiver.wait_for_count(3 + number)
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
    assert [event["type"] for event in receiver.events()][-1] == "peer.left", "another peer has left meanwhile"
    assert delivery_problems(receiver.deliveries) == []


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_a_response_to_the_old_key_does_not_count(
    configure: Configure, simulator: Simulator, receiver: Receiver
) -> None:
    rooms = ["a", "b", "c", "d"]
    for room in rooms:
        simulator.join(room, "anna")

    def configure_key(api_key: str) -> Path:
        account = {"base_url": simulator.via("main") + API_PATH, "api_key": api_key, "max_concurrency": 1}
        return configure(
            sources={"main": account, "other": {}},
            rooms=[*({"id": room, "source": "main"} for room in rooms), {"id": "other", "source": "other"}],
            endpoints=[receiver.endpoint()],
        )

    simulator.pause("main")
    with BridgeProcess(configure_key("revoked-key")) as program:
        wait_until(lambda: simulator.paused_rooms("main"), what="a response to the old key")
        configure_key(API_KEY)
        reload(program, "configuration.reloaded")
        simulator.wait_for_polls(2, "other")
        simulator.resume("main")
        for room in rooms:
            receiver.wait_for_count(2, room=room)
        assert {line["outcome"] for line in program.lines("room.polled")} == {"complete"}
        assert program.stop() == 0

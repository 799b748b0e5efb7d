"""`bridge simulate` as a process: says where it is, answers as Huddle01 would, ends when told."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import httpx
import pytest

from bridge.cli.main import run
from tests.harness.process import Process, bridge_command
from tests.harness.simulator import SimulatorProcess
from tests.harness.waiting import wait_until


def ask(url: str, room: str, key: str = "simulated-key") -> httpx.Response:
    path = f"/api/v2/sdk/live-sessions/participants/{room}"
    return httpx.get(url + path, headers={"x-api-key": key}, trust_env=False)


def simulate(directory: Path, *arguments: str) -> Process:
    return Process(bridge_command("simulate", *arguments), directory)


def base_url(program: Process) -> str:
    line = program.wait_for_output("simulating Huddle01 on ")
    assert line.startswith("simulating Huddle01 on http://127.0.0.1:")
    assert line.endswith("/api/v2/sdk")
    return line.removeprefix("simulating Huddle01 on ").removesuffix("/api/v2/sdk")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_when_told(tmp_path: Path, number: signal.Signals) -> None:
    with simulate(tmp_path, "--port", "0") as program:
        url = base_url(program)
        assert ask(url, "abc-defg-hij").status_code == 404
        assert ask(url, "abc-defg-hij", key="wrong").status_code == 401
        assert f'base_url = "{url}/api/v2/sdk"' in program.wait_for_output("base_url")
        assert program.stop(number) == 0
    assert "Traceback" not in program.output


def test_what_it_says_is_enough_to_move_its_people(tmp_path: Path) -> None:
    with SimulatorProcess(tmp_path, api_keys=["one", "two"]) as program:
        program.client.join("abc", "ann")
        program.client.create_room("def", "two")
        program.client.join("def", "ben")
        assert ask(program.client.url, "abc", key="one").json()["participants"][0]["peerId"] == "ann"
        assert ask(program.client.url, "abc", key="two").status_code == 404
        assert ask(program.client.url, "def", key="two").json()["count"] == 1
        assert ask(program.client.url, "def").status_code == 401


def test_a_crowd_meets_in_the_rooms_that_its_seed_names(tmp_path: Path) -> None:
    with simulate(tmp_path, "--port", "0", "--random", "7", "--rooms", "2", "--rate", "50") as program:
        url = base_url(program)
        program.wait_for_output("joins")
        rooms = {line.split()[-1].strip('"') for line in program.output.splitlines() if line.startswith("  id = ")}
        assert len(rooms) == 2
        assert wait_until(lambda: [room for room in rooms if ask(url, room).status_code == 200])
        assert program.stop() == 0
    with simulate(tmp_path, "--port", "0", "--random", "7", "--rooms", "2") as again:
        assert rooms == {again.wait_for_output(room).split()[-1].strip('"') for room in rooms}


def test_a_scenario_is_played_and_its_end_is_not_the_simulators(tmp_path: Path) -> None:
    (tmp_path / "story.toml").write_text(
        '[[steps]]\nat = 0.0\nroom = "abc"\ndo = "join"\npeer_id = "ann"\n'
        '[[steps]]\nat = 0.1\nroom = "abc"\ndo = "swap"\nleave = "ann"\njoin = { peer_id = "ben" }\n'
    )
    with simulate(tmp_path, "--port", "0", "--scenario", "story.toml") as program:
        url = base_url(program)
        program.wait_for_output("the scenario is over")
        assert [peer["peerId"] for peer in ask(url, "abc").json()["participants"]] == ["ben"]
        assert program.stop() == 0


def test_a_scenario_that_cannot_be_read_is_refused_with_its_step(tmp_path: Path) -> None:
    (tmp_path / "story.toml").write_text('[[steps]]\nat = 0.0\nroom = "abc"\ndo = "jump"\n')
    with simulate(tmp_path, "--port", "0", "--scenario", "story.toml") as program:
        assert program.wait() == 2
    assert "story.toml: steps.0" in program.output
    assert "simulating" not in program.output


def test_a_scenario_that_cannot_go_on_ends_the_simulator(tmp_path: Path) -> None:
    (tmp_path / "story.json").write_text('{"steps": [{"at": 0, "room": "abc", "do": "leave", "peer_id": "ann"}]}')
    with simulate(tmp_path, "--port", "0", "--scenario", "story.json") as program:
        assert program.wait() == 1
    assert "bridge: " in program.output
    assert "Traceback" not in program.output


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with simulate(tmp_path, "--port", str(port)) as program:
            assert program.wait() == 1
    assert f"127.0.0.1:{port}" in program.output
    assert "Traceback" not in program.output


@pytest.mark.parametrize("arguments", [["--rooms", "2"], ["--rate", "1"], ["--random", "1", "--rate", "0"]])
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    with simulate(tmp_path, *arguments) as program:
        assert program.wait() == 2
    assert program.output.startswith("bridge: --r")


@pytest.mark.parametrize(
    ("rate", "shown"), [("inf", "inf"), ("nan", "nan"), ("1e9", "1e+09"), ("1001", "1001"), ("0", "0"), ("-1", "-1")]
)
def test_a_rate_that_no_crowd_can_keep_is_refused(rate: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It also names a scenario that is not there: if the rate were accepted, that would be refused next."""
    assert run(["simulate", "--random", "1", f"--rate={rate}", "--scenario", "nowhere.toml"]) == 2
    assert capsys.readouterr().err == f"bridge: --rate {shown}: must be above 0, and at most 1,000\n"


@pytest.mark.parametrize("rate", ["1000", "0.001"])
def test_a_rate_that_a_crowd_can_keep_is_accepted(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--random", "1", "--rate", rate, "--scenario", "nowhere.toml"]) == 2
    assert capsys.readouterr().err.startswith("bridge: nowhere.toml: not a readable scenario")

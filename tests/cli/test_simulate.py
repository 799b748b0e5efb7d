"""`bridge simulate` as a process: its address, its people, its end."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.harness.process import Bridge
from tests.harness.waiting import wait_until

LISTENING = "simulating Huddle01 on "


def poll(url: str, room: str, key: str = "simulated-key") -> int:
    response = httpx.get(f"{url}/live-sessions/participants/{room}", headers={"x-api-key": key}, trust_env=False)
    return response.status_code


def base_url(program: Bridge) -> str:
    line = program.wait_for_output(LISTENING)
    assert re.fullmatch(LISTENING + r"http://127\.0\.0\.1:\d+/api/v2/sdk", line)
    return line.removeprefix(LISTENING)


def rooms_of(program: Bridge) -> list[str]:
    program.wait_for_output("Ctrl-C")
    return re.findall(r'^  id = "(.+)"$', program.output, re.MULTILINE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_and_ends_when_signalled(tmp_path: Path, number: signal.Signals) -> None:
    with Bridge("simulate", "--port", "0", directory=tmp_path) as program:
        url = base_url(program)
        assert poll(url, "unknown") == 404
        assert poll(url, "unknown", key="wrong") == 401
        assert f'base_url = "{url}"' in program.wait_for_output("base_url")
        assert program.stop(number) == 0
    assert "Traceback" not in program.output


def test_people_meet_in_the_rooms_of_the_seed(tmp_path: Path) -> None:
    with Bridge("simulate", "--port", "0", "--seed", "7", "--rooms", "2", directory=tmp_path) as program:
        url = base_url(program)
        program.wait_for_output("joins")
        rooms = rooms_of(program)
        assert len(rooms) == 2
        assert wait_until(lambda: [room for room in rooms if poll(url, room) == 200])
        assert program.stop() == 0
    with Bridge("simulate", "--port", "0", "--seed", "7", directory=tmp_path) as again:
        assert rooms_of(again)[:2] == rooms


def test_of_many_rooms_some_are_shown(tmp_path: Path) -> None:
    with Bridge("simulate", "--port", "0", "--rooms", "1000", directory=tmp_path) as program:
        assert len(rooms_of(program)) == 3
        assert "# and 997 more" in program.output


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Bridge("simulate", "--port", str(port), directory=tmp_path) as program:
            assert program.wait() == 1
    assert f"127.0.0.1:{port}" in program.output
    assert "Traceback" not in program.output

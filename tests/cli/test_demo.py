"""`bridge demo` as a process: it prints verified deliveries, ends when it is stopped, and leaves nothing behind."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.harness.process import Bridge, bridge_command, environment
from tests.harness.waiting import PATIENCE, wait_until

A_DELIVERY = re.compile(r"\d\d:\d\d:\d\d  .{16} +#\d+  (?P<type>[a-z.]+) .* ✓ verified  evt_\w+")
ENDING = 60


class Demo(Bridge):
    """`bridge demo` in a directory of its own, with its temporary files below it."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.temporary = directory / "temporary"
        self.temporary.mkdir()
        self.directory = directory
        hostile = {"BRIDGE__WEB__LISTEN": "0.0.0.0:1", "http_proxy": "http://127.0.0.1:9", "COLUMNS": "40"}
        super().__init__("demo", *arguments, directory=directory, env={**hostile, "TMPDIR": str(self.temporary)})

    @property
    def deliveries(self) -> list[re.Match[str]]:
        return [found for line in self.output.splitlines() if (found := A_DELIVERY.match(line))]

    def wait_for_deliveries(self, count: int) -> None:
        wait_until(lambda: len(self.deliveries) >= count, timeout=PATIENCE, what=lambda: self.output)

    def url_of(self, part: str) -> str:
        """The address that is printed for `upstream`, `receiver` or `dashboard`."""
        return str(re.findall(rf"^  {part} +(http://\S+)", self.output, re.MULTILINE)[0])

    @property
    def open_ports(self) -> list[int]:
        return [int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)", self.output) if is_open(int(port))]

    @property
    def left_behind(self) -> set[str]:
        here = {path.name for path in self.directory.iterdir()} - {"temporary", self.log.name, "bridge.toml"}
        return here | {path.name for path in self.temporary.iterdir()}


def is_open(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_verified_deliveries_until_it_is_stopped_and_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "bridge.toml").write_text("this is [ not toml, and none of the demo's business")
    with Demo(tmp_path) as program:
        wanted = {"room.occupied", "peer.joined", "peer.left", "room.empty"}
        wait_until(lambda: wanted <= {one["type"] for one in program.deliveries}, what=lambda: program.output)
        assert len(program.open_ports) == 3
        assert httpx.get(program.url_of("dashboard"), trust_env=False, follow_redirects=True).status_code == 200
        assert program.stop(number, timeout=ENDING) == 0
    assert re.search(r"^(\d+) deliveries, \1 verified$", program.output, re.MULTILINE)
    assert "not verified" not in program.output
    assert "\x1b" not in program.output
    assert program.open_ports == []
    assert program.left_behind == set()


def test_it_ends_after_its_duration_and_fails_if_nothing_was_delivered(tmp_path: Path) -> None:
    with Demo(tmp_path, "--duration", "1ms") as program:
        assert program.wait(ENDING) == 1
    assert "nothing was delivered" in program.output
    assert program.left_behind == set()


def test_a_delivery_that_does_not_verify_is_exit_code_3(tmp_path: Path) -> None:
    with Demo(tmp_path, "--rooms", "1", "--seed", "5") as program:
        program.wait_for_deliveries(1)
        assert httpx.post(program.url_of("receiver"), content=b"{}", trust_env=False).status_code == 401
        assert program.stop(timeout=ENDING) == 3
    assert "✗ not verified" in program.output
    assert "did not verify" in program.output


def test_a_reader_who_goes_away_ends_it(tmp_path: Path) -> None:
    surroundings = environment({"TMPDIR": str(tmp_path)})
    with subprocess.Popen(
        bridge_command("demo"), cwd=tmp_path, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline().startswith(b"bridge demo")
            program.stdout.close()
            program.wait(ENDING)
            assert program.stderr is not None
            assert b"Traceback" not in program.stderr.read()
        finally:
            program.kill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--duration", "soon"], ["--duration", "0s"], ["--rooms", "0"]])
def test_wrong_options_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    with Demo(tmp_path, *arguments) as program:
        assert program.wait() == 2
    assert arguments[0] in program.output
    assert program.left_behind == set()

"""`bridge demo` as a process: it tells the truth, says so, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tests.harness.process import Process, bridge_command, environment
from tests.harness.waiting import PATIENCE, wait_until

TRUE = "Nobody was lied to: what the receiver was told is what is true."
A_DELIVERY = re.compile(r"\d\d:\d\d:\d\d .{11} +#\d+ (?P<type>[a-z.]+) .* (?P<status>\d{3}) ✓ verified")
ENDING = 120
"""Seconds that the end may take on a slow machine: the demo itself waits that long for what is missing."""


class Demo(Process):
    """`bridge demo` in a directory of its own, with its temporary files below it."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.temporary = directory / "temporary"
        self.temporary.mkdir()
        self.directory = directory
        hostile = {"BRIDGE__WEB__LISTEN": "0.0.0.0:1", "http_proxy": "http://127.0.0.1:9", "COLUMNS": "40"}
        super().__init__(bridge_command("demo", *arguments), directory, env={**hostile, "TMPDIR": str(self.temporary)})

    @property
    def deliveries(self) -> list[re.Match[str]]:
        return [found for line in self.output.splitlines() if (found := A_DELIVERY.match(line))]

    @property
    def open_ports(self) -> list[int]:
        """Of the places that it named, those where somebody still listens."""
        return [int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)", self.output) if is_open(int(port))]

    @property
    def left_behind(self) -> set[str]:
        here = {path.name for path in self.directory.iterdir()} - {"temporary", self.log.name, "bridge.toml"}
        return here | {path.name for path in self.temporary.iterdir()}


def is_open(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def request_in_full(output: str) -> tuple[dict[str, str], Any]:
    """The one request that is shown whole: its headers, and its body."""
    lines = [line.removeprefix("  │").strip() for line in output.splitlines() if line.startswith("  │")]
    head, body = lines[1 : lines.index("")], lines[lines.index("") + 1 :]
    return dict(line.split(": ", 1) for line in head), json.loads("\n".join(body))


@pytest.fixture(scope="module")
def performance(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A whole demo, from its beginning to its end, where somebody has a configuration that is none of its business."""
    directory = tmp_path_factory.mktemp("demo")
    (directory / "bridge.toml").write_text("this is [ not toml")
    with Demo(directory, "--duration", "4s") as program:
        assert program.wait(ENDING) == 0
    return program


def test_it_ends_by_itself_and_everything_was_told_and_verified(performance: Demo) -> None:
    assert {"room.occupied", "peer.joined"} <= {found["type"] for found in performance.deliveries}
    assert "not verified" not in performance.output
    assert "all verified by standardwebhooks" in performance.output
    assert performance.output.rstrip().endswith(TRUE)


def test_it_leaves_nothing_behind(performance: Demo) -> None:
    assert re.search(r"http://127\.0\.0\.1:\d+", performance.output)
    assert performance.open_ports == []
    assert performance.left_behind == set()


def test_what_it_prints_fits_80_columns_and_is_not_coloured(performance: Demo) -> None:
    assert [line for line in performance.output.splitlines() if cell_len(line) > 80] == []
    assert "\x1b" not in performance.output


def test_one_request_is_shown_as_it_was_sent(performance: Demo) -> None:
    headers, body = request_in_full(performance.output)
    assert body["type"] == "peer.joined"
    assert headers["webhook-id"] == body["id"]
    assert headers["webhook-signature"].startswith("v1,")
    compact = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    assert int(headers["content-length"]) == len(compact)


@pytest.mark.parametrize("assign_sequences", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_goes_on_until_told_and_then_finishes_what_it_owes(tmp_path: Path, assign_sequences: signal.Signals) -> None:
    with Demo(tmp_path) as program:
        assert "503" in program.wait_for_output("503 ✓ verified")
        program.wait_for_output("it came again: the same id and body")
        assert program.open_ports
        assert program.stop(assign_sequences, timeout=ENDING) == 0
    assert program.output.rstrip().endswith(TRUE)
    assert program.open_ports == []
    assert program.left_behind == set()


def test_told_twice_it_ends_at_once_and_leaves_nothing_either(tmp_path: Path) -> None:
    with Demo(tmp_path) as program:
        program.wait_for_output("✓ verified")
        program.send(signal.SIGINT)
        program.wait_for_output("the crowd stands still")
        assert program.stop(signal.SIGINT, timeout=ENDING) in (0, 1)  # 0 if it had just finished
    assert "Traceback" not in program.output
    assert program.left_behind == set()


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with Demo(tmp_path / "one", "--duration", "3s") as one, Demo(tmp_path / "other", "--duration", "3s") as other:
        assert (one.wait(ENDING), other.wait(ENDING)) == (0, 0)
    assert one.output.rstrip().endswith(TRUE)
    assert other.output.rstrip().endswith(TRUE)


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
            assert program.stderr.read() == b""
        finally:
            program.kill()
    assert list(tmp_path.iterdir()) == []


def test_other_people_and_rooms_will_do_as_well(tmp_path: Path) -> None:
    with Demo(tmp_path, "--rooms", "1", "--seed", "5") as program:
        wait_until(lambda: len(program.deliveries) >= 3, timeout=PATIENCE, what=lambda: program.output)
        assert program.stop(timeout=ENDING) == 0


@pytest.mark.parametrize("arguments", [["--duration", "soon"], ["--duration", "0s"], ["--rooms", "0"]])
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    with Demo(tmp_path, *arguments) as program:
        assert program.wait() == 2
    assert arguments[0] in program.output
    assert program.left_behind == set()

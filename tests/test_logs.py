"""Log lines whose reader stalls, is gone, or is slow: the work goes on, and what is lost is counted."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path

import pytest
import structlog

from bridge import logs
from bridge.logs import _LineQueue
from tests.harness.config import write_config
from tests.harness.process import Process, bridge_command
from tests.harness.receiver import Receiver
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

PIPE_BYTES = 4096


class Pipe:
    """A small pipe that is not read until `read` is called."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._reader, self.writer = os.pipe() if descriptor is None else (descriptor, descriptor)
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._read = bytearray()

    def read(self) -> None:
        threading.Thread(target=self._read_all, daemon=True).start()

    def _read_all(self) -> None:
        while part := os.read(self._reader, 65536):
            self._read += part

    def close_reader(self) -> None:
        os.close(self._reader)

    @property
    def lines(self) -> list[str]:
        """Those that have arrived whole."""
        return self._read.decode().rpartition("\n")[0].splitlines()


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


@pytest.fixture
def logged() -> None:
    """Let structlog write to the queue, in JSON."""
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=lambda *_: logs._queue,
        cache_logger_on_first_use=False,
    )


@pytest.mark.usefixtures("logged")
@pytest.mark.parametrize("blocking", [True, False])
def test_lines_that_find_the_queue_full_are_dropped_and_counted(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, *, blocking: bool
) -> None:
    os.set_blocking(pipe.writer, blocking)
    queue = _LineQueue(pipe.writer, limit=100)
    monkeypatch.setattr(logs, "_queue", queue)
    for number in range(3000):
        queue.msg(f'{{"number": {number}, "text": "{"x" * 100}"}}')
    pipe.read()

    def accounted_for() -> int:
        lines = [json.loads(line) for line in list(pipe.lines)]
        return sum(1 if "number" in line else line["count"] for line in lines)

    wait_until(lambda: accounted_for() >= 3000, what="the number of dropped lines")
    numbers = [line["number"] for line in map(json.loads, pipe.lines) if "number" in line]
    assert numbers == sorted(set(numbers))
    assert 100 <= len(numbers) < 3000
    assert accounted_for() == 3000


def test_a_flush_waits_for_every_line_but_not_for_a_reader_that_stalls(pipe: Pipe) -> None:
    queue = _LineQueue(pipe.writer)
    for number in range(1000):
        queue.msg(f"{number}")
    queue.msg("x" * 2 * PIPE_BYTES)
    queue.flush(0.01)  # returns
    pipe.read()
    queue.flush(60)
    wait_until(lambda: len(pipe.lines) == 1001, what="every line")


def test_a_reader_that_is_gone_stops_nothing(pipe: Pipe) -> None:
    pipe.close_reader()
    queue = _LineQueue(pipe.writer)
    queue.msg("lost")
    queue.flush(60)
    assert queue._dropped == 1


@pytest.mark.slow
@pytest.mark.parametrize("resumes", [True, False])
def test_the_program_works_and_stops_although_its_log_is_not_read(
    tmp_path: Path, sqlite_migrated_url: str, simulator: Simulator, receiver: Receiver, *, resumes: bool
) -> None:
    fifo, people = tmp_path / "log", 300
    os.mkfifo(fifo)
    pipe = Pipe(os.open(fifo, os.O_RDWR))
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=sqlite_migrated_url,
        upstream=simulator.url,
        rooms=["room"],
        endpoints=[receiver.endpoint("crm", events=["peer.*"])],
    )
    command = ["sh", "-c", 'exec "$@" > log 2>&1', "sh", *bridge_command("run", "--config", str(config))]
    with Process(command, tmp_path) as program:
        for number in range(people):
            simulator.join("room", f"guest{number}")
        receiver.wait_for_count(people)
        simulator.leave("room", "guest0")
        receiver.wait_for_count(people + 1)
        if resumes:
            pipe.read()
        assert program.stop() == 0
    if resumes:
        wait_until(lambda: any("bridge.stopped" in line for line in pipe.lines), what="the last line")
        assert sum('"event": "delivery.attempted"' in line for line in pipe.lines) == people + 1

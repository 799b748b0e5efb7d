"""The messages that systemd reads: of the real process, on a socket like systemd's."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from uuid import uuid4

import pytest

from bridge.notify import ServiceManager
from tests.harness.config import Configure
from tests.harness.process import BridgeProcess
from tests.harness.waiting import PATIENCE

PING = "WATCHDOG=1"
LIMIT = "200000"  # in microseconds


class Manager:
    """The socket of a service manager; use as a context manager."""

    def __init__(self, address: str) -> None:
        self.env = {"NOTIFY_SOCKET": address.replace("\0", "@")}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def receive(self) -> str:
        return self._socket.recv(4096).decode()

    def state(self) -> str:
        """The next message that is no ping."""
        return next(message for message in iter(self.receive, "") if message != PING)

    def silent_for(self, seconds: float) -> bool:
        self._socket.settimeout(seconds)
        try:
            self.receive()
        except (TimeoutError, BlockingIOError):
            return True
        finally:
            self._socket.settimeout(PATIENCE)
        return False


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    with Manager(str(tmp_path / "notify") if request.param == "a path" else f"\0bridge/{uuid4()}") as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_starts_reloads_and_stops_are_notified(configure: Configure, manager: Manager) -> None:
    config = configure()
    with BridgeProcess(config, env={**manager.env, "WATCHDOG_USEC": LIMIT}) as program:
        assert manager.state() == "READY=1"
        program.wait_for_output("bridge.started")
        assert [manager.receive() for _ in range(2)] == [PING, PING]

        for text, outcome in ((config.read_text(), "configuration.reloaded"), ("[[[", "configuration.rejected")):
            config.write_text(text)
            before = time.monotonic_ns() // 1000
            program.send(signal.SIGHUP)
            reloading, since = manager.state().split("\nMONOTONIC_USEC=")
            assert reloading == "RELOADING=1"
            assert before <= int(since) <= time.monotonic_ns() // 1000
            assert manager.state() == "READY=1"
            program.wait_for_output(outcome)

        program.send(signal.SIGTERM)
        assert manager.state() == "STOPPING=1"
        assert program.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_a_manager_that_is_gone_changes_nothing(configure: Configure, tmp_path: Path) -> None:
    env = {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": LIMIT}
    with BridgeProcess(configure(), env=env) as program:
        program.wait_ready()
        assert program.stop() == 0


async def test_an_event_loop_that_is_stuck_sends_no_ping(manager: Manager) -> None:
    async with ServiceManager({**manager.env, "WATCHDOG_USEC": LIMIT}).watchdog():
        await asyncio.sleep(0)
        assert manager.receive() == PING
        assert manager.silent_for(seconds=int(LIMIT) * 2 / 1_000_000)  # nothing is awaited: the loop is stuck here


async def test_a_watchdog_of_another_process_gets_no_ping(manager: Manager) -> None:
    async with ServiceManager({**manager.env, "WATCHDOG_USEC": LIMIT, "WATCHDOG_PID": "1"}).watchdog():
        await asyncio.sleep(0)
        assert manager.silent_for(seconds=0)

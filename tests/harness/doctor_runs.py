"""Shared parts of the tests of `bridge doctor`: findings, and servers and databases in various states."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import sqlite3
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.cli.conftest import Cli
from tests.harness.loop_thread import LoopThread
from tests.harness.receiver import Receiver
from tests.harness.simulator import SimulatorClient

ROOM = "abc-defg-hij"
Finding = Mapping[str, Any]


class Listener(LoopThread):
    """A TCP or TLS server that sends the same bytes to every request, or nothing, ever."""

    def __init__(self, response: bytes | None = None, tls: ssl.SSLContext | None = None) -> None:
        super().__init__("listener")
        self._response = response
        self._tls = tls
        self.port = 0
        self.received = b""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready()
        await self._stopping.wait()
        server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                self.received += chunk
                if self._response is not None and b"\r\n\r\n" in self.received:
                    writer.write(self._response)
                    await writer.drain()
                    break
            writer.close()


def http_response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers))
    return head.encode() + b"\r\n\r\n" + body


def examine(cli: Cli, *, code: int = 0) -> list[Finding]:
    found: list[Finding] = cli("doctor", "--json", code=code).json()
    return found


def only(found: Sequence[Finding], check: str, subject: str | None = None) -> Finding:
    """Return the one finding of that check (and subject)."""
    (one,) = [one for one in found if one["check"] == check and subject in (None, one["subject"])]
    return one


def change(cli: Cli, statement: str, *values: object) -> None:
    """Change rows of the SQLite file."""
    with contextlib.closing(sqlite3.connect(cli.database_file)) as connection:
        assert connection.execute(statement, values).rowcount > 0
        connection.commit()


def ago(**length: float) -> str:
    """Return a time in the past as SQLite stores it."""
    return (datetime.now(UTC) - timedelta(**length)).strftime("%Y-%m-%d %H:%M:%S.%f")


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir() if path.is_file()}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve_once(cli: Cli, simulator: SimulatorClient, receiver: Receiver) -> Cli:
    """Do what a service has done after some time: a room has been live, an endpoint has had deliveries."""
    cli.configure(rooms=[ROOM], endpoints=[receiver.endpoint("crm")])
    cli.take_up()
    simulator.join(ROOM, "anna")
    cli("poll", ROOM)
    cli.deliver()
    return cli

"""What the tests of `bridge doctor` share: looking at findings, and surroundings that are well or not."""

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
from tests.harness.simulator import Simulator

ROOM = "abc-defg-hij"
Found = Mapping[str, Any]


class Listener(LoopThread):
    """A TCP or TLS server that sends everybody who asks the same bytes, or nothing, ever."""

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
                    head, end, body = self._response.partition(b"\r\n\r\n")
                    writer.write(head + end)
                    await writer.drain()
                    await asyncio.sleep(0.02)  # as on a real network, where head and body come apart
                    writer.write(body)
                    await writer.drain()
                    break
            writer.close()


def answering(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers))
    return head.encode() + b"\r\n\r\n" + body


def examine(cli: Cli, *, code: int = 0) -> list[Found]:
    found: list[Found] = cli("doctor", "--json", code=code).json()
    return found


def only(found: Sequence[Found], check: str, subject: str | None = None) -> Found:
    """The finding of that check (and subject), of which there must be one."""
    (one,) = [one for one in found if one["check"] == check and subject in (None, one["subject"])]
    return one


def change(cli: Cli, statement: str, *values: object) -> None:
    """Write into the SQLite file what it takes a service days to come to."""
    with contextlib.closing(sqlite3.connect(cli.database_file)) as connection:
        assert connection.execute(statement, values).rowcount > 0
        connection.commit()


def stored(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")


def ago(**how_long: float) -> str:
    return stored(datetime.now(UTC) - timedelta(**how_long))


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir() if path.is_file()}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve_once(cli: Cli, simulator: Simulator, receiver: Receiver) -> Cli:
    """A service has been here: a room that was live, an endpoint that takes deliveries."""
    cli.configure(rooms=[ROOM], endpoints=[receiver.endpoint("crm")])
    cli.take_up()
    simulator.join(ROOM, "anna")
    cli("poll", ROOM)
    cli.deliver()
    return cli

"""Receivers that hang, drip, flood, reset or talk nonsense: each harms only itself."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness.commands import command
from tests.harness.config import write_config
from tests.harness.deliveries import delivery_problems, difference_from_log, stored_events
from tests.harness.loop_thread import LoopThread
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver
from tests.harness.simulator import SimulatorClient
from tests.harness.waiting import wait_until

ROOMS = [f"room-{assign_sequences}" for assign_sequences in range(12)]
DRIPS, FLOODS = 0.05, 1 << 16

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def hang(streams: Streams) -> None:
    await streams[0].read()


async def drip(streams: Streams) -> None:
    streams[1].write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not streams[1].is_closing():
        streams[1].write(b"x")
        await streams[1].drain()
        await asyncio.sleep(DRIPS)


async def flood_in_chunks(streams: Streams) -> None:
    streams[1].write(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not streams[1].is_closing():
        streams[1].write(b"%x\r\n%s\r\n" % (FLOODS, b"f" * FLOODS))
        await streams[1].drain()


async def flood_headers(streams: Streams) -> None:
    streams[1].write(b"HTTP/1.1 200 OK\r\n")
    while not streams[1].is_closing():
        streams[1].write(b"x-more: " + b"h" * 1024 + b"\r\n")
        await streams[1].drain()


async def reset(streams: Streams) -> None:
    connection: socket.socket = streams[1].get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    streams[1].transport.abort()


async def babble(streams: Streams) -> None:
    streams[1].write(b"220 mail.example.com ESMTP\r\n")
    await streams[1].drain()


HOSTILE: dict[str, tuple[Callable[[Streams], Awaitable[None]], set[str]]] = {
    "hangs": (hang, {"timeout"}),
    "drips": (drip, {"timeout"}),
    "floods": (flood_in_chunks, {"status"}),
    "floods-headers": (flood_headers, {"protocol"}),
    "resets": (reset, {"reset"}),
    "babbles": (babble, {"protocol"}),
}
"""What each does, and the causes that its attempts may have."""


class HostileReceivers(LoopThread):
    """One listener for each kind; `urls` by its name."""

    def __init__(self) -> None:
        super().__init__("hostile receivers")
        self.urls: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self) -> None:
        servers = []
        for name, (response, _) in HOSTILE.items():
            server = await asyncio.start_server(
                lambda *streams, response=response: self._meet(streams, response), "127.0.0.1", 0
            )
            self.urls[name] = "http://{}:{}/".format(*server.sockets[0].getsockname())
            servers.append(server)
        self._ready()
        await self._stopping.wait()
        for server in servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _meet(self, streams: Streams, response: Callable[[Streams], Awaitable[None]]) -> None:
        self._tasks.add(asyncio.ensure_future(self._response(streams, response)))

    async def _response(self, streams: Streams, response: Callable[[Streams], Awaitable[None]]) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await streams[0].readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await streams[0].readexactly(length)
            await response(streams)
        streams[1].close()


@pytest.mark.slow
def test_each_harms_only_itself(
    tmp_path: Path, sqlite_database_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    with HostileReceivers() as hostile:
        config = write_config(
            tmp_path / "bridge.toml",
            database_url=sqlite_database_url,
            upstream=simulator.url,
            rooms=ROOMS,
            endpoints=[
                *(
                    {"name": name, "url": url, "events": ["*"], "max_concurrency": 20}
                    for name, url in hostile.urls.items()
                ),
                receiver.endpoint("healthy"),
            ],
            delivery={"timeout": "1s"},
        )
        with BridgeProcess(config) as program:
            for round_number in range(4):
                for room in ROOMS:
                    simulator.join(room, f"peer-{round_number}")
                receiver.wait_for_count(len(ROOMS) * (2 + round_number))
            wait_until(
                lambda: set(HOSTILE) <= {line["endpoint"] for line in program.lines("delivery.attempted")},
                what="an attempt at each",
            )
            assert program.stop() == 0
        assert "Traceback" not in program.output
    assert delivery_problems(receiver.deliveries) == []
    assert difference_from_log(receiver.deliveries, stored_events(sqlite_database_url)) == []
    for name, (_, causes) in HOSTILE.items():
        attempts = json.loads(command(config, "deliveries", "list", "--endpoint", name, "--json"))
        assert {attempt["outcome"] for attempt in attempts} == {"retryable"}, name
        assert {attempt["cause"] for attempt in attempts} == causes, name
        assert max(attempt["duration_seconds"] for attempt in attempts) < 5, name
        assert max(len(attempt["response"]) for attempt in attempts) <= 1024, name
    states = json.loads(command(config, "endpoints", "list", "--json"))
    assert {one["name"] for one in states if one["owed_events"]} == set(HOSTILE)
    assert {one["state"] for one in states} == {"active"}

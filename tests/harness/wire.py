"""A receiver of raw bytes: it reads requests and sends any bytes as responses, HTTP or not."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.harness.loop_thread import LoopThread

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True, kw_only=True)
class Request:
    line: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass(kw_only=True)
class Wire:
    """The receiver's end of one connection, in the middle of a request."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: Request
    number: int
    """The number of the request at this receiver, from 1."""

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def until_closed(self) -> None:
        """Wait until the other side hangs up."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Response = Callable[[Wire], Awaitable[None]]


@dataclass(kw_only=True)
class RawReceiver:
    response: bytes | Response
    port: int = 0
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return self.at("127.0.0.1")

    def at(self, host: str) -> str:
        return f"{self.scheme}://{host}:{self.port}/hook/s3cret"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                request = await read_request(reader, connection)
                self.requests.append(request)
                wire = Wire(reader=reader, writer=writer, request=request, number=len(self.requests))
                await (wire.send(self.response) if isinstance(self.response, bytes) else self.response(wire))
        writer.close()


async def read_request(reader: asyncio.StreamReader, connection: int) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head[:-4].split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(line=line, headers=headers, body=body, connection=connection)


async def hang(wire: Wire) -> None:
    await wire.until_closed()


async def reset(wire: Wire) -> None:
    wire.reset()


def trickle(begin: bytes, more: bytes) -> Response:
    """Return a response that goes on for ever, slowly."""

    async def respond(wire: Wire) -> None:
        await wire.send(begin)
        while not wire.writer.is_closing():
            await wire.send(more)
            await asyncio.sleep(0.02)

    return respond


drip = trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" ")


def flood(status: int) -> Response:
    """Return a response without an end."""

    async def respond(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n" % status)
        while not wire.writer.is_closing():
            await wire.send(b"10000\r\n%s\r\n" % (b" " * 0x10000))

    return respond


def send_and_close(raw: bytes) -> Response:
    async def respond(wire: Wire) -> None:
        await wire.send(raw)
        wire.close()

    return respond


@asynccontextmanager
async def listening(
    response: bytes | Response = OK, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawReceiver]:
    """Serve on a free port of 127.0.0.1."""
    receiver = RawReceiver(response=response, scheme="https" if tls else "http")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await receiver.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class RawReceiverThread(LoopThread):
    """A raw receiver in its own thread; use as a context manager."""

    def __init__(self, response: bytes | Response = OK, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__("raw receiver")
        self._response = response
        self._tls = tls
        self.receiver = RawReceiver(response=response)

    async def _serve(self) -> None:
        async with listening(self._response, tls=self._tls) as self.receiver:
            self._ready()
            await self._stopping.wait()

    @property
    def host(self) -> str:
        return self.receiver.host

    @property
    def url(self) -> str:
        return self.receiver.url

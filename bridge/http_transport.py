"""The transport of httpx that all requests use: it keeps connections, and closes those with unexpected data.

Made for many small requests. A request is prepared once, as an `httpx.Request`, and sent many times; what changes
(target, more headers, body) is added as bytes. Headers of a response are parsed when they are read. There are no
cookies, redirects, proxies or settings from the environment.

Before a kept connection is used again, its socket is checked: if anything has arrived since the last response, it
would be taken for the next one, so the connection is closed. Requests are never pipelined. What arrives when the next
request is already on its way cannot be distinguished from its response; so a connection rests before it is used again,
and while it rests another one is opened.
"""

from __future__ import annotations

import asyncio
import re
import select
import ssl
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, cast
from urllib.parse import quote

import aiohappyeyeballs
import httpx

from bridge.http_response import BadResponseError, CutOffError, Response, ResponseReader
from bridge.resolver import AddressInfo, Resolver, SystemResolver, address_of, literal_address

_HAPPY_EYEBALLS_DELAY: Final = 0.25
"""Seconds until the next address of a name is tried beside the one before (RFC 8305 section 5)."""
REST: Final = 0.05
"""Seconds between a response and the next request over the same connection."""
MAX_IDLE: Final = 8
"""Idle connections of an origin; with so many, no other is opened while they rest."""
_READABLE: Final = select.POLLIN | select.POLLHUP | select.POLLERR
_TARGET: Final = re.compile(r"^[^:]*://[^/?#]*")
_ASCII: Final = "".join(map(chr, range(0x21, 0x7F)))
_LINE_BREAK: Final = re.compile(rb"[\r\n\0]")
_ADAPTER_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a response that `httpx.AsyncClient` gets through this transport."""


class Origin(NamedTuple):
    """The destination of a connection."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """A request ready to be sent any number of times."""

    origin: Origin
    method: bytes
    target: bytes = field(repr=False)
    headers: bytes = field(repr=False)

    @classmethod
    def of(cls, request: httpx.Request) -> PreparedRequest:
        """Prepare a request without its body; its extension `target` replaces path and query, byte for byte.

        Raises:
            httpx.UnsupportedProtocol: its URL is not of http or https, or has no host.
        """
        url = request.url
        ports = {"http": 80, "https": 443}
        if url.scheme not in ports or not url.host:
            raise httpx.UnsupportedProtocol("the URL must be an absolute one of http or https")
        origin = Origin(url.scheme, url.raw_host.decode("ascii"), url.port or ports[url.scheme])
        return cls(
            origin=origin,
            method=request.method.encode("ascii"),
            target=request.extensions.get("target", url.raw_path),
            headers=header_lines(header for header in request.headers.raw if header[0].lower() != b"content-length"),
        )

    def at(self, target: bytes) -> PreparedRequest:
        """The same request for another path and query."""
        return PreparedRequest(origin=self.origin, method=self.method, target=target, headers=self.headers)


def target_as_written(url: str) -> bytes:
    """Path and query of a URL, byte for byte: signed URLs do not survive being normalized."""
    target = _TARGET.sub("", url, count=1).partition("#")[0]
    return quote(target if target.startswith("/") else f"/{target}", safe=_ASCII).encode("ascii")


class Transport(httpx.AsyncBaseTransport):
    """Sends requests, each over a kept connection or a new one; to be used inside one event loop.

    Args:
        keep_alive: seconds for which an idle connection is kept.
        rest: seconds for which it must be idle before it is used again.
        limit: of requests at once; the others wait.
        tls: verification of certificates; default: the system's.
        resolver: of host names; default: the system's DNS.
        check: called with scheme and address before a socket for it exists; may raise.
    """

    def __init__(
        self,
        *,
        keep_alive: float,
        rest: float = REST,
        limit: int | None = None,
        tls: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
        check: Callable[[str, str], None] | None = None,
    ) -> None:
        self._keep_alive = keep_alive
        self._rest = rest
        self._tls = tls or ssl.create_default_context()
        self._resolver = resolver or SystemResolver()
        self._check = check
        self._slots: AbstractAsyncContextManager[object] = asyncio.Semaphore(limit) if limit else nullcontext()
        self._idle: defaultdict[Origin, deque[_Connection]] = defaultdict(deque)
        self._lookups: dict[tuple[str, int], asyncio.Task[list[AddressInfo]]] = {}
        self._expiry: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def send(
        self, request: PreparedRequest, reader: ResponseReader, *, headers: bytes = b"", body: bytes = b""
    ) -> Response:
        """Send a request and read its response. The caller limits the time; a cancelled request ends its connection.

        A kept connection that the server closes without a byte of response is no failure: the request is sent once
        more, over a new one.

        Args:
            request: the prepared part.
            reader: of the response; knows the status as soon as it has been read.
            headers: further lines, each ended with CRLF.
            body: to be sent with its length.

        Raises:
            httpx.ConnectError: no connection; the cause is `socket.gaierror`, `ssl.SSLError` or another `OSError`.
            httpx.ReadError: the connection ended before the response did.
            httpx.RemoteProtocolError: the response is not HTTP.
        """
        length = b"content-length: %d\r\n" % len(body) if body or request.method == b"POST" else b""
        message = b"%s %s HTTP/1.1\r\n%s%s%s\r\n%s" % (
            request.method, request.target, request.headers, headers, length, body,
        )  # fmt: skip
        async with self._slots:
            connection = self._take_idle(request.origin)
            if connection is not None:
                try:
                    return await self._exchange(connection, message, reader)
                except httpx.ReadError:
                    if reader.has_begun:
                        raise
            return await self._exchange(await self._connect(request.origin), message, reader)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx asks it; of the time-outs only `read` is known, and limits the whole request."""
        limit = request.extensions.get("timeout", {}).get("read")
        reader = ResponseReader(_ADAPTER_LIMIT)
        try:
            async with asyncio.timeout(limit):
                response = await self.send(PreparedRequest.of(request), reader, body=await request.aread())
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no complete response within {limit} s", request=request) from error
        if response.is_cut:
            raise httpx.ReadError(f"the response is longer than {_ADAPTER_LIMIT} bytes", request=request)
        stream = httpx.ByteStream(response.body)
        return httpx.Response(response.status, headers=response.headers, stream=stream, request=request)

    async def aclose(self) -> None:
        """Close the connections that are not in use, and those in use when their requests end."""
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        for lookup in self._lookups.values():
            lookup.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # asyncio closes the sockets in the next turn of the loop

    async def _exchange(self, connection: _Connection, message: bytes, reader: ResponseReader) -> Response:
        try:
            response = await connection.exchange(message, reader)
        except BadResponseError as error:
            raise httpx.RemoteProtocolError(f"the response is not HTTP: {error}") from error
        except (CutOffError, OSError) as error:
            raise httpx.ReadError(str(error)) from error
        if connection.is_open and not self._is_closed:
            connection.idle_since = time.monotonic()
            self._idle[connection.origin].append(connection)
            if self._expiry is None:
                self._expiry = asyncio.get_running_loop().call_later(self._keep_alive, self._close_expired)
        else:
            connection.close()
        return response

    def _take_idle(self, origin: Origin) -> _Connection | None:
        """The connection that has been idle for longest, and can still be used."""
        now, connections = time.monotonic(), self._idle.get(origin)
        while connections:
            idle = now - connections[0].idle_since
            if idle < self._rest and len(connections) < MAX_IDLE:
                return None
            connection = connections.popleft()
            if idle <= self._keep_alive and connection.is_quiet():
                return connection
            connection.close()
        return None

    def _close_expired(self) -> None:
        oldest = time.monotonic() - self._keep_alive
        for origin, connections in list(self._idle.items()):
            while connections and (connections[0].idle_since <= oldest or not connections[0].is_open):
                connections.popleft().close()
            if not connections:
                del self._idle[origin]
        due = [connections[0].idle_since for connections in self._idle.values()]
        delay = min(due) - oldest if due else None
        loop = asyncio.get_running_loop()
        self._expiry = None if delay is None else loop.call_later(delay, self._close_expired)

    async def _connect(self, origin: Origin) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            addresses = await self._find_addresses(origin)
            sock = await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY, interleave=1, loop=loop
            )
            tls = self._tls if origin.scheme == "https" else None
            name = origin.host.rstrip(".") if tls else None
            _, connection = await loop.create_connection(
                lambda: _Connection(origin), sock=sock, ssl=tls, server_hostname=name
            )
        except OSError as error:
            raise httpx.ConnectError(f"{origin.host}:{origin.port}") from error
        return connection

    async def _find_addresses(self, origin: Origin) -> list[AddressInfo]:
        """The checked addresses of a host. Requests that need the same name at the same time share one lookup."""
        literal = literal_address(origin.host, origin.port)
        if literal is None:
            key = (origin.host, origin.port)
            lookup = self._lookups.get(key)
            if lookup is None:
                lookup = self._lookups[key] = asyncio.create_task(self._resolver.resolve(*key))
                lookup.add_done_callback(lambda done: self._forget_lookup(key, done))
            found = await asyncio.shield(lookup)
        else:
            found = [literal]
        if self._check is not None:
            for address in found:
                self._check(origin.scheme, address_of(address))
        return found

    def _forget_lookup(self, key: tuple[str, int], done: asyncio.Task[list[AddressInfo]]) -> None:
        del self._lookups[key]
        if not done.cancelled():
            done.exception()  # its callers may have been cancelled


class _Connection(asyncio.Protocol):
    """One connection: a request at a time; unexpected data closes it."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self._done: asyncio.Future[Response] | None = None
        self._poll = select.poll()

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def is_quiet(self) -> bool:
        """Whether it is open and nothing has arrived since the last response."""
        return self.is_open and not self._poll.poll(0)

    def close(self) -> None:
        self._transport.abort()

    async def exchange(self, message: bytes, reader: ResponseReader) -> Response:
        """Send a request and read its response; afterwards the connection is open if it can be used again.

        Raises:
            BadResponseError: the response is not HTTP.
            CutOffError: the connection ended before the response did.
            OSError: the connection broke.
        """
        done: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._done = done
        self._reader = reader
        reader.start()
        try:
            self._transport.write(message)
            response = await done
        except BaseException:
            self.close()
            raise
        finally:
            self._done = None
        if not reader.keeps_connection or self._transport.get_write_buffer_size():
            self.close()
        return response

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), _READABLE)

    def data_received(self, data: bytes) -> None:
        if self._done is None or self._done.done():
            self.close()  # unexpected data
        else:
            self._read(partial(self._reader.feed, data), self._done)

    def eof_received(self) -> None:
        if self._done is not None and not self._done.done():
            self._read(self._reader.end, self._done)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the connection was closed"))

    def _read(self, advance: Callable[[], object], done: asyncio.Future[Response]) -> None:
        try:
            advance()
        except (BadResponseError, CutOffError, OSError) as error:
            done.set_exception(error)
        else:
            if self._reader.response is not None:
                done.set_result(self._reader.response)


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are sent.

    Raises:
        httpx.LocalProtocolError: one of them would start another line.
    """
    lines = [b"%s: %s" % header for header in headers]
    if any(_LINE_BREAK.search(line) for line in lines):
        raise httpx.LocalProtocolError("a header contains a line break")
    return b"".join(b"%s\r\n" % line for line in lines)

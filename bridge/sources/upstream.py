"""Requests to an upstream over HTTP, the same for every kind: one deadline, limits, failures, the cache of responses.

Errors of the upstream and the network are returned, not raised, and no failure repeats a secret. A pure function of the
kind, which is passed in, interprets a response.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from http import HTTPStatus
from typing import Final, TypeVar

import httpx

from bridge.http_response import CutOffError, Response, ResponseReader
from bridge.http_transport import REST, PreparedRequest, Transport
from bridge.logs import get_logger
from bridge.resolver import os_reason
from bridge.rules.presence import Failure, FailureKind, Snapshot
from bridge.sources.checkup import Checkup, ClockWatch, parse_date
from bridge.sources.failures import excerpt
from bridge.sources.protocol import SourceSettings
from bridge.sources.snapshot_cache import SnapshotCache

T = TypeVar("T")
Read = Callable[[int, Mapping[str, str], bytes, datetime], T | Failure]
"""Interprets a response: status, headers, decoded body, now."""

LARGE_BODY: Final = 256 * 1024
"""Bytes from which a response is parsed in a thread, so that nothing else waits for it."""
LARGE_COMPRESSED_BODY: Final = 4 * 1024
"""The same for a compressed one, which may become a thousand times as long."""
NEAR_LIMIT: Final = 0.8
SNAPSHOT_CACHE_BYTES: Final = 8 * 1024 * 1024
"""Bytes of cached responses, some 3,500 rooms of ten peers; their snapshots take about three times that."""
LEAST_SECRET: Final = 6
"""Characters; a shorter secret is a placeholder, and would match too many responses."""
KEEPALIVE_SECONDS: Final = 60
"""Longer than most polling intervals, so that connections are kept between polls."""

_DECOMPRESSED: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}

log = get_logger("bridge.sources")


class UnusableResponseError(Exception):
    """The response cannot be read to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request: path and query, further header lines, body; `secrets` are those that only it contains."""

    target: bytes
    headers: bytes = field(default=b"", repr=False)
    body: bytes = b""
    secrets: tuple[str, ...] = field(default=(), repr=False)


def open_transport(settings: SourceSettings, *, rest: float = REST) -> Transport:
    """The connections of one source; `Upstream` limits the time of a request."""
    return Transport(keep_alive=KEEPALIVE_SECONDS, rest=rest, limit=settings.max_concurrency)


class Upstream:
    """Asks one upstream account.

    Args:
        settings: limits and the name of the account.
        transport: closed with it.
        request: what all its requests have in common.
        clock: gives the time, with a time zone.
        secrets: texts that no failure may show.
    """

    def __init__(
        self,
        settings: SourceSettings,
        transport: Transport,
        request: httpx.Request,
        clock: Callable[[], datetime],
        secrets: tuple[str, ...],
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._request = PreparedRequest.of(request)
        self._clock = clock
        self._secrets = secrets
        self._seconds = settings.timeout.total_seconds()
        self._known = SnapshotCache(SNAPSHOT_CACHE_BYTES)
        self._near_limit: set[str] = set()
        self._clock_watch = ClockWatch(clock)

    @property
    def clock_skew(self) -> timedelta | None:
        """Lead of this machine's clock at a response within the last minute or so."""
        return self._clock_watch.skew

    async def fetch_snapshot(self, room_id: str, call: Call, read: Read[Snapshot]) -> Snapshot | Failure:
        """Ask once for the peers of a room; the snapshot of an unchanged response is the same object."""
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._send(call)
            limit = LARGE_BODY if response.content_encoding == "identity" else LARGE_COMPRESSED_BODY
            if len(response.body) > limit:
                size, digest, found = await asyncio.to_thread(self._read_snapshot, room_id, call, response, read)
            else:
                size, digest, found = self._read_snapshot(room_id, call, response, read)
        except Exception as error:  # noqa: BLE001 - errors of three libraries: all mean no response
            return self._fail(error, call)
        self._warn_near_limit(room_id, size)
        if isinstance(found, Snapshot) and found.peers:
            self._known.remember(room_id, digest, found, size)
        elif isinstance(found, Snapshot):
            self._known.forget(room_id)
        return found

    async def fetch_record(self, call: Call, read: Read[T]) -> T | Failure:
        """Ask once for something else than a room's peers; it is read in a thread."""
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._send(call)
            return await asyncio.to_thread(self._read, call, response, read)
        except Exception as error:  # noqa: BLE001 - as in fetch_snapshot
            return self._fail(error, call)

    async def check_up(self, call: Call, read: Read[object]) -> Checkup:
        """Find out if the upstream responds and accepts the key."""
        asked_at, date = self._clock(), None
        failure: Failure | None
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._send(call)
            found = self._read(call, response, read)
            failure = found if isinstance(found, Failure) else None
            date = response.headers.get("date")
        except Exception as error:  # noqa: BLE001 - as in fetch_snapshot
            failure = self._fail(error, call)
        return Checkup(failure=failure, asked_at=asked_at, responded_at=self._clock(), dated_at=parse_date(date))

    async def aclose(self) -> None:
        """Release the connections."""
        await self._transport.aclose()

    async def _send(self, call: Call) -> Response:
        asked_at = self._clock()
        reader = ResponseReader(self._settings.max_response_bytes)
        request = self._request.at(call.target)
        response = await self._transport.send(request, reader, headers=call.headers, body=call.body)
        self._clock_watch.look(asked_at, lambda: response.headers.get("date"))
        return response

    def _read_snapshot(
        self, room_id: str, call: Call, response: Response, read: Read[Snapshot]
    ) -> tuple[int, bytes, Snapshot | Failure]:
        """Size and digest of the decoded body, and its meaning; runs in a thread if it is large."""
        body = self._decode(response)
        digest = blake2b(body, digest_size=16).digest()
        if response.status == HTTPStatus.OK and (known := self._known.recall(room_id, digest)) is not None:
            return len(body), digest, known
        return len(body), digest, self._interpret(call, response, body, read)

    def _read(self, call: Call, response: Response, read: Read[T]) -> T | Failure:
        return self._interpret(call, response, self._decode(response), read)

    def _interpret(self, call: Call, response: Response, body: bytes, read: Read[T]) -> T | Failure:
        found = read(response.status, response.headers, body, self._clock())
        if isinstance(found, Failure):
            return self._redact(found, call, body.decode(errors="replace"), *response.headers.values())
        return found

    def _warn_near_limit(self, room_id: str, size: int) -> None:
        """Warn once while the responses of a room are close to the limit."""
        limit = self._settings.max_response_bytes
        if size <= limit * NEAR_LIMIT:
            self._near_limit.discard(room_id)
        elif room_id not in self._near_limit:
            self._near_limit.add(room_id)
            advice = f"raise max_response_bytes under [sources.{self._settings.name}]: polls fail above it"
            log.warning("response.limit_approached", room=room_id, bytes=size, limit=limit, advice=advice)

    def _decode(self, response: Response) -> bytes:
        limit = self._settings.max_response_bytes
        encoding = response.content_encoding
        body = response.body if encoding == "identity" else _decompress(response.body, encoding, limit)
        if response.is_cut or len(body) > limit:
            raise UnusableResponseError(
                f"more than {limit} bytes: raise max_response_bytes under [sources.{self._settings.name}]"
            )
        return body

    def _fail(self, error: Exception, call: Call) -> Failure:
        return self._redact(_classify_error(error, self._seconds), call, str(error))

    def _redact(self, failure: Failure, call: Call, *sources: str) -> Failure:
        """A server that echoes the request must not get a secret into the logs, not even a part of it."""
        for secret in (*self._secrets, *call.secrets):
            if len(secret) >= LEAST_SECRET and any(secret in source for source in sources):
                refused = "the API key is not accepted; " if failure.kind is FailureKind.UNAUTHORIZED else ""
                return replace(failure, detail=f"{refused}the response repeats the API key, so it is not shown")
        return failure


def _decompress(raw: bytes, encoding: str, limit: int) -> bytes:
    wbits = _DECOMPRESSED.get(encoding)
    if wbits is None:
        raise UnusableResponseError(f"content-encoding {encoding:.40}, which was not asked for")
    stream = zlib.decompressobj(wbits)
    try:
        body = stream.decompress(raw, limit + 1)
    except zlib.error as error:
        raise UnusableResponseError(f"broken {encoding}: {error}") from None
    if len(body) <= limit and not stream.eof:
        raise UnusableResponseError(f"{encoding} that ends too early")
    return body


def _classify_error(error: Exception, seconds: float) -> Failure:
    kind = FailureKind.UNREACHABLE
    match error, error.__cause__:
        case TimeoutError(), _:
            kind, detail = FailureKind.TIMEOUT, f"timeout: no complete response within {seconds:g} s"
        case httpx.ConnectError(), socket.gaierror() as cause:
            detail = f"dns: {error}: {os_reason(cause)}"
        case httpx.ConnectError(), ssl.SSLError() as cause:
            detail = f"tls: {error}: {os_reason(cause)}"
        case httpx.ConnectError(), OSError() as cause:
            detail = f"connect: {error}: {os_reason(cause)}"
        case httpx.ReadError(), CutOffError():
            detail = f"cut: {error}"
        case httpx.ReadError(), _:
            detail = f"reset: {error}"
        case UnusableResponseError(), _:
            kind, detail = FailureKind.BAD_RESPONSE, f"response: {error}"
        case _:
            kind, detail = FailureKind.BAD_RESPONSE, f"protocol: {error}"
    return Failure(kind=kind, detail=excerpt(detail.encode(errors="replace")))

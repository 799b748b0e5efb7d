"""Requests to Huddle01: one GET under one deadline; `responses.py` interprets the response.

Nothing that the upstream or the network does is raised, and no failure repeats the API key.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

import httpx

from bridge import __version__
from bridge.http_response import CutOffError, Response, ResponseReader
from bridge.http_transport import PreparedRequest, Transport, target_as_written
from bridge.resolver import os_reason
from bridge.rules.presence import Failure, FailureKind, Snapshot
from bridge.sources.checkup import Checkup, parse_date
from bridge.sources.huddle01.responses import excerpt, fingerprint, interpret
from bridge.sources.protocol import SourceSettings
from bridge.sources.snapshot_cache import SnapshotCache
from bridge.sources.untrusted_json import decode_json


class UnusableResponseError(Exception):
    """The response cannot be read to its end."""


RESPONSE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a response, before and after decompression."""
SNAPSHOT_CACHE_BYTES: Final = 8 * 1024 * 1024
"""Bytes of cached responses, some 3,500 rooms of ten peers; their snapshots take about three times that."""
LEAST_KEY: Final = 6
"""Characters; a shorter key is a placeholder, and would match in every response."""
KEEPALIVE_SECONDS: Final = 60
"""Longer than most polling intervals, so that connections are kept between polls."""

_DECOMPRESSED: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def open_huddle01(settings: SourceSettings, now: Callable[[], datetime]) -> Huddle01Source:
    """A source of kind `huddle01`."""
    return Huddle01Source(settings, open_transport(settings), __version__, now)


def open_transport(settings: SourceSettings) -> Transport:
    """The connections of one source; `Huddle01Source.fetch` limits the time of a request."""
    return Transport(keep_alive=KEEPALIVE_SECONDS, limit=settings.max_concurrency)


class Huddle01Source:
    """An account at Huddle01. `clock` gives the time, with a time zone; `transport` is closed with the source."""

    def __init__(
        self, settings: SourceSettings, transport: Transport, version: str, clock: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._clock = clock
        self._known = SnapshotCache(SNAPSHOT_CACHE_BYTES)
        self._seconds = settings.timeout.total_seconds()
        request = httpx.Request(
            "GET",
            settings.base_url,
            headers={
                "x-api-key": settings.api_key,
                "accept": "application/json",
                "accept-encoding": "gzip",
                "user-agent": f"presence-bridge/{version}",
            },
        )
        self._request = PreparedRequest.of(request)
        self._sessions = target_as_written(f"{settings.base_url.rstrip('/')}/live-sessions")
        self._participants = self._sessions + b"/participants/"

    @property
    def name(self) -> str:
        """The account's name in the configuration."""
        return self._settings.name

    async def fetch(self, room_id: str) -> Snapshot | Failure:
        """Ask once for the peers of a room."""
        if room_id in ("", ".", ".."):  # URLs treat `%2E%2E` like `..`, so these cannot be a path segment
            return Failure(kind=FailureKind.BAD_RESPONSE, detail=f"no URL can name the room {room_id!r}")
        target = self._participants + quote(room_id, safe="", errors="replace").encode("ascii")
        try:
            async with asyncio.timeout(self._seconds):
                response, body = await self._get(target)
        except Exception as error:  # noqa: BLE001 - errors of three libraries: all mean no response
            return self._redact_key(_classify_error(error, self._seconds), str(error))
        return self._recall(room_id, response, body) or self._read(room_id, response, body)

    async def check_up(self) -> Checkup:
        """Ask once for the live rooms: that needs a key, but no room."""
        asked_at, date = self._clock(), None
        try:
            async with asyncio.timeout(self._seconds):
                response, body = await self._get(self._sessions)
        except Exception as error:  # noqa: BLE001 - as in fetch
            failure: Failure | None = self._redact_key(_classify_error(error, self._seconds), str(error))
        else:
            failure, date = self._read_sessions(response, body), response.headers.get("date")
        return Checkup(failure=failure, asked_at=asked_at, answered_at=self._clock(), dated_at=parse_date(date))

    async def aclose(self) -> None:
        """Release the connections."""
        await self._transport.aclose()

    async def _get(self, target: bytes) -> tuple[Response, bytes]:
        response = await self._transport.send(self._request.at(target), ResponseReader(RESPONSE_LIMIT))
        return response, _decode(response)

    def _recall(self, room_id: str, response: Response, body: bytes) -> Snapshot | None:
        return self._known.recall(room_id, fingerprint(body)) if response.status == HTTPStatus.OK else None

    def _read(self, room_id: str, response: Response, body: bytes) -> Snapshot | Failure:
        read = interpret(response.status, response.headers, body, self._clock())
        if isinstance(read, Failure):
            return self._redact_key(read, body.decode(errors="replace"), *response.headers.values())
        if read.peers:
            self._known.remember(room_id, read, len(body))
        else:
            self._known.forget(room_id)
        return read

    def _read_sessions(self, response: Response, body: bytes) -> Failure | None:
        if response.status == HTTPStatus.OK and _lists_sessions(body):
            return None
        read = interpret(response.status, response.headers, body, self._clock())
        if isinstance(read, Failure):
            return self._redact_key(read, body.decode(errors="replace"), *response.headers.values())
        return None  # no room is live

    def _redact_key(self, failure: Failure, *sources: str) -> Failure:
        """A server that echoes the request must not get the key into the logs, not even a part of it."""
        key = self._settings.api_key
        if len(key) >= LEAST_KEY and any(key in source for source in sources):
            return replace(failure, detail="the response repeats the API key, so it is not shown")
        return failure


def _decode(response: Response) -> bytes:
    if response.is_cut:
        raise UnusableResponseError(f"more than {RESPONSE_LIMIT} bytes")
    encoding = response.content_encoding
    return response.body if encoding == "identity" else _decompress(response.body, encoding)


def _decompress(raw: bytes, encoding: str) -> bytes:
    wbits = _DECOMPRESSED.get(encoding)
    if wbits is None:
        raise UnusableResponseError(f"content-encoding {encoding:.40}, which was not asked for")
    stream = zlib.decompressobj(wbits)
    try:
        body = stream.decompress(raw, RESPONSE_LIMIT + 1)
    except zlib.error as error:
        raise UnusableResponseError(f"broken {encoding}: {error}") from None
    if len(body) > RESPONSE_LIMIT:
        raise UnusableResponseError(f"more than {RESPONSE_LIMIT} bytes, decompressed")
    if not stream.eof:
        raise UnusableResponseError(f"{encoding} that ends too early")
    return body


def _lists_sessions(body: bytes) -> bool:
    try:
        document = decode_json(body)
    except ValueError:
        return False
    return isinstance(document, dict) and isinstance(document.get("liveSessions"), list)


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

"""Requests to Huddle01: one GET under one deadline; `responses.py` interprets the response.

Nothing that the upstream or the network does is raised, and no failure repeats the API key.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

import httpx

from bridge import __version__
from bridge.http_response import CutOffError, Response, ResponseReader
from bridge.http_transport import REST, PreparedRequest, Transport, target_as_written
from bridge.logs import get_logger
from bridge.resolver import os_reason
from bridge.rules.presence import Failure, FailureKind, Snapshot
from bridge.rules.reconcile import RecordedSession, RecordedVisit
from bridge.sources.checkup import Checkup, ClockWatch, parse_date
from bridge.sources.huddle01.record import read_sessions, read_visits
from bridge.sources.huddle01.responses import excerpt, fingerprint, interpret
from bridge.sources.protocol import SourceSettings
from bridge.sources.snapshot_cache import SnapshotCache
from bridge.sources.untrusted_json import decode_json


class UnusableResponseError(Exception):
    """The response cannot be read to its end."""


T = TypeVar("T")

SESSIONS_PER_PAGE: Final = 50
LARGE_BODY: Final = 256 * 1024
"""Bytes from which a response is parsed in a thread, so that nothing else waits for it."""
LARGE_COMPRESSED_BODY: Final = 4 * 1024
"""The same for a compressed one, which may become a thousand times as long."""
NEAR_LIMIT: Final = 0.8
SNAPSHOT_CACHE_BYTES: Final = 8 * 1024 * 1024
"""Bytes of cached responses, some 3,500 rooms of ten peers; their snapshots take about three times that."""
LEAST_KEY: Final = 6
"""Characters; a shorter key is a placeholder, and would match in every response."""
KEEPALIVE_SECONDS: Final = 60
"""Longer than most polling intervals, so that connections are kept between polls."""

_DECOMPRESSED: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


log = get_logger("bridge.sources")


def open_huddle01(settings: SourceSettings, now: Callable[[], datetime]) -> Huddle01Source:
    """A source of kind `huddle01`."""
    return Huddle01Source(settings, open_transport(settings), __version__, now)


def open_transport(settings: SourceSettings, *, rest: float = REST) -> Transport:
    """The connections of one source; `Huddle01Source.fetch` limits the time of a request."""
    return Transport(keep_alive=KEEPALIVE_SECONDS, rest=rest, limit=settings.max_concurrency)


class Huddle01Source:
    """An account at Huddle01. `clock` gives the time, with a time zone; `transport` is closed with the source."""

    def __init__(
        self, settings: SourceSettings, transport: Transport, version: str, clock: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._clock = clock
        self._known = SnapshotCache(SNAPSHOT_CACHE_BYTES)
        self._near_limit: set[str] = set()
        self._clock_watch = ClockWatch(clock)
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
        self._rooms = target_as_written(f"{settings.base_url.rstrip('/')}/rooms/")

    @property
    def name(self) -> str:
        """The account's name in the configuration."""
        return self._settings.name

    @property
    def clock_skew(self) -> timedelta | None:
        """Lead of this machine's clock at a response within the last minute or so."""
        return self._clock_watch.skew

    async def fetch(self, room_id: str) -> Snapshot | Failure:
        """Ask once for the peers of a room."""
        if room_id in ("", ".", ".."):  # URLs treat `%2E%2E` like `..`, so these cannot be a path segment
            return Failure(kind=FailureKind.BAD_RESPONSE, detail=f"no URL can name the room {room_id!r}")
        target = self._participants + quote(room_id, safe="", errors="replace").encode("ascii")
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._get(target)
            return await self._read(room_id, response)
        except Exception as error:  # noqa: BLE001 - errors of three libraries: all mean no response
            return self._redact_key(_classify_error(error, self._seconds), str(error))

    @property
    def sessions_per_page(self) -> int:
        """The number of sessions that are asked for at a time."""
        return SESSIONS_PER_PAGE

    async def fetch_sessions(self, room_id: str, page: int) -> tuple[RecordedSession, ...] | Failure:
        """One page of a room's past and present sessions."""
        query = urlencode({"roomId": room_id, "limit": SESSIONS_PER_PAGE, "cursor": page}, errors="replace")
        return await self._fetch_record(self._rooms + f"session-details?{query}".encode("ascii"), read_sessions)

    async def fetch_visits(self, session_id: str) -> tuple[RecordedVisit, ...] | Failure:
        """The visits of a session."""
        query = urlencode({"sessionId": session_id}, errors="replace")
        return await self._fetch_record(self._rooms + f"participant-list?{query}".encode("ascii"), read_visits)

    async def _fetch_record(
        self, target: bytes, read: Callable[[int, Mapping[str, str], bytes, datetime], T | Failure]
    ) -> T | Failure:
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._get(target)
            return await asyncio.to_thread(self._read_record, response, read)
        except Exception as error:  # noqa: BLE001 - as in fetch
            return self._redact_key(_classify_error(error, self._seconds), str(error))

    def _read_record(
        self, response: Response, read: Callable[[int, Mapping[str, str], bytes, datetime], T | Failure]
    ) -> T | Failure:
        body = self._decode(response)
        found = read(response.status, response.headers, body, self._clock())
        if isinstance(found, Failure):
            return self._redact_key(found, body.decode(errors="replace"), *response.headers.values())
        return found

    async def check_up(self) -> Checkup:
        """Ask once for the live rooms: that needs a key, but no room."""
        asked_at, date = self._clock(), None
        failure: Failure | None
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._get(self._sessions)
            failure = self._read_sessions(response, self._decode(response))
            date = response.headers.get("date")
        except Exception as error:  # noqa: BLE001 - as in fetch
            failure = self._redact_key(_classify_error(error, self._seconds), str(error))
        return Checkup(failure=failure, asked_at=asked_at, responded_at=self._clock(), dated_at=parse_date(date))

    async def aclose(self) -> None:
        """Release the connections."""
        await self._transport.aclose()

    async def _get(self, target: bytes) -> Response:
        asked_at = self._clock()
        reader = ResponseReader(self._settings.max_response_bytes)
        response = await self._transport.send(self._request.at(target), reader)
        self._clock_watch.look(asked_at, lambda: response.headers.get("date"))
        return response

    async def _read(self, room_id: str, response: Response) -> Snapshot | Failure:
        limit = LARGE_BODY if response.content_encoding == "identity" else LARGE_COMPRESSED_BODY
        if len(response.body) > limit:
            size, read = await asyncio.to_thread(self._interpret, room_id, response)
        else:
            size, read = self._interpret(room_id, response)
        self._warn_near_limit(room_id, size)
        if isinstance(read, Snapshot) and read.peers:
            self._known.remember(room_id, read, size)
        elif isinstance(read, Snapshot):
            self._known.forget(room_id)
        return read

    def _interpret(self, room_id: str, response: Response) -> tuple[int, Snapshot | Failure]:
        """The size of the body, decompressed, and its meaning; runs in a thread if it is large."""
        body = self._decode(response)
        if response.status == HTTPStatus.OK and (known := self._known.recall(room_id, fingerprint(body))) is not None:
            return len(body), known
        read = interpret(response.status, response.headers, body, self._clock())
        if isinstance(read, Failure):
            read = self._redact_key(read, body.decode(errors="replace"), *response.headers.values())
        return len(body), read

    def _warn_near_limit(self, room_id: str, size: int) -> None:
        """Warn once while the responses of a room are close to what the next would be refused for."""
        limit = self._settings.max_response_bytes
        if size <= limit * NEAR_LIMIT:
            self._near_limit.discard(room_id)
        elif room_id not in self._near_limit:
            self._near_limit.add(room_id)
            advice = f"raise max_response_bytes under [sources.{self.name}]: polls fail above it"
            log.warning("response.limit_approached", room=room_id, bytes=size, limit=limit, advice=advice)

    def _decode(self, response: Response) -> bytes:
        limit = self._settings.max_response_bytes
        encoding = response.content_encoding
        body = response.body if encoding == "identity" else _decompress(response.body, encoding, limit)
        if response.is_cut or len(body) > limit:
            raise UnusableResponseError(
                f"more than {limit} bytes: raise max_response_bytes under [sources.{self.name}]"
            )
        return body

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

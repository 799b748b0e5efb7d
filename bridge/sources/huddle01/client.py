"""Requests to Huddle01: one GET under one deadline; `responses.py` interprets the response.

Nothing that the upstream or the network does is raised, and no failure repeats the API key.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import httpx
from aiohttp.http import HttpProcessingError
from httpx_aiohttp import AiohttpTransport

from bridge import __version__
from bridge.http_response import Response
from bridge.rules.presence import Failure, FailureKind, Snapshot
from bridge.rules.reconcile import RecordedSession, RecordedVisit
from bridge.sources.checkup import Checkup, parse_date
from bridge.sources.huddle01.record import read_sessions, read_visits
from bridge.sources.huddle01.responses import excerpt, fingerprint, interpret
from bridge.sources.protocol import SourceSettings
from bridge.sources.snapshot_cache import SnapshotCache
from bridge.sources.untrusted_json import decode_json


class UnusableResponseError(Exception):
    """The response cannot be read to its end."""


T = TypeVar("T")

SESSIONS_PER_PAGE: Final = 50
RESPONSE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a response, before and after decompression."""
SNAPSHOT_CACHE_BYTES: Final = 8 * 1024 * 1024
"""Bytes of cached responses, some 3,500 rooms of ten peers; their snapshots take about three times that."""
LEAST_KEY: Final = 6
"""Characters; a shorter key is a placeholder, and would match in every response."""
KEEPALIVE_SECONDS: Final = 60
"""Longer than most polling intervals, so that connections are kept between polls."""

_NAMES: Final = (
    ((aiohttp.ClientConnectorDNSError,), FailureKind.UNREACHABLE, "dns"),
    ((aiohttp.ClientSSLError, ssl.SSLError), FailureKind.UNREACHABLE, "tls"),
    ((aiohttp.ClientConnectorError,), FailureKind.UNREACHABLE, "connect"),
    ((aiohttp.ClientPayloadError,), FailureKind.UNREACHABLE, "cut"),
    ((aiohttp.ServerDisconnectedError, OSError), FailureKind.UNREACHABLE, "reset"),
    ((aiohttp.ClientResponseError, HttpProcessingError), FailureKind.BAD_RESPONSE, "protocol"),
    ((httpx.ProtocolError, httpx.InvalidURL, UnicodeError), FailureKind.BAD_RESPONSE, "protocol"),
    ((UnusableResponseError,), FailureKind.BAD_RESPONSE, "response"),
)
"""Failure kind and name of an error, by its first cause that is listed; the special before the general."""
_DECOMPRESSED: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def open_huddle01(settings: SourceSettings, now: Callable[[], datetime]) -> Huddle01Source:
    """A source of kind `huddle01`."""
    return Huddle01Source(settings, open_client(settings), __version__, now)


def open_client(settings: SourceSettings) -> httpx.AsyncClient:
    """A client for one source: verified TLS, nothing from the environment, no redirects, no cookies.

    It has no time limits of its own: `Huddle01Source.fetch` bounds the whole request.
    """
    context = ssl.create_default_context()

    def open_session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=settings.max_concurrency, keepalive_timeout=KEEPALIVE_SECONDS, ssl=context
        )
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, response_class=Response
        )

    transport = AiohttpTransport(verify=context, client=open_session)
    return httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        timeout=None,  # noqa: S113 - fetch has one deadline for the whole request
        follow_redirects=False,
    )


class Huddle01Source:
    """An account at Huddle01. `clock` gives the time, with a time zone; `client` is closed with the source."""

    def __init__(
        self, settings: SourceSettings, client: httpx.AsyncClient, version: str, clock: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._known = SnapshotCache(SNAPSHOT_CACHE_BYTES)
        self._seconds = settings.timeout.total_seconds()
        self._sessions_url = f"{settings.base_url.rstrip('/')}/live-sessions"
        self._rooms_url = f"{settings.base_url.rstrip('/')}/rooms/"
        self._participants_url = f"{self._sessions_url}/participants/"
        self._headers = httpx.Headers(
            {
                "x-api-key": settings.api_key,
                "accept": "application/json",
                "accept-encoding": "gzip",
                "user-agent": f"presence-bridge/{version}",
            }
        )

    @property
    def name(self) -> str:
        """The account's name in the configuration."""
        return self._settings.name

    async def fetch(self, room_id: str) -> Snapshot | Failure:
        """Ask once for the peers of a room."""
        if room_id in ("", ".", ".."):  # URLs treat `%2E%2E` like `..`, so these cannot be a path segment
            return Failure(kind=FailureKind.BAD_RESPONSE, detail=f"no URL can name the room {room_id!r}")
        url = self._participants_url + quote(room_id, safe="", errors="replace")
        try:
            async with asyncio.timeout(self._seconds):
                response, body = await self._get(url)
        except Exception as error:  # noqa: BLE001 - errors of three libraries: all mean no response
            return self._redact_key(_classify_error(error, self._seconds), str(error))
        return self._recall(room_id, response, body) or self._read(room_id, response, body)

    @property
    def sessions_per_page(self) -> int:
        """The number of sessions that are asked for at a time."""
        return SESSIONS_PER_PAGE

    async def fetch_sessions(self, room_id: str, page: int) -> tuple[RecordedSession, ...] | Failure:
        """One page of a room's past and present sessions."""
        query = urlencode({"roomId": room_id, "limit": SESSIONS_PER_PAGE, "cursor": page}, errors="replace")
        return await self._fetch_record(f"session-details?{query}", read_sessions)

    async def fetch_visits(self, session_id: str) -> tuple[RecordedVisit, ...] | Failure:
        """The visits of a session."""
        query = urlencode({"sessionId": session_id}, errors="replace")
        return await self._fetch_record(f"participant-list?{query}", read_visits)

    async def _fetch_record(
        self, target: str, read: Callable[[int, Mapping[str, str], bytes, datetime], T | Failure]
    ) -> T | Failure:
        try:
            async with asyncio.timeout(self._seconds):
                response, body = await self._get(self._rooms_url + target)
        except Exception as error:  # noqa: BLE001 - as in fetch
            return self._redact_key(_classify_error(error, self._seconds), str(error))
        found = read(response.status_code, response.headers, body, self._clock())
        if isinstance(found, Failure):
            return self._redact_key(found, body.decode(errors="replace"), *response.headers.values())
        return found

    async def check_up(self) -> Checkup:
        """Ask once for the live rooms: that needs a key, but no room."""
        asked_at, date = self._clock(), None
        try:
            async with asyncio.timeout(self._seconds):
                response, body = await self._get(self._sessions_url)
        except Exception as error:  # noqa: BLE001 - as in fetch
            failure: Failure | None = self._redact_key(_classify_error(error, self._seconds), str(error))
        else:
            failure, date = self._read_sessions(response, body), response.headers.get("date")
        return Checkup(failure=failure, asked_at=asked_at, answered_at=self._clock(), dated_at=parse_date(date))

    async def aclose(self) -> None:
        """Release the connections."""
        await self._client.aclose()

    async def _get(self, url: str) -> tuple[httpx.Response, bytes]:
        request = httpx.Request("GET", url, headers=self._headers)
        response = await self._client.send(request, stream=True, follow_redirects=False)
        try:
            return response, await _read(response)
        finally:
            await response.aclose()

    def _recall(self, room_id: str, response: httpx.Response, body: bytes) -> Snapshot | None:
        return self._known.recall(room_id, fingerprint(body)) if response.status_code == HTTPStatus.OK else None

    def _read(self, room_id: str, response: httpx.Response, body: bytes) -> Snapshot | Failure:
        read = interpret(response.status_code, response.headers, body, self._clock())
        if isinstance(read, Failure):
            return self._redact_key(read, body.decode(errors="replace"), *response.headers.values())
        if read.peers:
            self._known.remember(room_id, read, len(body))
        else:
            self._known.forget(room_id)
        return read

    def _read_sessions(self, response: httpx.Response, body: bytes) -> Failure | None:
        if response.status_code == HTTPStatus.OK and _lists_sessions(body):
            return None
        read = interpret(response.status_code, response.headers, body, self._clock())
        if isinstance(read, Failure):
            return self._redact_key(read, body.decode(errors="replace"), *response.headers.values())
        return None  # no room is live

    def _redact_key(self, failure: Failure, *sources: str) -> Failure:
        """A server that echoes the request must not get the key into the logs, not even a part of it."""
        key = self._settings.api_key
        if len(key) >= LEAST_KEY and any(key in source for source in sources):
            return replace(failure, detail="the response repeats the API key, so it is not shown")
        return failure


async def _read(response: httpx.Response) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_raw():
        chunks.append(chunk)
        size += len(chunk)
        if size > RESPONSE_LIMIT:
            raise UnusableResponseError(f"more than {RESPONSE_LIMIT} bytes")
    raw = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    return raw if encoding in ("", "identity") else _decompress(raw, encoding)


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
    if any(isinstance(cause, TimeoutError) for cause in _causes(error)):
        return Failure(kind=FailureKind.TIMEOUT, detail=f"timeout: no complete response within {seconds:g} s")
    kind, word = _name_cause(error)
    return Failure(kind=kind, detail=f"{word}: {excerpt(str(error).encode(errors='replace')) or type(error).__name__}")


def _name_cause(error: Exception) -> tuple[FailureKind, str]:
    """Name the innermost cause: the transport calls a reset a time-out, and a cut body a read error."""
    for cause in _causes(error):
        for types, kind, word in _NAMES:
            if isinstance(cause, types):
                return kind, word
    return FailureKind.UNREACHABLE, type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__

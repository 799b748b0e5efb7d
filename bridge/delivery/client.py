"""One POST → one `PostResult`: sends the bytes under one deadline, and names the cause if they did not arrive.

httpx over the aiohttp transport, used without `httpx.AsyncClient`: a client would keep cookies and log every URL, and
a webhook's URL is often a secret. http and https have a pool each, because plain http has stricter rules and a
connector knows addresses, not schemes.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, partial
from types import TracebackType
from typing import Final, Self, cast

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver
from httpx_aiohttp import AiohttpTransport

from bridge.delivery.connect import (
    ConnectAttempt,
    GuardedResolver,
    SystemResolver,
    current_attempt,
    guarded_socket,
    os_reason,
)
from bridge.errors import ForbiddenAddressError
from bridge.http_response import Response
from bridge.rules.delivery import Cause, Outcome, PostResult, classify_response
from bridge.rules.egress import EgressPolicy, check_url

_CUT_OFF: Final = (
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientOSError,
    aiohttp.ClientPayloadError,
    ConnectionError,
)
_CAUSES: Final[tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Cause], ...]] = (
    (ForbiddenAddressError, Cause.BLOCKED),
    (aiohttp.ClientConnectorDNSError, Cause.DNS),
    (aiohttp.ClientSSLError, Cause.TLS),
    (aiohttp.ClientConnectorError, Cause.CONNECT),
    (_CUT_OFF, Cause.RESET),
    (TimeoutError, Cause.TIMEOUT),
)
"""The first match counts; anything else is a protocol error."""

_SHOWN: Final = 300
_ROUTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """Limits of a client.

    `response_bytes` of a response are read; if there is more, the connection is closed. An idle connection is kept for
    `keep_alive`. `connections` limits those in use over all endpoints; 0 leaves that to the sender's slots.
    """

    response_bytes: int = 16 * 1024
    keep_alive: timedelta = timedelta(seconds=15)
    connections: int = 0


@dataclass(slots=True, kw_only=True)
class _Attempt(ConnectAttempt):
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    url: httpx.URL
    transport: AiohttpTransport


class WebhookClient:
    """Posts deliveries; an async context manager, to be used inside one event loop.

    Args:
        policy: allowed destinations.
        user_agent: sent with every request.
        clock: the time now, with a zone: a `Retry-After` may be a date.
        limits: see `ClientLimits`.
        tls: verification of certificates; default: the system's.
        resolver: of names; default: the system's DNS. Its addresses are always checked.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        user_agent: str,
        clock: Callable[[], datetime],
        limits: ClientLimits | None = None,
        tls: ssl.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._limits = limits or ClientLimits()
        self._tls = tls or ssl.create_default_context()
        self._resolver = resolver or SystemResolver()
        self._own_headers = {"accept": "*/*", "accept-encoding": "identity", "user-agent": user_agent}
        self._transports = {scheme: self._transport(scheme) for scheme in ("http", "https")}
        self._route = lru_cache(maxsize=_ROUTES)(self._find_route)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in self._transports.values():
            await transport.aclose()

    async def post(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout: timedelta,  # noqa: ASYNC109 - a time-out is a result, not an exception
    ) -> PostResult:
        """Deliver once. Anything that the receiver or the network does is a result; only cancellation is raised.

        Args:
            url: of the endpoint; its addresses are checked for every new connection.
            headers: of this attempt, already signed.
            body: the bytes that were signed.
            timeout: for the whole attempt, from DNS to the last byte of the response.
        """
        attempt = _Attempt()
        current_attempt.set(attempt)
        elapsed = asyncio.get_running_loop().time
        started = elapsed()
        try:
            async with asyncio.timeout(timeout.total_seconds()) as deadline:
                response, excerpt = await self._exchange(attempt, url, {**headers, **self._own_headers}, body)
        except Exception as error:  # noqa: BLE001 - a hostile receiver chooses the error
            late = timeout if deadline.expired() else None
            return _failed(error, attempt, late, timedelta(seconds=elapsed() - started))
        return classify_response(
            response.status_code,
            now=self._clock(),
            duration=timedelta(seconds=elapsed() - started),
            body=excerpt,
            headers=response.headers,
        )

    async def _exchange(
        self, attempt: _Attempt, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[httpx.Response, bytes]:
        route = self._route(url)
        request = httpx.Request("POST", route.url, headers=headers, content=body)
        request.headers.encoding = "ascii"  # otherwise it is detected again for every header
        try:
            return await self._send(attempt, route.transport, request)
        except httpx.TransportError as error:
            if attempt.is_fresh or attempt.status is not None or not isinstance(error.__cause__, _CUT_OFF):
                raise
        # A kept connection that the receiver closed meanwhile is no failure: the request is sent once more.
        return await self._send(attempt, route.transport, request)

    async def _send(
        self, attempt: _Attempt, transport: AiohttpTransport, request: httpx.Request
    ) -> tuple[httpx.Response, bytes]:
        response = await transport.handle_async_request(request)
        attempt.status = response.status_code
        stream = cast("httpx.AsyncByteStream", response.stream)
        excerpt = b""
        try:
            async with aclosing(cast("AsyncGenerator[bytes, None]", aiter(stream))) as chunks:
                async for chunk in chunks:
                    excerpt += chunk
                    if len(excerpt) > self._limits.response_bytes:
                        break
        finally:
            await stream.aclose()  # keeps the connection if the response was read to its end, else closes it
        return response, excerpt[: self._limits.response_bytes]

    def _find_route(self, url: str) -> _Route:
        destination = check_url(url, self._policy)
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ForbiddenAddressError(f"the URL of the endpoint cannot be used: {error}") from error
        return _Route(url=parsed, transport=self._transports[destination.scheme])

    def _transport(self, scheme: str) -> AiohttpTransport:
        return AiohttpTransport(verify=self._tls, trust_env=False, client=partial(self._session, scheme))

    def _session(self, scheme: str) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=self._tls,
            resolver=GuardedResolver(self._resolver, self._policy, scheme),
            socket_factory=partial(guarded_socket, self._policy, scheme),
            keepalive_timeout=self._limits.keep_alive.total_seconds(),
            limit=self._limits.connections,
        )
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, response_class=Response
        )


def _failed(error: Exception, attempt: _Attempt, late: timedelta | None, duration: timedelta) -> PostResult:
    if attempt.forbidden is not None:
        cause, detail = Cause.BLOCKED, str(attempt.forbidden)
    elif late is not None:
        cause, detail = Cause.TIMEOUT, f"no end within {late.total_seconds():g} s"
    else:
        cause, detail = _reason(error)
    if attempt.status is not None:
        detail = f"status {attempt.status}, but the response was cut off: {detail}"
    return PostResult(
        outcome=Outcome.BLOCKED if cause is Cause.BLOCKED else Outcome.RETRYABLE,
        status=attempt.status,
        cause=cause,
        detail=detail[:_SHOWN],
        duration=duration,
    )


def _reason(error: Exception) -> tuple[Cause, str]:
    # httpx's names for aiohttp's errors mislead (a lost connection becomes ConnectTimeout): the original is asked
    origin = error.__cause__ if isinstance(error, httpx.TransportError) and error.__cause__ else error
    cause = next((cause for kinds, cause in _CAUSES if isinstance(origin, kinds)), Cause.PROTOCOL)
    return cause, _detail(origin)


def _detail(error: BaseException) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            certificate = error.certificate_error
            return f"{error.host}: {getattr(certificate, 'verify_message', None) or certificate}"
        case aiohttp.ClientConnectorError():
            return f"{error.host}:{error.port}: {os_reason(error.os_error)}"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed without a response"
        case aiohttp.ClientResponseError():
            return f"the response is not HTTP: {error.message!a}"
        case OSError():
            return os_reason(error)
        case _:
            return str(error)

"""One POST → one `Outcome`: moves the bytes, under one deadline, and only to addresses that `egress` allows.

httpx over the aiohttp transport, used without `httpx.AsyncClient`: a client keeps cookies, follows netrc and logs each
URL, and a webhook's URL is often a secret; none of that belongs here, and it costs a quarter of the speed.

The guard sits where every new connection passes: the resolver sees all answers of a name and refuses the name if one
of them is forbidden; the socket factory sees each address, literals too, before its socket exists. http and https have
a pool each, because plain http is judged more strictly and a connector knows addresses, not schemes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, partial
from types import TracebackType
from typing import Final, Self, cast

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from httpx_aiohttp import AiohttpTransport

from bridge.errors import BridgeError, ForbiddenAddressError
from bridge.webhooks.delivery import Cause, Outcome, Verdict, judge
from bridge.webhooks.egress import EgressPolicy, check_address, check_url

_SCHEMES: Final = ("http", "https")
_CUT_OFF: Final = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError, ConnectionError)
_SHOWN: Final = 200


class UnresolvedNameError(BridgeError):
    """A host name has no address, or DNS does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """What one client takes for itself.

    `answer_bytes` of an answer are read; if there is more, the connection is closed. An idle connection is kept for
    `keep_alive`. `connections` bounds those in use over all endpoints; 0 leaves that to the sender, which is fair
    where a full pool is not: here a slow endpoint would take the seats of the others.
    """

    answer_bytes: int = 16 * 1024
    keep_alive: timedelta = timedelta(seconds=15)
    connections: int = 0


@dataclass(slots=True, kw_only=True)
class _Attempt:
    """What became known along the way, for an attempt that fails half-way."""

    is_fresh: bool = False
    forbidden: ForbiddenAddressError | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    url: httpx.URL
    transport: AiohttpTransport


_attempt: ContextVar[_Attempt] = ContextVar("attempt")


class SystemResolver(AbstractResolver):
    """The system's DNS, one daemon thread per lookup.

    A lookup cannot be cancelled. In the loop's thread pool, a few dead names would hold the seats of the database
    and delay the end of the process; aiohttp asks only once at a time per name, which bounds the threads.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All addresses of a name.

        Raises:
            OSError: DNS has none, or does not answer.
        """
        lookup = partial(socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM)
        try:
            infos = await _in_own_thread(lookup)
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
        return [_resolved(host, port, *info[:3], cast("tuple[str, int]", info[4])) for info in infos]

    async def close(self) -> None:
        """Nothing to release."""


class _GuardedResolver(AbstractResolver):
    """Refuses a name if any of its addresses is forbidden: which one is dialled is chance."""

    def __init__(self, resolver: AbstractResolver, policy: EgressPolicy, scheme: str) -> None:
        self._resolver = resolver
        self._policy = policy
        self._scheme = scheme

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        answers = await self._resolver.resolve(host, port, family)
        for answer in answers:
            check_address(answer["host"], self._policy, scheme=self._scheme)
        return answers

    async def close(self) -> None:
        await self._resolver.close()


class WebhookClient:
    """Posts deliveries; use it as an async context manager, inside one event loop.

    Args:
        policy: which addresses may be called.
        user_agent: sent with every request.
        clock: the time now, with a zone: a `Retry-After` may be a date.
        limits: what the client takes for itself.
        tls: how certificates are verified; the system's certificates if left out.
        resolver: where names are looked up; the system's DNS if left out. Its answers are checked either way.
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
        self._transports = {scheme: self._transport(scheme) for scheme in _SCHEMES}
        self._route = lru_cache(maxsize=4096)(self._find_route)

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

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes, timeout: timedelta) -> Outcome:  # noqa: ASYNC109 - the deadline is part of the contract: from connect to last byte
        """Deliver once. Whatever the receiver or the network does is an outcome; only cancellation is raised.

        Args:
            url: of the endpoint; judged again by the egress policy.
            headers: of this attempt, already signed.
            body: the bytes that were signed.
            timeout: for the whole attempt, from DNS to the last byte of the answer.
        """
        attempt = _Attempt()
        _attempt.set(attempt)
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            async with asyncio.timeout(timeout.total_seconds()) as deadline:
                response, answer = await self._exchange(attempt, url, {**headers, **self._own_headers}, body)
        except Exception as error:  # noqa: BLE001 - whatever a hostile receiver brings about is an outcome
            late = timeout if deadline.expired() else None
            return _failed(error, attempt, late, timedelta(seconds=clock() - started))
        return judge(
            response.status_code,
            now=self._clock(),
            duration=timedelta(seconds=clock() - started),
            answer=answer,
            retry_after=response.headers.get("retry-after"),
            location=response.headers.get("location"),
        )

    async def _exchange(
        self, attempt: _Attempt, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[httpx.Response, bytes]:
        route = self._route(url)
        request = httpx.Request("POST", route.url, headers=headers, content=body)
        try:
            return await self._send(attempt, route.transport, request)
        except httpx.TransportError as error:
            # A kept connection that the receiver closed in the same moment says nothing about the receiver.
            if attempt.is_fresh or attempt.status is not None or not isinstance(error.__cause__, _CUT_OFF):
                raise
        return await self._send(attempt, route.transport, request)

    async def _send(
        self, attempt: _Attempt, transport: AiohttpTransport, request: httpx.Request
    ) -> tuple[httpx.Response, bytes]:
        response = await transport.handle_async_request(request)
        attempt.status = response.status_code
        stream = cast("httpx.AsyncByteStream", response.stream)
        answer = b""
        try:
            async for chunk in stream:
                answer += chunk
                if len(answer) > self._limits.answer_bytes:
                    break
        finally:
            await stream.aclose()  # closes the connection if the answer was not read to its end
        return response, answer[: self._limits.answer_bytes]

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
            resolver=_GuardedResolver(self._resolver, self._policy, scheme),
            socket_factory=partial(_guarded_socket, self._policy, scheme),
            keepalive_timeout=self._limits.keep_alive.total_seconds(),
            limit=self._limits.connections,
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


async def check_endpoint(url: str, policy: EgressPolicy, *, resolver: AbstractResolver | None = None) -> Sequence[str]:
    """Judge a URL as a delivery would, without sending: when an endpoint is saved, tested or examined.

    Returns:
        The addresses that would be dialled.

    Raises:
        ForbiddenAddressError: a delivery would be blocked.
        UnresolvedNameError: the name has no address at this moment.
    """
    destination = check_url(url, policy)
    guarded = _GuardedResolver(resolver or SystemResolver(), policy, destination.scheme)
    try:
        answers = await guarded.resolve(destination.host, destination.port)
    except OSError as error:
        raise UnresolvedNameError(
            f"{destination.host} cannot be resolved ({_os_reason(error)}): check the name and the DNS of this machine"
        ) from error
    return sorted({answer["host"] for answer in answers})


def _guarded_socket(policy: EgressPolicy, scheme: str, info: aiohttp.AddrInfoType) -> socket.socket:
    attempt = _attempt.get()
    attempt.is_fresh = True
    try:
        check_address(info[4][0], policy, scheme=scheme)
    except ForbiddenAddressError as error:
        attempt.forbidden = error  # a race of several addresses would swallow it
        raise
    family, kind, protocol, *_ = info
    return socket.socket(family=family, type=kind, proto=protocol)


async def _in_own_thread[T](lookup: Callable[[], T]) -> T:
    ...

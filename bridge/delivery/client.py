"""One POST → one `PostResult`: sends the bytes under one deadline, and returns the cause of a failure.

httpx's requests through our own transport (`bridge.http_transport`), without `httpx.AsyncClient`: a client would keep
cookies and log every URL, and a webhook's URL is often a secret.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from types import TracebackType
from typing import Final, Self

import httpx

from bridge.errors import ForbiddenAddressError
from bridge.http_response import Response, ResponseReader
from bridge.http_transport import REST, PreparedRequest, Transport, header_lines, target_as_written
from bridge.resolver import Resolver, os_reason
from bridge.rules.delivery import Cause, Outcome, PostResult, classify_response
from bridge.rules.egress import EgressPolicy, check_address, check_url

_ENDPOINTS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """Limits of a client.

    `response_bytes` of a response are read; if there is more, the connection is closed. An idle connection is kept for
    `keep_alive`, and not used again before it has rested. `connections` limits the requests at once over all endpoints;
    0 leaves that to the sender's slots.
    """

    response_bytes: int = 16 * 1024
    keep_alive: timedelta = timedelta(seconds=15)
    rest: timedelta = timedelta(seconds=REST)
    connections: int = 0


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
        resolver: Resolver | None = None,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._limits = limits or ClientLimits()
        self._own_headers = {"accept": "*/*", "accept-encoding": "identity", "user-agent": user_agent}
        self._transport = Transport(
            keep_alive=self._limits.keep_alive.total_seconds(),
            rest=self._limits.rest.total_seconds(),
            limit=self._limits.connections or None,
            tls=tls,
            resolver=resolver,
            check=lambda scheme, address: check_address(address, policy, scheme=scheme),
        )
        self._prepare = lru_cache(maxsize=_ENDPOINTS)(self._prepare_request)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def post(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout: timedelta,  # noqa: ASYNC109 - a time-out is a result, not an exception
    ) -> PostResult:
        """Deliver once. Every error of the receiver or the network is a result; only cancellation is raised.

        Args:
            url: of the endpoint; its addresses are checked for every new connection.
            headers: of this attempt, already signed.
            body: the bytes that were signed.
            timeout: for the whole attempt, from DNS to the last byte of the response.
        """
        reader = ResponseReader(self._limits.response_bytes)
        elapsed = asyncio.get_running_loop().time
        started = elapsed()
        try:
            async with asyncio.timeout(timeout.total_seconds()) as deadline:
                response = await self._send(url, headers, body, reader)
        except Exception as error:  # noqa: BLE001 - a hostile receiver chooses the error
            late = timeout if deadline.expired() else None
            return _failed(error, reader.status, late, timedelta(seconds=elapsed() - started))
        return classify_response(
            response.status,
            now=self._clock(),
            duration=timedelta(seconds=elapsed() - started),
            body=response.body,
            headers={} if response.is_success else response.headers,
        )

    async def _send(self, url: str, headers: Mapping[str, str], body: bytes, reader: ResponseReader) -> Response:
        request = self._prepare(url)
        lines = header_lines((name.encode("ascii"), value.encode("ascii")) for name, value in headers.items())
        return await self._transport.send(request, reader, headers=lines, body=body)

    def _prepare_request(self, url: str) -> PreparedRequest:
        check_url(url, self._policy)
        try:
            request = httpx.Request(
                "POST", url, headers=self._own_headers, extensions={"target": target_as_written(url)}
            )
        except httpx.InvalidURL as error:
            raise ForbiddenAddressError(f"the URL of the endpoint cannot be used: {error}") from error
        return PreparedRequest.of(request)


def _failed(error: Exception, status: int | None, late: timedelta | None, duration: timedelta) -> PostResult:
    if late is not None:
        cause, detail = Cause.TIMEOUT, f"no end within {late.total_seconds():g} s"
    else:
        cause, detail = _reason(error)
    if status is not None:
        detail = f"status {status}, but the response was cut off: {detail}"
    return PostResult(
        outcome=Outcome.BLOCKED if cause is Cause.BLOCKED else Outcome.RETRYABLE,
        status=status,
        cause=cause,
        detail=detail,
        duration=duration,
    )


def _reason(error: Exception) -> tuple[Cause, str]:
    cause = error.__cause__
    match error:
        case ForbiddenAddressError():
            return Cause.BLOCKED, str(error)
        case httpx.ConnectError():
            return _connect_cause(cause), f"{error}: {_detail(cause)}"
        case httpx.ReadError():
            return Cause.RESET, _detail(cause)
        case _:
            return Cause.PROTOCOL, str(error)


def _connect_cause(error: BaseException | None) -> Cause:
    if isinstance(error, socket.gaierror):
        return Cause.DNS
    return Cause.TLS if isinstance(error, ssl.SSLError) else Cause.CONNECT


def _detail(error: BaseException | None) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return os_reason(error) if isinstance(error, OSError) else str(error)

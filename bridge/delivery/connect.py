"""Guarded sockets: the only way from a URL to a connection checks every address before a socket exists.

The rules are in `bridge.rules.egress`. The resolver sees all addresses of a name and refuses the name
if one of them is forbidden, because which one is dialled is chance; the socket factory sees every address, those
written out in a URL too, before its socket exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult

from bridge.errors import BridgeError, ForbiddenAddressError
from bridge.rules.egress import EgressPolicy, check_address, check_url

_AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
_SCOPED: Final = 4


class UnresolvedNameError(BridgeError):
    """A host name has no address, or DNS does not respond."""


@dataclass(slots=True, kw_only=True)
class ConnectAttempt:
    """The connection of an attempt: whether it is a new one, and whether its address was refused."""

    is_fresh: bool = False
    forbidden: ForbiddenAddressError | None = None


current_attempt: ContextVar[ConnectAttempt] = ContextVar("current_attempt")
"""Set before a request is sent: the socket factory gets no other reference to the request."""


class SystemResolver(AbstractResolver):
    """The system's DNS, one daemon thread per lookup.

    A lookup cannot be cancelled. In the loop's thread pool, a few dead names would take the threads of the database
    and delay the end of the process. aiohttp looks a name up once at a time, which bounds the threads.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All addresses of a name.

        Raises:
            OSError: it has none, or DNS does not respond.
        """
        return [_resolved(host, port, info) for info in await _look_up(host, port, family)]

    async def close(self) -> None:
        """There is nothing to release."""


class GuardedResolver(AbstractResolver):
    """Refuses a name if any of its addresses is forbidden to this scheme."""

    def __init__(self, resolver: AbstractResolver, policy: EgressPolicy, scheme: str) -> None:
        self._resolver = resolver
        self._policy = policy
        self._scheme = scheme

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All addresses of a name.

        Raises:
            ForbiddenAddressError: one of them may not be called.
            OSError: it has none, or DNS does not respond.
        """
        found = await self._resolver.resolve(host, port, family)
        for address in found:
            check_address(address["host"], self._policy, scheme=self._scheme)
        return found

    async def close(self) -> None:
        """Close the guarded resolver."""
        await self._resolver.close()


def guarded_socket(policy: EgressPolicy, scheme: str, info: AddrInfoType) -> socket.socket:
    """A socket for an address that may be called.

    Raises:
        ForbiddenAddressError: it may not; also noted in `current_attempt`, since a race of addresses swallows errors.
    """
    dial = current_attempt.get()
    dial.is_fresh = True
    try:
        check_address(info[4][0], policy, scheme=scheme)
    except ForbiddenAddressError as error:
        dial.forbidden = error
        raise
    family, kind, protocol, *_ = info
    return socket.socket(family=family, type=kind, proto=protocol)


async def check_endpoint(url: str, policy: EgressPolicy, *, resolver: AbstractResolver | None = None) -> Sequence[str]:
    """Check a URL as a delivery does, without sending: when an endpoint is saved, tested or examined.

    Returns:
        The addresses that would be dialled.

    Raises:
        ForbiddenAddressError: a delivery would be blocked.
        UnresolvedNameError: the name has no address at this moment.
    """
    destination = check_url(url, policy)
    guarded = GuardedResolver(resolver or SystemResolver(), policy, destination.scheme)
    try:
        found = await guarded.resolve(destination.host, destination.port)
    except OSError as error:
        raise UnresolvedNameError(
            f"{destination.host} cannot be resolved ({os_reason(error)}): check the name, and the DNS of this machine"
        ) from error
    return sorted({address["host"] for address in found})


def os_reason(error: OSError) -> str:
    """The system's message, without the number and without the addresses that asyncio adds."""
    if isinstance(error, socket.gaierror | ssl.SSLError) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno).lower()


async def _look_up(host: str, port: int, family: socket.AddressFamily) -> Sequence[_AddressInfo]:
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Sequence[_AddressInfo]] = loop.create_future()

    def finish(result: Sequence[_AddressInfo] | OSError) -> None:
        if found.done():
            return
        if isinstance(result, OSError):
            found.set_exception(result)
        else:
            found.set_result(result)

    def run() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(finish, _getaddrinfo(host, port, family))

    threading.Thread(target=run, name="dns", daemon=True).start()
    return await found


def _getaddrinfo(host: str, port: int, family: socket.AddressFamily) -> Sequence[_AddressInfo] | OSError:
    try:
        return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except OSError as error:
        return error
    except UnicodeError:
        return socket.gaierror(socket.EAI_NONAME, "not a host name")


def _resolved(host: str, port: int, info: _AddressInfo) -> ResolveResult:
    family, _, protocol, _, address = info
    scope = f"%{address[3]}" if len(address) == _SCOPED and address[3] else ""
    return ResolveResult(
        hostname=host,
        host=f"{address[0]}{scope}",
        port=port,
        family=family,
        proto=protocol,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )

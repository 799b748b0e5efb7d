"""Addresses of host names, from the system's DNS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from ipaddress import IPv4Address, ip_address
from typing import Any, Final, Protocol

AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
"""As `socket.getaddrinfo` lists them."""
_SCOPED: Final = 4


class Resolver(Protocol):
    """Finds the addresses of a host."""

    async def resolve(self, host: str, port: int) -> list[AddressInfo]:
        """All addresses of a name.

        Raises:
            OSError: it has none, or DNS does not respond.
        """
        ...


class SystemResolver:
    """The system's DNS, one daemon thread per lookup.

    A lookup cannot be cancelled. In the loop's thread pool, a few dead names would take the threads of the database
    and delay the end of the process.
    """

    async def resolve(self, host: str, port: int) -> list[AddressInfo]:
        """As `Resolver.resolve`."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[AddressInfo]] = loop.create_future()

        def finish(result: list[AddressInfo] | OSError) -> None:
            if found.done():
                return
            if isinstance(result, OSError):
                found.set_exception(result)
            else:
                found.set_result(result)

        def run() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(finish, _getaddrinfo(host, port))

        threading.Thread(target=run, name="dns", daemon=True).start()
        return await found


def literal_address(host: str, port: int) -> AddressInfo | None:
    """The address that a host is, if it is no name."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


def address_of(info: AddressInfo) -> str:
    """The address as text, with its scope if it has one."""
    address = info[4]
    return f"{address[0]}%{address[3]}" if len(address) == _SCOPED and address[3] else str(address[0])


def os_reason(error: OSError) -> str:
    """The system's message, without the number and without the addresses that asyncio adds."""
    if isinstance(error, socket.gaierror | ssl.SSLError) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno).lower()


def _getaddrinfo(host: str, port: int) -> list[AddressInfo] | OSError:
    try:
        return list(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
    except OSError as error:
        return error
    except UnicodeError:
        return socket.gaierror(socket.EAI_NONAME, "not a host name")

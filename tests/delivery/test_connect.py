from __future__ import annotations

import asyncio
import socket
import threading
from functools import partial
from ipaddress import ip_network

import aiohttp
import pytest

from bridge.delivery.connect import (
    ConnectAttempt,
    GuardedResolver,
    SystemResolver,
    UnresolvedNameError,
    check_endpoint,
    current_attempt,
    guarded_socket,
)
from bridge.errors import BridgeError, ForbiddenAddressError
from bridge.rules.egress import EgressPolicy
from tests.harness.names import Names

CLOSED = EgressPolicy()


async def test_an_endpoint_on_public_addresses_is_accepted() -> None:
    names = Names(shop=[["1.1.1.1", "2606:4700:4700::1111"]])

    assert await check_endpoint("https://shop/hook", CLOSED, resolver=names) == ["1.1.1.1", "2606:4700:4700::1111"]


async def test_a_literal_address_needs_no_lookup() -> None:
    assert await check_endpoint("https://1.1.1.1/hook", CLOSED) == ["1.1.1.1"]


async def test_an_endpoint_on_an_internal_address_is_refused(loopback: EgressPolicy) -> None:
    assert "127.0.0.1" in await check_endpoint("http://localhost:8000/hook", OPEN_LOOPBACK)
    with pytest.raises(ForbiddenAddressError, match="loopback"):
        await check_endpoint("https://localhost:8000/hook", CLOSED)
    with pytest.raises(ForbiddenAddressError, match="private"):
        await check_endpoint("https://intranet/", loopback, resolver=Names(intranet=[["127.0.0.1", "10.0.0.1"]]))


async def test_a_name_is_checked_again_at_each_lookup() -> None:
    names = Names(rebinding=[["1.1.1.1"], ["169.254.169.254"]])
    await check_endpoint("https://rebinding/", CLOSED, resolver=names)

    with pytest.raises(ForbiddenAddressError, match="metadata"):
        await check_endpoint("https://rebinding/", CLOSED, resolver=names)


@pytest.mark.parametrize("host", ["no-such-name.invalid", "x" * 64])
async def test_a_name_without_an_address_is_an_error_of_its_own(host: str) -> None:
    with pytest.raises(UnresolvedNameError, match="check the name") as caught:
        await check_endpoint(f"https://{host}/", CLOSED)

    assert isinstance(caught.value, BridgeError)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "::ffff:127.0.0.1", "localhost"])
async def test_unusual_forms_of_an_address_are_refused_after_resolution(host: str) -> None:
    with pytest.raises(ForbiddenAddressError, match="loopback"):
        await GuardedResolver(SystemResolver(), CLOSED, "https").resolve(host, 443)


async def test_a_scoped_address_is_refused_even_if_its_network_is_allowed() -> None:
    policy = EgressPolicy(allow_private_networks=(ip_network("fe80::/10"),))

    with pytest.raises(ForbiddenAddressError, match="%"):
        await GuardedResolver(Names(printer=[["fe80::1%eth0"]]), policy, "https").resolve("printer", 443)


async def test_a_hanging_lookup_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    started = asyncio.Event()
    ended = threading.Event()

    def getaddrinfo(*_: object) -> list[object]:
        loop.call_soon_threadsafe(started.set)
        ended.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    lookup = asyncio.create_task(SystemResolver().resolve("slow", 443))
    await started.wait()
    lookup.cancel()

    with pytest.raises(asyncio.CancelledError):
        await lookup
    ended.set()


async def test_the_socket_factory_refuses_every_address_of_a_name() -> None:
    attempt = ConnectAttempt()
    current_attempt.set(attempt)
    connector = aiohttp.TCPConnector(
        resolver=Names(internal=[["127.0.0.1", "127.0.0.2"]]), socket_factory=partial(guarded_socket, CLOSED, "https")
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises(Exception):  # noqa: B017, PT011 - it depends on which connection fails first
                await session.post(f"http://internal:{listener.getsockname()[1]}/")

        assert isinstance(attempt.forbidden, ForbiddenAddressError)
        with pytest.raises(BlockingIOError):
            listener.accept()


OPEN_LOOPBACK = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))

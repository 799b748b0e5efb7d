from __future__ import annotations

import asyncio
import socket
import threading
from functools import partial
from ipaddress import ip_network

import aiohappyeyeballs
import pytest

from bridge.delivery.connect import UnresolvedNameError, check_endpoint
from bridge.errors import BridgeError, ForbiddenAddressError
from bridge.http_response import ResponseReader
from bridge.http_transport import Origin, PreparedRequest, Transport
from bridge.resolver import SystemResolver
from bridge.rules.egress import EgressPolicy, check_address
from tests.harness.names import Names

CLOSED = EgressPolicy()


async def test_the_addresses_of_an_endpoint_are_returned() -> None:
    addresses = ["1.1.1.1", "2606:4700:4700::1111"]

    assert await check_endpoint("https://shop/hook", CLOSED, resolver=Names(shop=[addresses])) == addresses
    assert await check_endpoint("https://1.1.1.1/hook", CLOSED) == ["1.1.1.1"]


@pytest.mark.parametrize(("addresses", "reason"), [(["127.0.0.1"], "loopback"), (["1.1.1.1", "10.0.0.1"], "private")])
async def test_an_endpoint_on_an_internal_address_is_refused(addresses: list[str], reason: str) -> None:
    with pytest.raises(ForbiddenAddressError, match=reason):
        await check_endpoint("https://intranet/", CLOSED, resolver=Names(intranet=[addresses]))


@pytest.mark.parametrize("host", ["no-such-name.invalid", "x" * 64])
async def test_a_name_without_an_address_is_an_error_of_its_own(host: str) -> None:
    with pytest.raises(UnresolvedNameError, match="check the name") as caught:
        await check_endpoint(f"https://{host}/", CLOSED)

    assert isinstance(caught.value, BridgeError)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "::ffff:127.0.0.1", "localhost"])
async def test_every_address_is_checked_before_a_socket_for_it_exists(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    monkeypatch.setattr(aiohappyeyeballs, "start_connection", made.append)
    transport = Transport(keep_alive=1, check=partial(refuse, CLOSED))
    request = PreparedRequest(origin=Origin("https", host, 443), method=b"GET", target=b"/", headers=b"")

    with pytest.raises(ForbiddenAddressError, match="loopback"):
        await transport.send(request, ResponseReader(1))
    assert not made


async def test_a_scoped_address_is_refused_even_if_its_network_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = EgressPolicy(allow_private_networks=(ip_network("fe80::/10"),))
    scoped = (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("fe80::1", 443, 0, 3))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [scoped])

    with pytest.raises(ForbiddenAddressError, match="%"):
        await check_endpoint("https://printer/", policy)


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


def refuse(policy: EgressPolicy, scheme: str, address: str) -> None:
    check_address(address, policy, scheme=scheme)

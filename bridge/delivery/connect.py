"""Guarded connections: every address of a host is checked before a socket for one of them exists.

The rules are in `bridge.rules.egress`. A name is refused if one of its addresses is forbidden, because any of them
may be dialled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bridge.errors import BridgeError
from bridge.resolver import Resolver, SystemResolver, address_of, os_reason
from bridge.rules.egress import EgressPolicy, check_address, check_url

DNS_SECONDS = 5.0


class UnresolvedNameError(BridgeError):
    """A host name has no address, or DNS does not respond."""


async def check_new_endpoint(url: str, policy: EgressPolicy) -> str | None:
    """Look up the address of a new endpoint; returns a warning if it has none at the moment.

    Raises:
        ForbiddenAddressError: deliveries to it would be blocked.
    """
    try:
        async with asyncio.timeout(DNS_SECONDS):
            await check_endpoint(url, policy)
    except UnresolvedNameError as error:
        return f"{error}; deliveries wait until the name has an address"
    except TimeoutError:
        return f"DNS did not respond within {DNS_SECONDS:g} s, so the address is not checked"
    return None


async def check_endpoint(url: str, policy: EgressPolicy, *, resolver: Resolver | None = None) -> Sequence[str]:
    """Check a URL as a delivery does, without sending: when an endpoint is saved, tested or examined.

    Returns:
        The addresses that would be dialled.

    Raises:
        ForbiddenAddressError: a delivery would be blocked.
        UnresolvedNameError: the name has no address at this moment.
    """
    destination = check_url(url, policy)
    try:
        found = await (resolver or SystemResolver()).resolve(destination.host, destination.port)
    except OSError as error:
        raise UnresolvedNameError(
            f"{destination.host} cannot be resolved ({os_reason(error)}): check the name, and the DNS of this machine"
        ) from error
    addresses = sorted({address_of(info) for info in found})
    for address in addresses:
        check_address(address, policy, scheme=destination.scheme)
    return addresses

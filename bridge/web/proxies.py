"""The client of a request, as trusted proxies report it, and signs of a proxy."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.datastructures import Headers

Network = IPv4Network | IPv6Network
TRACES = ("x-forwarded-for", "forwarded", "via")


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a text is (with brackets or a zone, too); None if it is a name."""
    try:
        address = ip_address(text.strip().removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    address = parse_address(host)
    return address is not None and address.is_loopback


def is_proxied(headers: Headers) -> bool:
    """Return whether a header shows that the request came through a proxy."""
    return any(name in headers for name in TRACES)


def is_trusted(host: str, networks: Collection[Network]) -> bool:
    address = parse_address(host)
    return address is not None and any(address in network for network in networks)


def client_of(peer: str, headers: Headers, trusted: Collection[Network]) -> str:
    """Return the address of the client: the last one in `X-Forwarded-For` that is not a trusted proxy."""
    client = peer
    hops = [hop.strip() for value in headers.getlist("x-forwarded-for") for hop in value.split(",")]
    while hops and is_trusted(client, trusted) and parse_address(hops[-1]) is not None:
        client = str(parse_address(hops.pop()))
    return client

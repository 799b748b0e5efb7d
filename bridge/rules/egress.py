"""Allowed destinations of deliveries: URLs, and the addresses behind their names.

A URL is checked when an endpoint is saved, tested and sent to; an address before each connection, after DNS and before
a socket exists, because a name may resolve to anything and differently every time. Whether plain http is allowed
depends on the address: without `allow_http` it may only go to an allowed private network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit

from bridge.errors import ForbiddenAddressError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SPECIAL_PURPOSE: Final = {
    "this network": ("0.0.0.0/8",),
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
    "carrier-grade NAT": ("100.64.0.0/10",),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "cloud platform": ("168.63.129.16/32",),
    "IETF protocol": ("192.0.0.0/24", "2001::/23"),
    "documentation": ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"),
    "AS112 or AMT anycast": ("192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24", "2620:4f:8000::/48"),
    "6to4": ("192.88.99.0/24", "2002::/16"),
    "benchmarking": ("198.18.0.0/15",),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "reserved": ("240.0.0.0/4", "::/8"),
    "local NAT64": ("64:ff9b:1::/48",),
    "discard-only": ("100::/64", "100:0:0:1::/64"),
    "segment routing": ("5f00::/16",),
}
FORBIDDEN: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(cidr), kind) for kind, cidrs in _SPECIAL_PURPOSE.items() for cidr in cidrs
)
NEVER_ALLOWED: Final[frozenset[Address]] = frozenset(
    ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "fd00:ec2::254", "168.63.129.16", "100.100.100.200")
)
"""Metadata services of clouds, which hand out the machine's credentials."""

_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOOPBACK_V4: Final = IPv4Network("127.0.0.0/8")
_LOCALHOST_V4: Final = IPv4Address("127.0.0.1")
_LOCALHOST_V6: Final = IPv6Address("::1")
_PORTS: Final = {"http": 80, "https": 443}
_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_ENDS_IN_NUMBER: Final = re.compile(r"(^|\.)([0-9]+|0x[0-9a-f]*)\.?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressPolicy:
    """Exceptions that the operator allows (`[delivery]`) beyond public addresses over https."""

    allow_http: bool = False
    allow_private_networks: tuple[Network, ...] = ()

    def allows_privately(self, address: Address) -> bool:
        """Whether the address is in one of the allowed private networks.

        `localhost` is 127.0.0.1 or ::1, depending on the system: allowing one of them allows both.
        """
        also = _LOCALHOST_V4 if address == _LOCALHOST_V6 else _LOCALHOST_V6 if address in _LOOPBACK_V4 else address
        return any(address in network or also in network for network in self.allow_private_networks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Scheme, host (of an IPv6 address without brackets) and port of a URL."""

    scheme: str
    host: str
    port: int


def check_url(url: str, policy: EgressPolicy) -> Destination:
    """Check what can be checked before DNS: the form of the URL, its scheme, and a literal address.

    Raises:
        ForbiddenAddressError: nothing may be sent there. Addresses of names are checked by `check_address`.
    """
    parts, port = _split(url)
    if parts.scheme not in _PORTS:
        raise ForbiddenAddressError("the URL must begin with https:// or http://")
    if "@" in parts.netloc:
        raise ForbiddenAddressError(
            "the URL contains a user name or password: put it into a header of the endpoint instead"
        )
    destination = Destination(scheme=parts.scheme, host=_host(parts), port=port or _PORTS[parts.scheme])
    literal = _parsed(destination.host)
    if literal is not None:
        check_address(literal, policy, scheme=parts.scheme)
    elif parts.scheme == "http" and not policy.allow_http and not policy.allow_private_networks:
        raise _plain_http(destination.host)
    return destination


def check_address(address: str | Address, policy: EgressPolicy, *, scheme: str) -> None:
    """Check an address before a connection is made to it.

    Args:
        address: as DNS, or the URL itself, gave it.
        policy: the exceptions that the operator allows.
        scheme: `http` is refused outside allowed private networks unless `allow_http`.

    Raises:
        ForbiddenAddressError: this address may not be called.
    """
    dialled = _parsed(address) if isinstance(address, str) else address
    if dialled is None or getattr(dialled, "scope_id", None):
        raise ForbiddenAddressError(f"{address} is not a plain IP address: write it without a scope (%) or remove it")
    reached = _embedded(dialled) or dialled
    if not NEVER_ALLOWED.isdisjoint((dialled, reached, _six_to_four(dialled))):
        raise ForbiddenAddressError(f"{dialled} is a cloud metadata address: it is never called, whatever is allowed")
    if policy.allows_privately(reached) or policy.allows_privately(dialled):
        return
    kind = _forbidden_kind(reached)
    if kind is not None:
        raise ForbiddenAddressError(
            f"{dialled} is not a public address ({kind}): use a public one, or open its network"
            " with allow_private_networks under [delivery]"
        )
    if scheme != "https" and not policy.allow_http:
        raise _plain_http(str(dialled))


def _split(url: str) -> tuple[SplitResult, int | None]:
    if _UNPRINTABLE.search(url):
        raise ForbiddenAddressError("the URL contains a space, a control character or a backslash: remove or encode it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ForbiddenAddressError("the URL cannot be read: it should look like https://host:port/path") from error
    if port == 0:
        raise ForbiddenAddressError("the URL names port 0, which cannot be listened on: change the port")
    return parts, port


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if not host:
        raise ForbiddenAddressError("the URL names no host: it should look like https://host/path")
    if "%" in host:
        raise ForbiddenAddressError(
            f"the host {host!r} contains a % (an address scope or an encoded character): remove it"
        )
    if _parsed(host) is None and (":" in host or _ENDS_IN_NUMBER.search(host)):
        raise ForbiddenAddressError(
            f"{host!r} is an unusual way to write an IP address: write it in full, as in 203.0.113.7 or [2001:db8::7]"
        )
    return host


def _parsed(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _embedded(address: Address) -> IPv4Address | None:
    """The IPv4 address that is reached through this IPv6 address."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped


def _six_to_four(address: Address) -> IPv4Address | None:
    return address.sixtofour if isinstance(address, IPv6Address) else None


def _forbidden_kind(address: Address) -> str | None:
    return next((kind for network, kind in FORBIDDEN if address in network), None)


def _plain_http(host: str) -> ForbiddenAddressError:
    return ForbiddenAddressError(
        f"plain http to {host} is not encrypted: use https, or set allow_http under [delivery]"
    )

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import ForbiddenAddressError
from bridge.rules.egress import FORBIDDEN, Destination, EgressPolicy, check_address, check_url

CLOSED = EgressPolicy()
LOOPBACK = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))
WIDE_OPEN = EgressPolicy(allow_http=True, allow_private_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))

# first and last address of each special range
TABLE = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
    "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48",
    "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
]  # fmt: skip
METADATA = ["169.254.169.254", "169.254.170.2", "fd00:ec2::254", "168.63.129.16", "100.100.100.200"]


@pytest.mark.parametrize("cidr", TABLE)
def test_both_ends_of_every_special_range_are_forbidden(cidr: str) -> None:
    network = ip_network(cidr)

    for address in (network.network_address, network.broadcast_address):
        with pytest.raises(ForbiddenAddressError):
            check_address(str(address), CLOSED, scheme="https")


@pytest.mark.parametrize(
    "address",
    ["::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::7f00:1", "64:ff9b::169.254.169.254",
     "2002:7f00:1::1", "ff02::1", "fec0::1", "255.255.255.255", "ff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
)  # fmt: skip
def test_addresses_that_is_global_gets_wrong_are_forbidden(address: str) -> None:
    with pytest.raises(ForbiddenAddressError):
        check_address(address, CLOSED, scheme="https")


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
     "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255", "192.169.0.0",
     "198.17.255.255", "198.20.0.0", "223.255.255.255", "168.63.129.15", "168.63.129.17",
     "2606:4700:4700::1111", "2001:200::1", "2003::1", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"],
)  # fmt: skip
def test_the_public_neighbours_of_the_ranges_are_allowed(address: str) -> None:
    check_address(address, CLOSED, scheme="https")


@given(st.ip_addresses(v=4))
def test_an_ipv6_form_of_an_ipv4_address_is_treated_like_that_address(address: IPv4Address) -> None:
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        spelled = IPv6Address(int(ip_address(prefix)) | int(address))
        assert is_refused(str(spelled), CLOSED) == is_refused(str(address), CLOSED)
        assert is_refused(str(spelled), LOOPBACK) == is_refused(str(address), LOOPBACK)


@given(st.ip_addresses())
def test_every_forbidden_range_is_honoured_and_nothing_else_is_refused(address: IPv4Address | IPv6Address) -> None:
    embedded = address.version == 6 and (address.ipv4_mapped or address in ip_network("64:ff9b::/96"))
    listed = any(address in network for network, _ in FORBIDDEN)

    assert embedded or is_refused(str(address), CLOSED) == listed


@pytest.mark.parametrize("address", METADATA)
def test_cloud_metadata_stays_forbidden_even_if_every_network_is_allowed(address: str) -> None:
    spellings = [address]
    if ":" not in address:
        quad = int(IPv4Address(address))
        spellings += [f"::ffff:{address}", f"64:ff9b::{address}", str(IPv6Address((0x2002 << 112) | (quad << 80) | 1))]
    for spelling in spellings:
        with pytest.raises(ForbiddenAddressError, match="metadata"):
            check_address(spelling, WIDE_OPEN, scheme="https")


def test_an_allowed_network_is_open_and_its_neighbours_are_not() -> None:
    policy = EgressPolicy(allow_private_networks=(IPv4Network("10.1.0.0/16"),))

    check_address("10.1.255.255", policy, scheme="https")
    with pytest.raises(ForbiddenAddressError, match=r"10\.2\.0\.0 .*allow_private_networks"):
        check_address("10.2.0.0", policy, scheme="https")


@pytest.mark.parametrize(
    ("network", "opened", "closed"),
    [
        ("127.0.0.0/8", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"], ["::2", "10.0.0.1"]),
        ("127.0.0.1/32", ["127.0.0.1", "::1"], ["127.0.0.2"]),
        ("::1/128", ["::1", "127.0.0.1", "127.9.9.9"], ["::2", "10.0.0.1"]),
        ("127.0.0.2/32", ["127.0.0.2"], ["127.0.0.1", "::1"]),
    ],
)
def test_localhost_is_allowed_in_both_forms(network: str, opened: list[str], closed: list[str]) -> None:
    policy = EgressPolicy(allow_private_networks=(ip_network(network),))

    assert not any(is_refused(address, policy) for address in opened)
    assert all(is_refused(address, policy) for address in closed)
    check_url(f"http://[{opened[-1]}]/" if ":" in opened[-1] else f"http://{opened[-1]}/", policy)


@pytest.mark.parametrize("address", ["fe80::1%eth0", "fe80::1%1", "localhost", "127.1", "", "1.1.1.1%x"])
def test_text_that_is_not_a_plain_address_is_always_refused(address: str) -> None:
    with pytest.raises(ForbiddenAddressError, match="not a plain IP address"):
        check_address(address, WIDE_OPEN, scheme="https")


@pytest.mark.parametrize(
    ("policy", "address", "allowed"),
    [
        (CLOSED, "1.1.1.1", False),
        (EgressPolicy(allow_http=True), "1.1.1.1", True),
        (EgressPolicy(allow_http=True), "127.0.0.1", False),
        (LOOPBACK, "127.0.0.1", True),
        (LOOPBACK, "::ffff:127.0.0.1", True),
        (LOOPBACK, "1.1.1.1", False),
        (LOOPBACK, "10.0.0.1", False),
    ],
)
def test_plain_http_needs_an_allowed_network_or_allow_http(
    policy: EgressPolicy, address: str, *, allowed: bool
) -> None:
    assert is_refused(address, policy, scheme="http") != allowed


@pytest.mark.parametrize(
    ("url", "destination"),
    [
        ("https://example.com/hook?x=1#y", Destination(scheme="https", host="example.com", port=443)),
        ("HTTPS://Example.COM:8443", Destination(scheme="https", host="example.com", port=8443)),
        ("https://1.1.1.1/", Destination(scheme="https", host="1.1.1.1", port=443)),
        ("https://[2606:4700::1111]:444/", Destination(scheme="https", host="2606:4700::1111", port=444)),
        ("https://my_service.in-1.example/", Destination(scheme="https", host="my_service.in-1.example", port=443)),
    ],
)  # fmt: skip
def test_an_ordinary_url_has_a_destination(url: str, destination: Destination) -> None:
    assert check_url(url, CLOSED) == destination


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.com/", "must begin with https"),
        ("example.com/hook", "must begin with https"),
        ("https://user:pass@example.com/", "user name or password"),
        ("https:///path", "names no host"),
        ("https://[fe80::1%25eth0]/", "contains a %"),
        ("https://ex%61mple.com/", "contains a %"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:99999/", "cannot be read"),
        ("https://[::1", "cannot be read"),
        ("https://example.com/a b", "space"),
        ("https://example.com\\@127.0.0.1/", "backslash"),
        ("https://exa\tmple.com/", "control character"),
        (" https://example.com/", "space"),
        ("https://127.0.0.1/", "loopback"),
        ("https://[::ffff:127.0.0.1]/", "loopback"),
        ("https://169.254.169.254/latest/meta-data", "metadata"),
        ("http://1.1.1.1/", "plain http"),
        ("http://example.com/", "plain http"),
        ("http://127.0.0.1/", "loopback"),
    ],
)
def test_a_url_that_may_not_be_called_is_refused_with_the_reason(url: str, message: str) -> None:
    with pytest.raises(ForbiddenAddressError, match=message) as caught:
        check_url(url, CLOSED)

    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["127.1", "2130706433", "0x7f000001", "0X7F.1", "0177.0.0.1", "0", "127.0.0.1.", "1.2.3", "256.1.1.1", "1.1.1.1.1",
     "example.127"],
)  # fmt: skip
def test_an_unusual_form_of_an_address_is_always_refused(host: str) -> None:
    with pytest.raises(ForbiddenAddressError, match="unusual way"):
        check_url(f"https://{host}/", WIDE_OPEN)


def test_plain_http_to_a_name_is_checked_by_address_where_a_network_is_allowed() -> None:
    assert check_url("http://localhost:8000/", LOOPBACK).port == 8000


@given(st.text())
def test_any_text_is_either_a_valid_url_or_refused(url: str) -> None:
    for text in (url, f"https://{url}", f"http://127.0.0.1{url}"):
        try:
            destination = check_url(text, LOOPBACK)
        except ForbiddenAddressError:
            continue
        assert destination.host
        assert destination.scheme in {"http", "https"}
        assert 1 <= destination.port <= 65535


def is_refused(address: str, policy: EgressPolicy, scheme: str = "https") -> bool:
    try:
        check_address(address, policy, scheme=scheme)
    except ForbiddenAddressError:
        return True
    return False

"""What the values of single settings must read_health like; each check raises ValueError with a sentence for the operator.

A value that may be secret (a URL can be: many receivers put a token in its path) is never repeated in a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator

from bridge.config.words import did_you_mean, one_of
from bridge.events.types import EventType

_SOURCE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DATABASE_PREFIXES: Final = ("sqlite:///", "postgresql://", "postgres://")
_LISTEN: Final = re.compile(r"(?P<host>.*):(?P<port>[0-9]{1,5})")
_LAST_PORT: Final = 65_535
SLOWEST_RATE: Final = 0.0003
FASTEST_RATE: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddress:
    """Where the web server listens; port 0 lets the system choose one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect; a name other than localhost could mean any address."""
        if self.host == "localhost":
            return True
        try:
            address = ip_address(self.host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def checked(check: Callable[[str], object]) -> AfterValidator:
    """A pydantic validator that keeps the text when the check has nothing against it."""

    def keep(text: str) -> str:
        check(text)
        return text

    return AfterValidator(keep)


def choice(*words: str) -> AfterValidator:
    """A pydantic validator for one of a few words."""

    def check(text: str) -> None:
        if text not in words:
            raise ValueError(f"must be {one_of(words)}{did_you_mean(text, words)}")

    return checked(check)


def check_rate(rate: float) -> float:
    """Times a second; what is slower than once an hour, or faster than any machine, is a mistake."""
    if rate != 0 and not SLOWEST_RATE <= rate <= FASTEST_RATE:
        raise ValueError(f"must be 0 (unlimited) or from {SLOWEST_RATE} (about once an hour) to {FASTEST_RATE:,}")
    return rate


def check_label(text: str) -> None:
    """Names and ids end up in logs, pages and URLs."""
    if not text.strip():
        raise ValueError("must not be empty")
    if text != text.strip():
        raise ValueError("must not begin or end with a space")
    if not text.isprintable():
        raise ValueError("must not contain control characters")


def check_room_id(text: str) -> None:
    """An opaque name, except that a path must not be able to climb: it is a segment of the upstream's URL."""
    check_label(text)
    if text in (".", ".."):
        raise ValueError("cannot be the name of a room")


def check_source_name(text: str) -> None:
    """Source names are part of setting keys and environment variables."""
    if not _SOURCE_NAME.fullmatch(text):
        raise ValueError("a source's name is 1 to 64 letters, digits, _ and -")


def check_credential(text: str) -> None:
    """What is sent as a header must not be able to start another one."""
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("contains a character that a key cannot have: a space, a line break or one outside ASCII")


def check_timezone(text: str) -> None:
    """An IANA name, as `ZoneInfo` takes it."""
    try:
        ZoneInfo(text)
    except (ValueError, LookupError, OSError):
        hint = did_you_mean(text, available_timezones())
        raise ValueError(f'is not a time zone: use an IANA name, like "Europe/Berlin" or "UTC"{hint}') from None


def check_database_url(text: str) -> None:
    """SQLite in a file, or PostgreSQL; the sentence never repeats the URL, it may hold a password."""
    if not text.startswith(_DATABASE_PREFIXES):
        raise ValueError("must be sqlite:///file.db (relative to the current directory) or postgresql://user@host/name")
    if not text.isprintable():
        raise ValueError("contains a control character")
    if text.startswith("sqlite:"):
        if text.removeprefix("sqlite:///").partition("?")[0] in ("", ":memory:"):
            raise ValueError("must name a file: a database in memory would forget everything at every start")
        if "?" in text or text.startswith("sqlite:///file:"):
            raise ValueError("must be only the name of a file: options have no effect")
        return
    authority, _, path = text.partition("://")[2].partition("/")
    if authority.count("@") > 1 or "@" in path.partition("?")[0]:
        raise ValueError("has a character in its user or password that must be percent-encoded: %40 for @, %2F for /")
    _split(text)


def check_http_url(text: str) -> None:
    """A URL that can be called, without user info: http or https and a host."""
    if not text.isprintable() or " " in text or "\\" in text:
        raise ValueError("contains a character that a URL cannot have: a space, a control character or a backslash")
    parts = _split(text)
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with https:// or http://")
    if "@" in parts.netloc:
        raise ValueError("must not carry a user name or password: send credentials in a header instead")
    if not parts.hostname:
        raise ValueError("names no host")
    if "%" in parts.hostname:
        raise ValueError("must not name a network interface (%) with the address")


def check_base_url(text: str) -> None:
    """The part of the upstream's URLs before the route."""
    check_http_url(text)
    if "?" in text or "#" in text:
        raise ValueError("must end with the path: no ? and no #")


def check_event_glob(text: str) -> None:
    """A glob that no type matches is a typing mistake: it would silently deliver nothing."""
    types = [str(known) for known in EventType]
    if not any(fnmatchcase(known, text) for known in types):
        families = {f"{known.split('.')[0]}.*" for known in types}
        hint = did_you_mean(text, [*types, *sorted(families)])
        raise ValueError(f"matches no event type{hint or f'; the types are {one_of(types)}'}")


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """One CIDR. Raises ValueError with a sentence for the operator."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError('is not a network: write a CIDR, like "10.0.0.0/8" or "127.0.0.0/8"') from None
    if "/" in text and ip_address(text.partition("/")[0]) != network.network_address:
        raise ValueError(f'has bits behind its prefix; did you mean "{network}"?')
    return network


def parse_listen(text: str) -> ListenAddress | None:
    """`host:port` or `[IPv6]:port`; an empty text is off (None). Raises ValueError with a sentence for the operator."""
    if not text:
        return None
    parts = _LISTEN.fullmatch(text)
    if parts is None or int(parts["port"]) > _LAST_PORT:
        raise ValueError('must be an address and a port, like "127.0.0.1:8080", or "" for off')
    host, port = parts["host"], parts["port"]
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or " " in bare:
        raise ValueError(f'names no address: "127.0.0.1:{port}" for this machine, "0.0.0.0:{port}" for every network')
    if ":" in bare and host == bare:
        raise ValueError('must have its IPv6 address in brackets, like "[::1]:8080"')
    return ListenAddress(host=bare, port=int(port))


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL: check host and port, and percent-encode special characters") from None
    if port == 0:
        raise ValueError("names port 0, which nobody listens on")
    return parts

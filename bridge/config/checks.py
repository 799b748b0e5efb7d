"""Checks of single values; each returns the value or raises ValueError with a sentence for the operator.

A value that may be secret (many receivers put a token into their URL) is never repeated in the sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, TypeVar
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BeforeValidator

from bridge.config.words import did_you_mean, one_of
from bridge.db.postgresql_url import read_postgresql_url
from bridge.errors import ForbiddenAddressError
from bridge.events.types import EventType
from bridge.rules.egress import EgressPolicy, check_url
from bridge.rules.signing import Ed25519Secret, InvalidHeaderError, check_header, parse_secret

T = TypeVar("T")

_SOURCE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DATABASE_PREFIXES: Final = ("sqlite:///", "postgresql://", "postgres://")
_LISTEN: Final = re.compile(r"(?P<host>.*):(?P<port>[0-9]{1,5})")
_HOST: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ORIGIN: Final = re.compile(r"https?://([A-Za-z0-9_.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?")
_LAST_PORT: Final = 65_535
_SLOWEST_RATE: Final = 0.0003
_FASTEST_RATE: Final = 100_000
_ANYWHERE: Final = EgressPolicy(allow_http=True, allow_private_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddress:
    """Address of the web server; port 0 lets the system choose one."""

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
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def parsed(parse: Callable[[str], object]) -> BeforeValidator:
    """A pydantic validator for a value of any type that is written as text."""

    def validate(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError("must be a text in quotes")  # noqa: TRY004 - pydantic reports ValueErrors
        return parse(value)

    return BeforeValidator(validate)


def choice(words: Iterable[str]) -> BeforeValidator:
    """A pydantic validator for one of a few words; those of a StrEnum become its members."""
    known = {str(word): word for word in words}

    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"must be {one_of(known)}{did_you_mean(text, known)}")
        return known[text]

    return parsed(parse)


def check_not_empty(values: tuple[T, ...]) -> tuple[T, ...]:
    if not values:
        raise ValueError("must not be an empty list")
    return values


def check_rate(rate: float) -> float:
    """Accept 0, or a rate between about once an hour and more than any machine can do."""
    if rate != 0 and not _SLOWEST_RATE <= rate <= _FASTEST_RATE:
        raise ValueError(f"must be 0 (unlimited) or from {_SLOWEST_RATE} (about once an hour) to {_FASTEST_RATE:,}")
    return rate


def check_label(text: str) -> str:
    """Accept names and ids that can be shown in logs, pages and URLs."""
    if not text.strip():
        raise ValueError("must not be empty")
    if text != text.strip():
        raise ValueError("must not begin or end with a space")
    if not text.isprintable():
        raise ValueError("must not contain control characters")
    return text


def check_path(text: str) -> str:
    """Accept the name of a file, or none."""
    return check_label(text) if text else text


def check_metadata_path(text: str) -> str:
    """Accept names of keys with full stops between them."""
    if not all(text.split(".")):
        raise ValueError('must be a path of keys, like "email" or "user.email"')
    return text


def parse_metadata_policy(value: object) -> object:
    """Return None for "full", () for "none", and a list of keys unchanged."""
    if value in ("full", "none"):
        return None if value == "full" else ()
    if not isinstance(value, list):
        raise ValueError('must be "full", "none" or a list of keys')  # noqa: TRY004 - pydantic reports ValueErrors
    return value


def check_room_id(text: str) -> str:
    """Accept any label except those that would change the path of the upstream's URL."""
    if text in (".", ".."):
        raise ValueError("cannot be the id of a room")
    return check_label(text)


def check_source_name(text: str) -> str:
    """Accept names that can be part of a key and of an environment variable."""
    if not _SOURCE_NAME.fullmatch(text):
        raise ValueError("a source's name is 1 to 64 letters, digits, _ and -")
    return text


def check_credential(text: str) -> str:
    """Accept what can be sent as a header without starting another one."""
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("contains a character that a key cannot have: a space, a line break or one outside ASCII")
    return text


def check_lower_case(text: str) -> str:
    if text != text.lower():
        raise ValueError(f'must be in lower case: "{text.lower()}"')
    return check_label(text)


def check_header_name(name: str) -> str:
    check_header(name, "")
    return name


def check_header_value(value: str) -> str:
    try:
        check_header("x", value)
    except InvalidHeaderError:
        raise ValueError("must be printable ASCII without line breaks") from None
    return value


def check_secret(secret: str, signature: str) -> str:
    """Accept a secret of the kind that the signature needs: whsec_ for v1, whsk_ for v1a."""
    if isinstance(parse_secret(secret), Ed25519Secret) != (signature == "v1a"):
        wanted, other = ("whsk_", "v1") if signature == "v1a" else ("whsec_", "v1a")
        raise ValueError(f'must start with {wanted} for signature = "{signature}"; this one is for "{other}"')
    return secret


def check_http_url(text: str) -> str:
    """Accept a well-formed http or https URL; whether its address may be called depends on `[delivery]`."""
    try:
        check_url(text, _ANYWHERE)
    except ForbiddenAddressError as error:
        raise ValueError(str(error)) from None
    return text


def check_base_url(text: str) -> str:
    """Accept the part of a source's URLs before the route, and remove a slash at its end."""
    if "?" in text or "#" in text:
        raise ValueError("must end with the path: no ? and no #")
    return check_http_url(text).rstrip("/")


def check_listen_url(text: str | None) -> str | None:
    """Accept PostgreSQL."""
    if text is not None and text.startswith("sqlite:"):
        raise ValueError("must be postgresql://user@host/name: SQLite has no LISTEN")
    return None if text is None else check_database_url(text)


def check_database_url(text: str) -> str:
    """Accept SQLite in a file, or PostgreSQL."""
    if not text.startswith(_DATABASE_PREFIXES):
        raise ValueError("must be sqlite:///file.db (relative to the current directory) or postgresql://user@host/name")
    if not text.isprintable():
        raise ValueError("contains a control character")
    if text.startswith("sqlite:"):
        if text.removeprefix("sqlite:///").partition("?")[0] in ("", ":memory:"):
            raise ValueError("must name a file: a database in memory would be empty after every start")
        if "?" in text or text.startswith("sqlite:///file:"):
            raise ValueError("must be only the name of a file: options have no effect")
        return text
    authority, _, path = text.partition("://")[2].partition("/")
    if authority.count("@") > 1 or "@" in path.partition("?")[0]:
        raise ValueError("has a character in its user or password that must be percent-encoded: %40 for @, %2F for /")
    try:
        read_postgresql_url(text)
    except ValueError as error:
        if "prepare_threshold" in str(error):
            raise
        raise ValueError("is not a URL: check host and port, and percent-encode special characters") from None
    return text


def check_event_glob(text: str) -> str:
    """Accept a glob that matches at least one type of event: any other is a typing mistake."""
    types = [str(known) for known in EventType]
    if not any(fnmatchcase(known, text) for known in types):
        families = {f"{known.split('.')[0]}.*" for known in types}
        hint = did_you_mean(text, [*types, *sorted(families)])
        raise ValueError(f"matches no event type{hint or f' of this version; its types are {one_of(types)}'}")
    return text


def parse_timezone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (ValueError, LookupError, OSError):
        hint = did_you_mean(text, available_timezones())
        raise ValueError(f'is not a time zone: use an IANA name, like "Europe/Berlin" or "UTC"{hint}') from None


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """One CIDR, or an address, which is a network of one."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError('is not a network: write a CIDR, like "10.0.0.0/8" or "127.0.0.0/8"') from None
    if "/" in text and ip_address(text.partition("/")[0]) != network.network_address:
        raise ValueError(f'has bits behind its prefix; did you mean "{network}"?')
    return network


def parse_listen(text: str) -> ListenAddress | None:
    """`host:port` or `[IPv6]:port`; an empty text is None: off."""
    if not text:
        return None
    parts = _LISTEN.fullmatch(text)
    if parts is None or int(parts["port"]) > _LAST_PORT:
        raise ValueError('must be an address and a port, like "127.0.0.1:8080", or "" for off')
    host, port = parts["host"], parts["port"]
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or " " in bare:
        raise ValueError(f'has no address: write "127.0.0.1:{port}"')
    if ":" in bare and host == bare:
        raise ValueError('must have its IPv6 address in brackets, like "[::1]:8080"')
    return ListenAddress(host=bare, port=int(port))


def check_public_url(text: str) -> str:
    """Accept the URL of the web server's root, or none, and remove a slash at its end."""
    return check_base_url(text) if text else text


def check_host(text: str) -> str:
    """Accept the name of a host, without scheme and port."""
    if not _HOST.fullmatch(text):
        raise ValueError('must be the name of a host alone, like "bridge.example.com"')
    return text.lower()


def check_origin(text: str) -> str:
    """Accept an origin as browsers send it."""
    if not _ORIGIN.fullmatch(text):
        raise ValueError('must be an origin: scheme, host and port alone, like "https://app.example.com"')
    return text.lower()

"""PostgreSQL's URLs as libpq knows them, several hosts included, for SQLAlchemy, which reads only one. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

NEVER_PREPARE: Final = "prepare_threshold"
DEFAULT_PORT: Final = "5432"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlUrl:
    """A URL with at most one host outside its query; `never_prepare` if it has `prepare_threshold=0`."""

    url: str
    never_prepare: bool


def read_postgresql_url(text: str) -> PostgresqlUrl:
    """Read a URL. Of several hosts (`//h1:5432,h2:5432/name`), the one that can be written to is used.

    Raises:
        ValueError: a port is none, or `prepare_threshold` is not 0.
    """
    scheme, _, rest = text.partition("://")
    address, _, query = rest.partition("?")
    authority, slash, name = address.partition("/")
    user, at, hosts = authority.rpartition("@")
    options = parse_qsl(query, keep_blank_values=True)
    if "," in hosts:
        named = [_host_and_port(host) for host in hosts.split(",")]
        options += [("host", ",".join(host for host, _ in named)), ("port", ",".join(port for _, port in named))]
        hosts = ""
    elif hosts:
        _host_and_port(hosts)
    thresholds = [value for key, value in options if key == NEVER_PREPARE]
    if any(value != "0" for value in thresholds):
        raise ValueError("prepare_threshold can only be 0: nothing is prepared, for a pooler in transaction mode")
    options = [(key, value) for key, value in options if key != NEVER_PREPARE]
    count = sum(len(value.split(",")) for key, value in options if key == "host")
    if count > 1 and "target_session_attrs" not in dict(options):
        options.append(("target_session_attrs", "read-write"))
    rebuilt = f"{scheme}://{user}{at}{hosts}{slash}{name}"
    return PostgresqlUrl(url=f"{rebuilt}?{urlencode(options)}" if options else rebuilt, never_prepare=bool(thresholds))


def _host_and_port(text: str) -> tuple[str, str]:
    parts = urlsplit(f"//{text}")
    port = parts.port
    if port == 0:
        raise ValueError("port 0")
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc.removesuffix(":")
    return host.strip("[]"), DEFAULT_PORT if port is None else str(port)

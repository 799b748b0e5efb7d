"""What the rest of the bridge sees of the configuration: one frozen tree, complete and checked, with every default.

Settings belong to what they configure: the policies, `RoomSpec`, `EndpointSpec` and `SourceSettings` are their
owners' types. No `repr` shows a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from bridge.config.fields import ListenAddress
from bridge.delivery.endpoints import EndpointSpec
from bridge.polling.record import PollingSettings
from bridge.polling.rooms import RoomSpec
from bridge.rules.delivery import DeliveryPolicy
from bridge.rules.egress import EgressPolicy
from bridge.sources.protocol import SourceSettings

_PASSWORD = re.compile(r"(?<=:)[^:@/][^/]*(?=@)|(?<=password=)[^&]*")


class Scope(StrEnum):
    """What a token may do."""

    READ = "read"
    WRITE = "write"


class LogFormat(StrEnum):
    """How log lines read_health; `auto` is console on a terminal, else JSON."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeSettings:
    """`[bridge]`: the name on pages, the time zone of pages and exports, how long a stop may take."""

    name: str
    timezone: ZoneInfo
    shutdown_grace: timedelta


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DatabaseSettings:
    """`[database]`: a `sqlite:///`, `postgresql://` or `postgres://` URL, as it was written."""

    url: str

    def __repr__(self) -> str:
        return f"DatabaseSettings(url={self.shown_url!r})"

    @property
    def shown_url(self) -> str:
        """The URL for people, without its password."""
        return _PASSWORD.sub("***", self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """`[delivery]`: what becomes of an outcome, and which addresses may be called."""

    policy: DeliveryPolicy
    egress: EgressPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class WebToken:
    """One of `web.tokens`."""

    name: str
    token: str = field(repr=False)
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """`[web]`: `listen` is None when the web server is off."""

    listen: ListenAddress | None
    tokens: tuple[WebToken, ...]


EVENTS_KEPT = timedelta(days=400)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """`[retention]`: how long the log and the attempts are kept."""

    events: timedelta
    attempts: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """`[log]`."""

    format: LogFormat
    level: LogLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration.

    Of `encryption_keys` the first encrypts and all decrypt; without one, secrets are stored in clear. `has_file` says
    that a file is part of it: without one, what is not named may stand in a file that was not found.
    """

    bridge: BridgeSettings
    database: DatabaseSettings
    sources: tuple[SourceSettings, ...]
    polling: PollingSettings
    rooms: tuple[RoomSpec, ...]
    endpoints: tuple[EndpointSpec, ...]
    delivery: DeliverySettings
    web: WebSettings
    retention: RetentionSettings
    log: LogSettings
    encryption_keys: tuple[str, ...] = field(default=(), repr=False)
    has_file: bool = field(default=True, compare=False)

    @property
    def without_effect(self) -> tuple[str, ...]:
        """What was set and does nothing yet, in sentences: to accept it in silence would be a promise."""
        said = [
            f"sources.{source.name}.discover has no effect yet: track rooms with [[rooms]] or `bridge rooms add`"
            for source in self.sources
            if source.discover
        ]
        if self.retention.events != EVENTS_KEPT:
            said.append("retention.events has no effect yet: nothing is deleted from the log")
        if self.web.tokens:
            said.append("web.tokens have no effect yet: the status page shows counts to whoever can reach it")
        return tuple(said)

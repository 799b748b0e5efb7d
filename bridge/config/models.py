"""The tables of `bridge.toml` as frozen models: what has been validated is the settings.

A new key is one field here and one line in `bridge.toml`. Fields are checked by themselves; rules between tables are
in `cross`. Settings whose type belongs to another package (`RoomSpec`, `DeliveryPolicy`) are built by properties; the
modules that bring SQLAlchemy with them are imported there, so that `bridge check` does without it.
pydantic-settings is not used: it merges its sources before it validates, but every message must name the line or the
variable that the value came from.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import timedelta
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from bridge.config import checks
from bridge.config.checks import ListenAddress, choice, parsed
from bridge.config.durations import DURATION_PATTERN, parse_duration, parse_positive_duration
from bridge.config.keys import secrets_of
from bridge.config.secrets import Context, Secret, SecretText, with_secret_files
from bridge.config.sizes import parse_size
from bridge.events.formats import Format
from bridge.events.types import DEFAULT_TYPES
from bridge.rules.access import Scope, digest
from bridge.rules.delivery import DeliveryPolicy
from bridge.rules.egress import EgressPolicy
from bridge.rules.identity import IdentityPolicy
from bridge.rules.presence import FirstSnapshot, PresencePolicy
from bridge.sources.kinds import DEFAULT_KIND, KINDS, Kind
from bridge.sources.protocol import MAX_RESPONSE_BYTES, SourceSettings

if TYPE_CHECKING:
    from bridge.delivery.endpoints import EndpointSpec
    from bridge.polling.plan import PollingSettings
    from bridge.polling.rooms import RoomSpec

T = TypeVar("T")

Listed = Annotated[tuple[T, ...], Field(strict=False)]
NotEmpty = Annotated[tuple[T, ...], Field(strict=False), AfterValidator(checks.check_not_empty)]
_WRITTEN_DURATION: Final = {
    "anyOf": [{"type": "string", "pattern": DURATION_PATTERN}, {"type": "number", "minimum": 0}],
    "description": 'A span, like "250ms", "10s", "5m", "2h" or "5d", or a number of seconds.',
    "examples": ["10s", 2.5],
}
Duration = Annotated[timedelta, BeforeValidator(parse_duration), WithJsonSchema(_WRITTEN_DURATION)]
PositiveDuration = Annotated[timedelta, BeforeValidator(parse_positive_duration), WithJsonSchema(_WRITTEN_DURATION)]
Size = Annotated[int, BeforeValidator(parse_size)]
MetadataPath = Annotated[str, AfterValidator(checks.check_metadata_path)]
_NOT_EMPTY: Final = {"type": "string", "minLength": 1}
Label = Annotated[str, AfterValidator(checks.check_label), WithJsonSchema(_NOT_EMPTY)]
RoomId = Annotated[str, AfterValidator(checks.check_room_id), WithJsonSchema(_NOT_EMPTY)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, AfterValidator(checks.check_rate)]
Network = Annotated[IPv4Network | IPv6Network, parsed(checks.parse_network)]
HeaderName = Annotated[str, AfterValidator(checks.check_header_name)]
HeaderValue = Annotated[SecretText[str], AfterValidator(checks.check_header_value)]

_DELIVERY: Final = DeliveryPolicy()
_WEBSOCKET: Final = re.compile(r"^ws(s?)(?=://)", re.IGNORECASE)
_PASSWORD: Final = re.compile(r"(?<=:)[^:@/][^/]*(?=@)|(?<=password=)[^&]*")


class Table(BaseModel):
    """A table of the configuration; keys without a field are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _accept_secret_files(cls, table: object) -> object:
        return with_secret_files(table, secrets_of(cls))


class BridgeTable(Table):
    """`[bridge]`."""

    name: Label = "Presence bridge"
    timezone: Annotated[ZoneInfo, parsed(checks.parse_timezone)] = ZoneInfo("UTC")
    shutdown_grace: Duration = timedelta(seconds=10)


class DatabaseTable(Table):
    """`[database]`; the URLs may contain a password."""

    url: Annotated[Secret[str], AfterValidator(checks.check_database_url)] = "sqlite:///bridge.db"
    listen_url: Annotated[Secret[str | None], AfterValidator(checks.check_listen_url)] = None

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return _PASSWORD.sub("***", self.url)


def _kind(values: dict[str, Any]) -> Kind:
    """The kind that a table names; an unknown one is reported by its own field."""
    return KINDS[values.get("kind", DEFAULT_KIND)]


class SourceTable(Table):
    """`[sources.NAME]`: one API key; the kind comes first, because it decides what the others may be."""

    kind: Annotated[str, choice(KINDS)] = DEFAULT_KIND
    base_url: Annotated[str, AfterValidator(checks.check_base_url)] = Field(
        default_factory=lambda values: _kind(values).base_url, validate_default=True
    )
    api_key: Annotated[Secret[str], AfterValidator(checks.check_credential)]
    api_secret: Secret[str | None] = Field(default=None, validate_default=True)
    ignore_kinds: Listed[Annotated[str, AfterValidator(checks.check_lower_case)]] = ("egress",)
    ignore_hidden: bool = True
    timeout: PositiveDuration = timedelta(seconds=8)
    max_concurrency: Count = 16
    requests_per_second: Rate = Field(default_factory=lambda values: _kind(values).requests_per_second)
    max_response_bytes: Size = MAX_RESPONSE_BYTES
    discover: bool = False
    discover_rooms: NotEmpty[Label] = ("*",)
    discover_forget: PositiveDuration = timedelta(hours=24)

    @field_validator("base_url", mode="before")
    @classmethod
    def _reads_websocket_urls(cls, url: object, info: ValidationInfo) -> object:
        if url == "":
            raise ValueError('is missing: write base_url = "https://…"')
        if _kind(info.data).takes_websocket_urls and isinstance(url, str):
            return _WEBSOCKET.sub(lambda scheme: f"http{scheme[1].lower()}", url)
        return url

    @field_validator("api_secret", "ignore_kinds", "ignore_hidden", "discover", "discover_rooms", "discover_forget")
    @classmethod
    def _fits_the_kind(cls, value: T, info: ValidationInfo) -> T:
        """Refuse a key that this kind does not have; the defaults of the others are not validated."""
        kind = info.data.get("kind")
        if kind is not None and value is not None and info.field_name not in KINDS[kind].own_keys:
            raise ValueError(f'has no meaning with kind = "{kind}": leave it out')
        return value

    @field_validator("api_secret")
    @classmethod
    def _is_given_if_needed(cls, secret: str | None, info: ValidationInfo) -> str | None:
        if secret is None and "kind" in info.data and _kind(info.data).needs_secret:
            raise ValueError('is missing: write api_secret = "…", api_secret = "env:NAME" or api_secret_file = "…"')
        return None if secret is None else checks.check_credential(secret)

    def settings(self, name: str) -> SourceSettings:
        return SourceSettings(name=name, **{**dict(self), "api_secret": self.api_secret or ""})


class PollingTable(Table):
    """`[polling]`."""

    interval: PositiveDuration = timedelta(seconds=10)
    idle_interval: PositiveDuration = timedelta(minutes=2)
    leave_after_missed: Count = 1
    first_snapshot: Annotated[FirstSnapshot, choice(FirstSnapshot)] = FirstSnapshot.EMIT

    def settings(self, identity: IdentityPolicy, discovering: frozenset[str]) -> PollingSettings:
        from bridge.polling.plan import PollingSettings  # noqa: PLC0415 - see the head of this file

        policy = PresencePolicy(
            leave_after_missed=self.leave_after_missed, first_snapshot=self.first_snapshot, identity=identity
        )
        return PollingSettings(
            interval=self.interval, idle_interval=self.idle_interval, discovering=discovering, policy=policy
        )


class IdentityTable(Table):
    """`[identity]`; `metadata` is None for "full" and empty for "none"."""

    person_key: Listed[MetadataPath] = IdentityPolicy().person_key
    display_name: Listed[MetadataPath] = IdentityPolicy().display_name
    metadata: Annotated[Listed[MetadataPath] | None, BeforeValidator(checks.parse_metadata_policy)] = None

    def policy(self) -> IdentityPolicy:
        return IdentityPolicy(**dict(self))


class RoomTable(Table):
    """One of `[[rooms]]`; keys left out are as in `[polling]`."""

    id: RoomId
    name: Label | None = None
    source: str | None = None
    interval: PositiveDuration | None = None
    leave_after_missed: Count | None = None
    enabled: bool = True

    def spec(self, sources: Collection[str]) -> RoomSpec:
        """The room; a source left out is the only one."""
        from bridge.polling.rooms import RoomSpec  # noqa: PLC0415 - see the head of this file

        return RoomSpec(
            source=self.source or next(iter(sources)),
            upstream_id=self.id,
            name=self.name,
            interval=self.interval,
            leave_after_missed=self.leave_after_missed,
            enabled=self.enabled,
        )


class EndpointTable(Table):
    """One of `[[endpoints]]`; style and signature come before the secret, whose form they decide."""

    name: Label
    url: Annotated[str, AfterValidator(checks.check_http_url)]
    style: Annotated[str, choice([form.value for form in Format])] = Format.STANDARD.value
    signature: Annotated[str, choice(["v1", "v1a"])] = "v1"
    secret: Secret[str | None] = None
    events: NotEmpty[Annotated[str, AfterValidator(checks.check_event_glob)]] = tuple(map(str, DEFAULT_TYPES))
    rooms: NotEmpty[Label] = ("*",)
    headers: Annotated[dict[HeaderName, HeaderValue], Field(repr=False)] = {}
    rate_per_second: Rate = 0.0
    max_concurrency: Count = 8
    timeout: PositiveDuration | None = None
    enabled: bool = True

    @field_validator("signature")
    @classmethod
    def _fits_the_style(cls, signature: str, info: ValidationInfo) -> str:
        if signature != "v1" and info.data.get("style") == Format.HUDDLE01:
            raise ValueError('has no meaning with style = "huddle01", which has a signature of its own: leave it out')
        return signature

    @field_validator("secret")
    @classmethod
    def _fits_the_signature(cls, secret: str | None, info: ValidationInfo) -> str | None:
        style, signature = info.data.get("style"), info.data.get("signature")
        if secret is None or style in (None, Format.HUDDLE01) or signature is None:
            return secret
        return checks.check_secret(secret, signature)

    def spec(self) -> EndpointSpec:
        from bridge.delivery.endpoints import EndpointSpec  # noqa: PLC0415 - see the head of this file

        return EndpointSpec(**dict(self))


class DeliveryTable(Table):
    """`[delivery]`; the defaults are those of the policy."""

    timeout: PositiveDuration = _DELIVERY.timeout
    retry_schedule: NotEmpty[PositiveDuration] = _DELIVERY.retry_schedule
    refused_schedule: Listed[PositiveDuration] = _DELIVERY.refused_schedule
    disable_after: PositiveDuration = _DELIVERY.disable_after
    rotation_grace: Duration = _DELIVERY.rotation_grace
    allow_http: bool = False
    allow_private_networks: Listed[Network] = ()

    @cached_property
    def policy(self) -> DeliveryPolicy:
        return DeliveryPolicy(**self.model_dump(exclude={"allow_http", "allow_private_networks"}))

    @cached_property
    def egress(self) -> EgressPolicy:
        return EgressPolicy(allow_http=self.allow_http, allow_private_networks=self.allow_private_networks)


class TokenTable(Table):
    """One of `[[web.tokens]]`."""

    name: Label
    token: Annotated[Secret[str], AfterValidator(checks.check_credential)]
    scopes: NotEmpty[Annotated[Scope, choice(Scope)]]

    @cached_property
    def digest(self) -> bytes:
        return digest(self.token)


class WebTable(Table):
    """`[web]`; without an address the web server is off."""

    listen: Annotated[ListenAddress | None, parsed(checks.parse_listen)] = ListenAddress(host="127.0.0.1", port=8080)
    tokens: Listed[TokenTable] = ()
    public_url: Annotated[str, AfterValidator(checks.check_public_url)] = ""
    hosts: Listed[Annotated[str, AfterValidator(checks.check_host)]] = ()
    trusted_proxies: Listed[Network] = ()
    cors_origins: Listed[Annotated[str, AfterValidator(checks.check_origin)]] = ()
    requests_per_second: Rate = 50.0


class ProbesTable(Table):
    """`[probes]`; without an address, only the web server has them."""

    listen: Annotated[ListenAddress | None, parsed(checks.parse_listen)] = None


class AttendanceTable(Table):
    """`[attendance]`."""

    reconcile: bool = True
    reconcile_after: PositiveDuration = timedelta(minutes=2)
    merge_gap: Duration = timedelta(0)


class AuditTable(Table):
    """`[audit]`; without a file, checkpoints are only events."""

    checkpoint_every: Duration = timedelta(hours=1)
    checkpoint_file: Annotated[str, AfterValidator(checks.check_path)] = ""


class RetentionTable(Table):
    """`[retention]`."""

    events: PositiveDuration = timedelta(days=400)
    attempts: PositiveDuration = timedelta(days=30)


class LogTable(Table):
    """`[log]`; `auto` is console on a terminal, else JSON."""

    format: Annotated[str, choice(["auto", "console", "json"])] = "auto"
    level: Annotated[str, choice(["debug", "info", "warning", "error"])] = "info"


class Settings(Table):
    """The whole configuration."""

    bridge: BridgeTable = BridgeTable()
    database: DatabaseTable = DatabaseTable()
    source_tables: Annotated[
        dict[Annotated[str, AfterValidator(checks.check_source_name)], SourceTable], Field(alias="sources")
    ] = {}
    polling_table: Annotated[PollingTable, Field(alias="polling")] = PollingTable()
    identity: IdentityTable = IdentityTable()
    room_tables: Annotated[Listed[RoomTable], Field(alias="rooms")] = ()
    endpoint_tables: Annotated[Listed[EndpointTable], Field(alias="endpoints")] = ()
    delivery: DeliveryTable = DeliveryTable()
    web: WebTable = WebTable()
    probes: ProbesTable = ProbesTable()
    attendance: AttendanceTable = AttendanceTable()
    audit: AuditTable = AuditTable()
    retention: RetentionTable = RetentionTable()
    log: LogTable = LogTable()

    _context: Context = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401 - pydantic's signature
        self._context = context

    @property
    def encryption_keys(self) -> tuple[str, ...]:
        """Keys of the secrets in the database: the first encrypts, all decrypt; none = secrets stored in clear."""
        return self._context.encryption_keys

    @property
    def has_file(self) -> bool:
        """Whether a file is part of the configuration; without one, absent keys may be in a file that was not found."""
        return self._context.has_file

    @cached_property
    def sources(self) -> tuple[SourceSettings, ...]:
        return tuple(table.settings(name) for name, table in self.source_tables.items())

    @cached_property
    def polling(self) -> PollingSettings:
        discovering = frozenset(name for name, table in self.source_tables.items() if table.discover)
        return self.polling_table.settings(self.identity.policy(), discovering)

    @cached_property
    def rooms(self) -> tuple[RoomSpec, ...]:
        return tuple(table.spec(self.source_tables) for table in self.room_tables)

    @cached_property
    def endpoints(self) -> tuple[EndpointSpec, ...]:
        return tuple(table.spec() for table in self.endpoint_tables)

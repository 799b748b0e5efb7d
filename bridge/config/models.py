"""The shape of `bridge.toml`: every table, key and default of CONTRACT section 3; unknown keys are errors.

Each field is checked by itself here. What concerns several tables at once is in `rules`; origins and lines are in
`document`. pydantic-settings is not used: it merges the sources of values before it validates and forgets where each
came from, but the report owes every problem its line in the file or the name of its variable.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from bridge.config import fields
from bridge.config.durations import parse_duration, parse_positive_duration
from bridge.config.endpoint_fields import SIGNATURES, STYLES, check_header_name, check_header_value, check_secret
from bridge.config.fields import checked, choice
from bridge.config.settings import EVENTS_KEPT
from bridge.events.types import DEFAULT_TYPES
from bridge.rules.delivery import DeliveryPolicy

SECRET: Final = object()
"""Marks what may be given as `x_file` or `"env:NAME"`; on a table of values, each may be `"env:NAME"`."""

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[timedelta, BeforeValidator(parse_positive_duration)]
Label = Annotated[str, checked(fields.check_label)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, AfterValidator(fields.check_rate)]

_DELIVERY: Final = DeliveryPolicy()


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class BridgeTable(_Table):
    """`[bridge]`."""

    name: Label = "Presence bridge"
    timezone: Annotated[str, checked(fields.check_timezone)] = "UTC"
    shutdown_grace: Duration = timedelta(seconds=10)


class DatabaseTable(_Table):
    """`[database]`; the URL is a secret, for it may hold a password."""

    url: Annotated[str, checked(fields.check_database_url), SECRET] = "sqlite:///bridge.db"


class SourceTable(_Table):
    """`[sources.NAME]`: one API key."""

    kind: Annotated[str, choice("huddle01")] = "huddle01"
    base_url: Annotated[str, checked(fields.check_base_url)] = "https://api.huddle01.com/api/v2/sdk"
    api_key: Annotated[str, checked(fields.check_credential), SECRET]
    timeout: PositiveDuration = timedelta(seconds=8)
    max_concurrency: Count = 16
    requests_per_second: Rate = 20.0
    discover: bool = False


class PollingTable(_Table):
    """`[polling]`."""

    interval: PositiveDuration = timedelta(seconds=10)
    leave_after_missed: Count = 1
    first_snapshot: Annotated[str, choice("emit", "baseline")] = "emit"


class RoomTable(_Table):
    """One of `[[rooms]]`; what is left out is as `[polling]` says."""

    id: Annotated[str, checked(fields.check_room_id)]
    name: Label | None = None
    source: str | None = None
    interval: PositiveDuration | None = None
    leave_after_missed: Count | None = None
    enabled: bool = True


class EndpointTable(_Table):
    """One of `[[endpoints]]`. Format and signature stand before the secret: they say what it must read_health like."""

    name: Label
    url: Annotated[str, checked(fields.check_http_url)]
    style: Annotated[str, choice(*STYLES)] = "standard"
    signature: Annotated[str, choice(*SIGNATURES)] = "v1"
    secret: Annotated[str | None, SECRET] = None
    events: Annotated[list[Annotated[str, checked(fields.check_event_glob)]], Field(min_length=1)] = list(DEFAULT_TYPES)
    rooms: Annotated[list[Label], Field(min_length=1)] = ["*"]
    headers: Annotated[
        dict[Annotated[str, checked(check_header_name)], Annotated[str, checked(check_header_value)]], SECRET
    ] = {}
    rate_per_second: Rate = 0.0
    max_concurrency: Count = 8
    timeout: PositiveDuration | None = None
    enabled: bool = True

    @field_validator("signature")
    @classmethod
    def _fits_the_style(cls, signature: str, info: ValidationInfo) -> str:
        if signature != SIGNATURES[0] and info.data.get("style") == "huddle01":
            raise ValueError('has no meaning with style = "huddle01", which is signed as Huddle01 does: leave it out')
        return signature

    @field_validator("secret")
    @classmethod
    def _fits_the_signature(cls, secret: str | None, info: ValidationInfo) -> str | None:
        if secret is not None and {"style", "signature"} <= info.data.keys():
            check_secret(secret, style=info.data["style"], signature=info.data["signature"])
        return secret


class DeliveryTable(_Table):
    """`[delivery]`; the defaults are those of the policy."""

    timeout: PositiveDuration = _DELIVERY.timeout
    retry_schedule: Annotated[list[PositiveDuration], Field(min_length=1)] = list(_DELIVERY.retry_schedule)
    refused_schedule: list[PositiveDuration] = list(_DELIVERY.refused_schedule)
    disable_after: PositiveDuration = _DELIVERY.disable_after
    rotation_grace: Duration = _DELIVERY.rotation_grace
    allow_http: bool = False
    allow_private_networks: list[Annotated[str, checked(fields.parse_network)]] = []


class TokenTable(_Table):
    """One of `web.tokens`; a token that names no scopes may read."""

    name: Label
    token: Annotated[str, checked(fields.check_credential), SECRET]
    scopes: Annotated[list[Annotated[str, choice("read", "write")]], Field(min_length=1)] = ["read"]


class WebTable(_Table):
    """`[web]`."""

    listen: Annotated[str, checked(fields.parse_listen)] = "127.0.0.1:8080"
    tokens: list[TokenTable] = []


class RetentionTable(_Table):
    """`[retention]`."""

    events: PositiveDuration = EVENTS_KEPT
    attempts: PositiveDuration = timedelta(days=30)


class LogTable(_Table):
    """`[log]`."""

    format: Annotated[str, choice("auto", "console", "json")] = "auto"
    level: Annotated[str, choice("debug", "info", "warning", "error")] = "info"


class Configuration(_Table):
    """The whole file."""

    bridge: BridgeTable = Field(default_factory=BridgeTable)
    database: DatabaseTable = Field(default_factory=DatabaseTable)
    sources: dict[Annotated[str, checked(fields.check_source_name)], SourceTable] = {}
    polling: PollingTable = Field(default_factory=PollingTable)
    rooms: list[RoomTable] = []
    endpoints: list[EndpointTable] = []
    delivery: DeliveryTable = Field(default_factory=DeliveryTable)
    web: WebTable = Field(default_factory=WebTable)
    retention: RetentionTable = Field(default_factory=RetentionTable)
    log: LogTable = Field(default_factory=LogTable)

"""From validated models to the frozen settings: the only place that knows both."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from bridge.config import models
from bridge.config.fields import parse_listen, parse_network
from bridge.config.rules import only_source
from bridge.config.settings import (
    BridgeSettings,
    DatabaseSettings,
    DeliverySettings,
    LogFormat,
    LogLevel,
    LogSettings,
    RetentionSettings,
    Scope,
    Settings,
    WebSettings,
    WebToken,
)
from bridge.delivery.endpoints import EndpointSpec
from bridge.polling.record import PollingSettings
from bridge.polling.rooms import RoomSpec
from bridge.rules.delivery import DeliveryPolicy
from bridge.rules.egress import EgressPolicy
from bridge.rules.presence import FirstSnapshot, PresencePolicy
from bridge.sources.protocol import SourceSettings


def build(tables: models.Configuration, encryption_keys: tuple[str, ...], *, has_file: bool) -> Settings:
    """The settings of a configuration in which no problem was found."""
    return Settings(
        bridge=BridgeSettings(
            name=tables.bridge.name,
            timezone=ZoneInfo(tables.bridge.timezone),
            shutdown_grace=tables.bridge.shutdown_grace,
        ),
        database=DatabaseSettings(url=tables.database.url),
        sources=tuple(_source(name, table) for name, table in tables.sources.items()),
        polling=_polling(tables.polling),
        rooms=_rooms(tables),
        endpoints=tuple(_endpoint(table) for table in tables.endpoints),
        delivery=_delivery(tables.delivery),
        web=WebSettings(
            listen=parse_listen(tables.web.listen), tokens=tuple(_token(table) for table in tables.web.tokens)
        ),
        retention=RetentionSettings(events=tables.retention.events, attempts=tables.retention.attempts),
        log=LogSettings(format=LogFormat(tables.log.format), level=LogLevel(tables.log.level)),
        encryption_keys=encryption_keys,
        has_file=has_file,
    )


def _source(name: str, table: models.SourceTable) -> SourceSettings:
    return SourceSettings(
        name=name,
        kind=table.kind,
        base_url=table.base_url.rstrip("/"),
        api_key=table.api_key,
        timeout=table.timeout,
        max_concurrency=table.max_concurrency,
        requests_per_second=table.requests_per_second,
        discover=table.discover,
    )


def _polling(table: models.PollingTable) -> PollingSettings:
    policy = PresencePolicy(
        leave_after_missed=table.leave_after_missed, first_snapshot=FirstSnapshot(table.first_snapshot)
    )
    return PollingSettings(interval=table.interval, policy=policy)


def _rooms(tables: models.Configuration) -> tuple[RoomSpec, ...]:
    default = only_source(tables.sources)
    return tuple(
        RoomSpec(
            source=room.source or default or "",
            upstream_id=room.id,
            name=room.name,
            interval=room.interval,
            leave_after_missed=room.leave_after_missed,
            enabled=room.enabled,
        )
        for room in tables.rooms
    )


def _endpoint(table: models.EndpointTable) -> EndpointSpec:
    return EndpointSpec(
        name=table.name,
        url=table.url,
        secret=table.secret,
        events=tuple(str(glob) for glob in table.events),
        rooms=tuple(table.rooms),
        style=table.style,
        signature=table.signature,
        headers=dict(table.headers),
        rate_per_second=table.rate_per_second,
        max_concurrency=table.max_concurrency,
        timeout=table.timeout,
        enabled=table.enabled,
    )


def _delivery(table: models.DeliveryTable) -> DeliverySettings:
    policy = DeliveryPolicy(
        retry_schedule=tuple(table.retry_schedule),
        refused_schedule=tuple(table.refused_schedule),
        disable_after=table.disable_after,
        timeout=table.timeout,
        rotation_grace=table.rotation_grace,
    )
    networks = tuple(parse_network(text) for text in table.allow_private_networks)
    return DeliverySettings(
        policy=policy, egress=EgressPolicy(allow_http=table.allow_http, allow_private_networks=networks)
    )


def _token(table: models.TokenTable) -> WebToken:
    return WebToken(name=table.name, token=table.token, scopes=frozenset(Scope(scope) for scope in table.scopes))

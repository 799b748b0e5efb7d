"""Endpoints: adding, changing and removing them, by configuration or by an operator."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, or_, select, update

from bridge.db.encryption import SecretCipher, check_keys
from bridge.db.engine import allow_long_transaction
from bridge.db.notifications import notify_due
from bridge.db.tables import cursors, endpoint_secrets, endpoints
from bridge.delivery.secrets import (
    EndpointContext,
    current_secret,
    insert_secret,
    is_secret_generated,
    mark_generated,
    replace_secret,
)
from bridge.errors import BridgeError, ConflictError, NotFoundError
from bridge.events.types import EventType, matches
from bridge.logs import get_logger
from bridge.rules.signing import Ed25519Secret, InvalidSecretError, parse_secret

CONFIG = "config"
"""`endpoints.origin` of endpoints of the configuration."""

log = get_logger("bridge.delivery")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """Settings of an endpoint; without a secret one is generated, without a time-out `[delivery]` has it."""

    name: str
    url: str
    secret: str | None = field(default=None, repr=False)
    events: tuple[str, ...] = ("peer.joined", "peer.left", "room.empty")
    rooms: tuple[str, ...] = ("*",)
    style: str = "standard"
    signature: str = "v1"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    rate_per_second: float = 0.0
    max_concurrency: int = 8
    timeout: timedelta | None = None
    enabled: bool = True


def lock_all_endpoints(connection: Connection) -> None:
    """Lock every endpoint, by key, before any of their cursors: some of them may be removed."""
    connection.execute(select(endpoints.c.id).order_by(endpoints.c.id).with_for_update())


def configure_endpoints(connection: Connection, specs: Sequence[EndpointSpec], context: EndpointContext) -> None:
    """Store the endpoints of the configuration; those added by hand stay as they are.

    An endpoint that the file names belongs to the file from then on, even if it was added by hand. One that the file no
    longer names is removed with its backlog. A secret that changed in the file is rotated: the previous one keeps
    signing for `rotation_grace`.
    """
    stored = {row.name: row for row in connection.execute(select(endpoints).order_by(endpoints.c.id))}
    named = {spec.name: spec for spec in specs}
    for row in stored.values():
        if row.name in named:
            if row.origin != CONFIG:
                log.info("configuration.adopted", endpoint=row.name)
            spec = named[row.name]
            change_settings(connection, row, spec, context, origin=CONFIG)
            _change_secret(connection, row.id, spec, context)
        elif row.origin == CONFIG:
            connection.execute(delete(endpoints).where(endpoints.c.id == row.id))
    for spec in specs:
        if spec.name not in stored:
            insert_endpoint(connection, spec, CONFIG, context)


def add_endpoint(connection: Connection, spec: EndpointSpec, context: EndpointContext) -> str:
    """Add an endpoint that starts at the head of every room's log; returns its secret.

    If it wants `room.snapshot`, it gets one of every room that it may see.

    Raises:
        ConflictError: the name is taken.
        BridgeError: secrets of other endpoints are encrypted with a key that is not given.
    """
    check_keys(connection, context.cipher)
    check_name_is_free(connection, spec.name)
    _, secret = insert_endpoint(connection, spec, "manual", context)
    return secret


def remove_endpoint(connection: Connection, name: str) -> None:
    """Remove an endpoint, its attempts and its backlog; the event log stays.

    Raises:
        NotFoundError: there is no such endpoint.
        ConflictError: it belongs to the configuration.
    """
    allow_long_transaction(connection)
    row = find_endpoint(connection, name)
    if row.origin == CONFIG:
        raise ConflictError(f"endpoint {row.name!r} belongs to the configuration: remove it there and reload")
    connection.execute(delete(endpoints).where(endpoints.c.id == row.id))


def enable_endpoint(connection: Connection, name: str, now: datetime) -> bool:
    """Deliver to an endpoint again, see `reset_health`; returns whether it was disabled.

    Raises:
        NotFoundError: there is no such endpoint.
        ConflictError: the configuration disables it.
    """
    row = find_endpoint(connection, name)
    if row.state_reason == "configuration":
        raise ConflictError(
            f"endpoint {row.name!r} is disabled in the configuration: set enabled = true there and reload (SIGHUP)"
        )
    reset_health(connection, row.id, now)
    return bool(row.state != "active")


def disable_endpoint(connection: Connection, name: str) -> bool:
    """Deliver nothing to an endpoint until it is enabled; returns whether it was active.

    Raises:
        NotFoundError: there is no such endpoint.
    """
    row = find_endpoint(connection, name)
    disabled = update(endpoints).where(endpoints.c.id == row.id)
    connection.execute(disabled.values(state="disabled", state_reason="operator"))
    return bool(row.state == "active")


def rotate_secret(connection: Connection, name: str, context: EndpointContext, grace: timedelta | None) -> str:
    """Generate a new secret and return it; the previous one keeps signing for `grace`.

    Raises:
        NotFoundError: there is no such endpoint.
        ConflictError: its secret was not generated by the bridge.
        BridgeError: the encryption keys are not those of the service.
    """
    row = find_endpoint(connection, name)
    check_keys(connection, context.cipher)
    if not is_secret_generated(connection, row.id):
        remedy = (
            "it belongs to the configuration; change it there and reload, and the previous one keeps signing for "
            "rotation_grace"
            if row.origin == CONFIG
            else "it was given when the endpoint was added; remove the endpoint and add it again without --secret"
        )
        raise ConflictError(f"the secret of endpoint {row.name!r} was not generated by the bridge: {remedy}")
    secret = context.new_secret(row.signature)
    grace = context.rotation_grace if grace is None else grace
    replace_secret(connection, row.id, secret, context, generated=True, grace=grace)
    return secret


def reset_health(connection: Connection, endpoint_key: int, now: datetime) -> None:
    """Activate an endpoint: its failures are reset and its whole backlog is due now, in order."""
    connection.execute(
        update(endpoints)
        .where(endpoints.c.id == endpoint_key)
        .values(
            state="active",
            state_reason=None,
            failures_in_row=0,
            failing_since=None,
            circuit="closed",
            probes=0,
            paused_until=None,
        )
    )
    waiting = (cursors.c.acked < cursors.c.head, cursors.c.claim_token.is_(None))
    connection.execute(
        update(cursors)
        .where(cursors.c.endpoint_key == endpoint_key, *waiting)
        .values(next_attempt_at=now, failed_attempts=0, rejections=0, last_failed_at=None)
    )
    notify_due(connection)


def find_endpoint(connection: Connection, name: str) -> Row[Any]:
    """The endpoint of that name or id.

    Raises:
        NotFoundError: there is none.
    """
    found = select(endpoints).where(or_(endpoints.c.name == name, endpoints.c.public_id == name))
    row = connection.execute(found.order_by((endpoints.c.name == name).desc()).limit(1)).one_or_none()
    if row is None:
        raise NotFoundError(f"no endpoint is named {name!r}", "see `bridge endpoints list`")
    return row


def check_name_is_free(connection: Connection, name: str) -> None:
    """Check the name of an endpoint that is to be added or renamed.

    Raises:
        ConflictError: another endpoint has it.
    """
    taken = connection.execute(select(endpoints.c.id).where(endpoints.c.name == name)).one_or_none()
    if taken is not None:
        raise ConflictError(f"an endpoint named {name!r} exists: choose another name, or remove that one first")


def insert_endpoint(
    connection: Connection, spec: EndpointSpec, origin: str, context: EndpointContext
) -> tuple[str, str]:
    """Insert an endpoint; returns its id and its secret."""
    public_id = context.new_id("ep")
    values = {
        "public_id": public_id,
        "name": spec.name,
        "origin": origin,
        "created_at": context.now,
        "state": "active" if spec.enabled else "disabled",
        "state_reason": None if spec.enabled else _disabled_by(origin),
        "snapshots_after": _snapshots_after(spec),
        **_spec_values(spec, context.cipher),
    }
    key = connection.execute(insert(endpoints).values(**values).returning(endpoints.c.id)).scalar_one()
    secret = spec.secret or context.new_secret(spec.signature)
    insert_secret(connection, key, secret, context, generated=spec.secret is None)
    return public_id, secret


def change_settings(
    connection: Connection, row: Row[Any], spec: EndpointSpec, context: EndpointContext, *, origin: str
) -> None:
    """Give an endpoint new settings, except for its secret."""
    values = {"name": spec.name, **_spec_values(spec, context.cipher)}
    if row.rate_per_second != spec.rate_per_second:
        values |= {"next_delivery_at": None}
    if row.state == "active" and not spec.enabled:
        values |= {"state": "disabled", "state_reason": _disabled_by(origin)}
    if _snapshots_after(spec) is not None and not matches(EventType.ROOM_SNAPSHOT, row.events):
        values |= {"snapshots_after": _snapshots_after(spec)}
    connection.execute(update(endpoints).where(endpoints.c.id == row.id).values(origin=origin, **values))
    was_disabled = row.state_reason == "configuration" if origin == CONFIG else row.state != "active"
    if was_disabled and spec.enabled:
        reset_health(connection, row.id, context.now)


def _change_secret(connection: Connection, endpoint_key: int, spec: EndpointSpec, context: EndpointContext) -> None:
    try:
        current = current_secret(connection, endpoint_key, context)
    except BridgeError:  # no key decrypts it: a secret in the file replaces it, without one the endpoint stays unusable
        if spec.secret is not None:
            connection.execute(delete(endpoint_secrets).where(endpoint_secrets.c.endpoint_key == endpoint_key))
            insert_secret(connection, endpoint_key, spec.secret, context, generated=False)
            rotated = update(endpoints).where(endpoints.c.id == endpoint_key)
            connection.execute(rotated.values(rotated_at=context.now))
        return
    if spec.secret is None and can_sign(current, spec):
        mark_generated(connection, endpoint_key)
    elif spec.secret != current:
        secret = spec.secret or context.new_secret(spec.signature)
        grace, generated = context.rotation_grace, spec.secret is None
        replace_secret(connection, endpoint_key, secret, context, generated=generated, grace=grace)


def can_sign(secret: str, spec: EndpointSpec) -> bool:
    """Whether a stored secret suits the signature; style huddle01 takes any text."""
    if spec.style == "huddle01":
        return True
    try:
        parsed = parse_secret(secret)
    except InvalidSecretError:
        return False
    return isinstance(parsed, Ed25519Secret) == (spec.signature == "v1a")


def _disabled_by(origin: str) -> str:
    return "configuration" if origin == CONFIG else "operator"


def _snapshots_after(spec: EndpointSpec) -> int | None:
    """Start of the snapshots that a new subscription to `room.snapshot` gets."""
    return 0 if matches(EventType.ROOM_SNAPSHOT, spec.events) else None


def _spec_values(spec: EndpointSpec, cipher: SecretCipher) -> dict[str, Any]:
    return {
        "url": spec.url,
        "events": list(spec.events),
        "rooms": list(spec.rooms),
        "style": spec.style,
        "signature": spec.signature,
        "headers": cipher.encrypt(json.dumps(dict(spec.headers))),
        "rate_per_second": spec.rate_per_second,
        "max_concurrency": spec.max_concurrency,
        "timeout_seconds": None if spec.timeout is None else spec.timeout.total_seconds(),
    }

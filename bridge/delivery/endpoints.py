"""Subscribers: which there are, whose they are, and the secrets that sign for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Row, bindparam, delete, insert, or_, select, update

from bridge.db.encryption import SecretCipher
from bridge.db.engine import allow_long_transaction
from bridge.db.reencryption import check_keys
from bridge.db.tables import cursors, endpoint_secrets, endpoints
from bridge.delivery.snapshots import request_snapshots
from bridge.errors import BridgeError, NotFoundError, UsageError
from bridge.events.types import EventType, matches
from bridge.rules.signing import Ed25519Secret, InvalidSecretError, parse_secret

log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.db")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """A subscriber as somebody asked for it; a secret left out is generated, a time-out left out is `[delivery]`'s."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointContext:
    """What a change of endpoints needs from outside: the time, chance, and the cipher."""

    now: datetime
    new_id: Callable[[str], str]
    new_secret: Callable[[str], str]
    """Makes a fresh secret for a signature (`v1` or `v1a`)."""
    cipher: SecretCipher = field(default_factory=SecretCipher)
    rotation_grace: timedelta = timedelta(hours=24)


def lock_endpoints(connection: Connection) -> None:
    """Lock every endpoint, by key, before any of their cursors: some of them may be removed."""
    connection.execute(select(endpoints.c.id).order_by(endpoints.c.id).with_for_update())


def reconcile_endpoints(connection: Connection, specs: Sequence[EndpointSpec], context: EndpointContext) -> None:
    """Make the configuration's endpoints what the file says; those made by API or CLI are not touched.

    An endpoint that the file names becomes the file's, whoever added it first. One that the file names no more is
    removed with its backlog. A secret that changed in the file is rotated: the old one signs on for `rotation_grace`.
    """
    stored = {row.name: row for row in connection.execute(select(endpoints).order_by(endpoints.c.id))}
    named = {spec.name: spec for spec in specs}
    for row in stored.values():  # by key, as everybody locks them
        if row.name in named:
            if row.origin == "manual":
                log.info("configuration.adopted", endpoint=row.name)
            _change(connection, row, named[row.name], context)
        elif row.origin == "config":
            connection.execute(delete(endpoints).where(endpoints.c.id == row.id))
    for spec in specs:
        if spec.name not in stored:
            _insert(connection, spec, "config", context)


def add_endpoint(connection: Connection, spec: EndpointSpec, context: EndpointContext) -> str:
    """Add a subscriber that starts at the head of every room's log; answers its secret.

    One that wants `room.snapshot` is told at once who is in every room that it may see.

    Raises:
        UsageError: the name is taken.
        BridgeError: other endpoints' secrets are ciphertext with a key that is not given.
    """
    check_keys(connection, context.cipher)
    taken = connection.execute(select(endpoints.c.id).where(endpoints.c.name == spec.name)).one_or_none()
    if taken is not None:
        raise UsageError(f"an endpoint named {spec.name!r} exists: choose another name, or remove that one first")
    return _insert(connection, spec, "manual", context)


def remove_endpoint(connection: Connection, name: str) -> None:
    """Forget a subscriber, its attempts and its backlog; the log of events stays.

    Raises:
        NotFoundError: there is no such endpoint.
        UsageError: the configuration owns it.
    """
    allow_long_transaction(connection)
    row = find_endpoint(connection, name)
    if row.origin == "config":
        raise UsageError(f"endpoint {row.name!r} stands in the configuration: remove it there and reload")
    connection.execute(delete(endpoints).where(endpoints.c.id == row.id))


def reset_health(connection: Connection, endpoint_key: int, now: datetime) -> None:
    """Deliver to it again: its health starts anew and its whole backlog is due at once, in order."""
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
    connection.execute(
        update(cursors)
        .where(
            cursors.c.endpoint_key == endpoint_key, cursors.c.acked < cursors.c.head, cursors.c.claim_token.is_(None)
        )
        .values(next_attempt_at=now, failed_attempts=0, rejections=0, first_failed_at=None, last_failed_at=None)
    )


def find_endpoint(connection: Connection, name: str) -> Row[Any]:
    """The endpoint of that name or public id.

    Raises:
        NotFoundError: there is none.
    """
    found = select(endpoints).where(or_(endpoints.c.name == name, endpoints.c.public_id == name))
    row = connection.execute(found.order_by((endpoints.c.name == name).desc()).limit(1)).one_or_none()
    if row is None:
        raise NotFoundError(f"no endpoint is named {name!r}: see `bridge endpoints list`")
    return row


def secrets_of(
    connection: Connection, endpoint_keys: Iterable[int], now: datetime, cipher: SecretCipher
) -> dict[int, list[str]]:
    """The secrets that sign for each endpoint, by its key: the current one first, then those still in their grace."""
    ciphertext = encrypted_secrets(connection, list(endpoint_keys), now)
    return {key: list(decrypt_secrets(texts, cipher)) for key, texts in ciphertext.items()}


def encrypted_secrets(connection: Connection, endpoint_keys: Sequence[int], now: datetime) -> dict[int, list[str]]:
    """As `secrets_of`, not yet opened."""
    ciphertext: dict[int, list[str]] = {}
    for row in connection.execute(_SIGNING, {"keys": endpoint_keys, "now": now}):
        ciphertext.setdefault(row.endpoint_key, []).append(row.ciphertext)
    return ciphertext


def decrypt_secrets(ciphertext: Sequence[str], cipher: SecretCipher) -> tuple[str, ...]:
    """The secrets themselves, each once: one may have been changed back within its grace.

    Raises:
        BridgeError: one of them is ciphertext with a key that is not given.
    """
    return tuple(dict.fromkeys(cipher.open(text) for text in ciphertext))


def is_secret_generated(connection: Connection, endpoint_key: int) -> bool:
    """Whether the bridge itself made the endpoint's current secret."""
    current = (
        select(endpoint_secrets.c.generated)
        .where(endpoint_secrets.c.endpoint_key == endpoint_key, endpoint_secrets.c.expires_at.is_(None))
        .order_by(endpoint_secrets.c.id.desc())
        .limit(1)
    )
    return bool(connection.execute(current).scalar_one())


def replace_secret(
    connection: Connection,
    endpoint_key: int,
    secret: str,
    context: EndpointContext,
    *,
    generated: bool,
    grace: timedelta,
) -> None:
    """Let a new secret sign; the one before signs beside it for `grace`.

    Others that are in their grace keep it, as somebody was promised; without a `grace` all of them end, for a secret
    that has leaked.
    """
    of_endpoint = (endpoint_secrets.c.endpoint_key == endpoint_key,)
    if grace <= timedelta():
        connection.execute(update(endpoint_secrets).where(*of_endpoint).values(expires_at=context.now))
    else:
        current = (*of_endpoint, endpoint_secrets.c.expires_at.is_(None))
        connection.execute(update(endpoint_secrets).where(*current).values(expires_at=context.now + grace))
    _insert_secret(connection, endpoint_key, secret, context, generated=generated)
    connection.execute(update(endpoints).where(endpoints.c.id == endpoint_key).values(rotated_at=context.now))


def _insert_secret(
    connection: Connection, endpoint_key: int, secret: str, context: EndpointContext, *, generated: bool
) -> None:
    connection.execute(
        insert(endpoint_secrets).values(
            endpoint_key=endpoint_key,
            ciphertext=context.cipher.encrypt(secret),
            generated=generated,
            created_at=context.now,
        )
    )


def _insert(connection: Connection, spec: EndpointSpec, origin: str, context: EndpointContext) -> str:
    values = {
        "public_id": context.new_id("ep"),
        "name": spec.name,
        "origin": origin,
        "created_at": context.now,
        "state": "active" if spec.enabled else "disabled",
        "state_reason": None if spec.enabled else "configuration" if origin == "config" else "operator",
        **_spec_values(spec, context.cipher),
    }
    key = connection.execute(insert(endpoints).values(**values).returning(endpoints.c.id)).scalar_one()
    secret = spec.secret or context.new_secret(spec.signature)
    _insert_secret(connection, key, secret, context, generated=spec.secret is None)
    if matches(EventType.ROOM_SNAPSHOT, spec.events):
        request_snapshots(connection, key)
    return secret


def _change(connection: Connection, row: Row[Any], spec: EndpointSpec, context: EndpointContext) -> None:
    values = _spec_values(spec, context.cipher)
    if row.rate_per_second != spec.rate_per_second:
        values |= {"rate_at": None}
    if row.state == "active" and not spec.enabled:
        values |= {"state": "disabled", "state_reason": "configuration"}
    connection.execute(update(endpoints).where(endpoints.c.id == row.id).values(origin="config", **values))
    if row.state_reason == "configuration" and spec.enabled:
        reset_health(connection, row.id, context.now)
    if matches(EventType.ROOM_SNAPSHOT, spec.events) and not matches(EventType.ROOM_SNAPSHOT, row.events):
        request_snapshots(connection, row.id)
    try:
        current = secrets_of(connection, [row.id], context.now, context.cipher)[row.id][0]
    except BridgeError:
        _unlock(connection, row.id, spec, context)
        return
    if spec.secret is None and _can_sign(current, spec):
        _own_secret(connection, row.id)
    elif spec.secret != current:
        secret = spec.secret or context.new_secret(spec.signature)
        replace_secret(connection, row.id, secret, context, generated=spec.secret is None, grace=context.rotation_grace)


def _unlock(connection: Connection, endpoint_key: int, spec: EndpointSpec, context: EndpointContext) -> None:
    """No key opens what is stored: the file's word takes its place; without one, the endpoint stays locked."""
    if spec.secret is not None:
        connection.execute(delete(endpoint_secrets).where(endpoint_secrets.c.endpoint_key == endpoint_key))
        _insert_secret(connection, endpoint_key, spec.secret, context, generated=False)
        connection.execute(update(endpoints).where(endpoints.c.id == endpoint_key).values(rotated_at=context.now))


def _can_sign(secret: str, spec: EndpointSpec) -> bool:
    """Whether a stored secret still serves: any text does in the style `huddle01`, elsewhere its kind must match."""
    if spec.style == "huddle01":
        return True
    try:
        parsed = parse_secret(secret)
    except InvalidSecretError:
        return False
    return isinstance(parsed, Ed25519Secret) == (spec.signature == "v1a")


def _own_secret(connection: Connection, endpoint_key: int) -> None:
    """A secret that the file names no more is the bridge's to rotate: nobody else has it to change."""
    connection.execute(
        update(endpoint_secrets)
        .where(endpoint_secrets.c.endpoint_key == endpoint_key, endpoint_secrets.c.expires_at.is_(None))
        .values(generated=True)
    )


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


_SIGNING = (
    select(endpoint_secrets.c.endpoint_key, endpoint_secrets.c.ciphertext)
    .where(
        endpoint_secrets.c.endpoint_key.in_(bindparam("keys", expanding=True)),
        or_(endpoint_secrets.c.expires_at.is_(None), endpoint_secrets.c.expires_at > bindparam("now")),
    )
    .order_by(endpoint_secrets.c.id.desc())
)

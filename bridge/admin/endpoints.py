"""Subscribers as people and programs ask for them: what they want, how they are doing, how much they are owed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, func, or_, select

from bridge.admin.attempts import AttemptFilter, ListedAttempt, list_attempts
from bridge.admin.listing import Page
from bridge.db.encryption import SecretCipher
from bridge.db.tables import cursors, dead_letters, endpoint_secrets, endpoints, events
from bridge.delivery.endpoints import find_endpoint
from bridge.errors import BridgeError
from bridge.events.types import matches
from bridge.rules.signing import InvalidSecretError, parse_secret

HIDDEN = "…"
LOCKED = "(ciphertext with a key that is not given)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedEndpoint:
    """A subscriber. `owed_rooms` and `owed_events` are its backlog; `timeout_seconds` None is `[delivery]`'s."""

    id: str
    name: str
    url: str
    events: tuple[str, ...]
    rooms: tuple[str, ...]
    style: str
    signature: str
    origin: str
    created_at: datetime
    state: str
    state_reason: str | None
    circuit: str
    failures_in_row: int
    failing_since: datetime | None
    last_success_at: datetime | None
    paused_until: datetime | None
    owed_rooms: int
    owed_events: int
    dead_letters: int
    rate_per_second: float
    max_concurrency: int
    timeout_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSecret:
    """A secret that signs now, until `expires_at` if it has been replaced; hidden, or revealed on purpose."""

    secret: str = field(repr=False)
    public_key: str | None
    generated: bool
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownEndpoint(ListedEndpoint):
    """A subscriber with everything about it; the current secret first."""

    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[ShownSecret, ...]
    last_attempt: ListedAttempt | None


@dataclass(frozen=True, slots=True)
class _Owed:
    rooms: int = 0
    events: int = 0


def list_endpoints(connection: Connection) -> list[ListedEndpoint]:
    """Every subscriber, by name."""
    rows = connection.execute(select(endpoints).order_by(endpoints.c.name)).all()
    return [ListedEndpoint(**values) for values in _values(connection, rows)]


def show_endpoint(
    connection: Connection, name: str, *, now: datetime, cipher: SecretCipher, reveal: bool = False
) -> ShownEndpoint:
    """The subscriber of that name or id.

    Args:
        connection: Of a transaction.
        name: Its name or public id.
        now: Which secrets have expired depends on it.
        cipher: Opens the secrets.
        reveal: Show them, and the values of the endpoint's own headers.

    Raises:
        NotFoundError: there is none.
        BridgeError: what is to be revealed cannot be opened.
    """
    row = find_endpoint(connection, name)
    (values,) = _values(connection, [row])
    opened = _opened(row.headers, cipher, reveal=reveal)
    headers: dict[str, str] = {} if opened is None else json.loads(opened)
    newest = list_attempts(connection, AttemptFilter(endpoint=row.name), Page(limit=1))
    return ShownEndpoint(
        **values,
        headers=headers if reveal else dict.fromkeys(headers, HIDDEN),
        secrets=_secrets(connection, row, now=now, cipher=cipher, reveal=reveal),
        last_attempt=newest[0] if newest else None,
    )


def _values(connection: Connection, rows: Collection[Row[Any]]) -> list[dict[str, Any]]:
    keys = [row.id for row in rows]
    owed = _owed(connection, {row.id: row.events for row in rows})
    parked = {
        row.endpoint_key: row.parked
        for row in connection.execute(
            select(dead_letters.c.endpoint_key, func.count().label("parked"))
            .where(dead_letters.c.endpoint_key.in_(keys))
            .group_by(dead_letters.c.endpoint_key)
        )
    }
    return [_endpoint_values(row, owed.get(row.id, _Owed()), parked.get(row.id, 0)) for row in rows]


def _owed(connection: Connection, wanted: Mapping[int, Collection[str]]) -> dict[int, _Owed]:
    """How many rooms and events each endpoint waits for: not what its cursors only have to pass over."""
    within_reach = and_(
        events.c.room_key == cursors.c.room_key,
        events.c.sequence > cursors.c.acked,
        events.c.sequence <= cursors.c.head,
    )
    by_line = connection.execute(
        select(cursors.c.endpoint_key, cursors.c.room_key, events.c.type, func.count().label("waiting"))
        .join(events, within_reach)
        .where(cursors.c.acked < cursors.c.head, cursors.c.endpoint_key.in_(list(wanted)))
        .group_by(cursors.c.endpoint_key, cursors.c.room_key, events.c.type)
    )
    waiting: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for row in by_line:
        if matches(row.type, wanted[row.endpoint_key]):
            waiting[row.endpoint_key][row.room_key] += row.waiting
    return {key: _Owed(rooms=len(rooms), events=sum(rooms.values())) for key, rooms in waiting.items()}


def _secrets(
    connection: Connection, endpoint: Row[Any], *, now: datetime, cipher: SecretCipher, reveal: bool
) -> tuple[ShownSecret, ...]:
    signing = (
        select(endpoint_secrets)
        .where(
            endpoint_secrets.c.endpoint_key == endpoint.id,
            or_(endpoint_secrets.c.expires_at.is_(None), endpoint_secrets.c.expires_at > now),
        )
        .order_by(endpoint_secrets.c.id.desc())
    )
    return tuple(
        _shown(row, _opened(row.ciphertext, cipher, reveal=reveal), reveal=reveal)
        for row in connection.execute(signing)
    )


def _opened(ciphertext: str, cipher: SecretCipher, *, reveal: bool) -> str | None:
    """What is ciphertext; None if it cannot be opened, and nobody asked to see it."""
    try:
        return cipher.open(ciphertext)
    except BridgeError:
        if reveal:
            raise
        return None


def _shown(row: Row[Any], secret: str | None, *, reveal: bool) -> ShownSecret:
    if secret is None:
        secret = LOCKED
    prefix = next((known for known in ("whsec_", "whsk_") if secret.startswith(known)), "")
    return ShownSecret(
        secret=secret if reveal or secret == LOCKED else prefix + HIDDEN,
        public_key=_public_key(secret) if prefix == "whsk_" else None,
        generated=row.generated,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


def _public_key(secret: str) -> str | None:
    try:
        return str(getattr(parse_secret(secret), "public_key", None))
    except InvalidSecretError:
        return None


def _endpoint_values(row: Row[Any], owed: _Owed, parked: int) -> dict[str, Any]:
    return {
        "id": row.public_id,
        "name": row.name,
        "url": row.url,
        "events": tuple(row.events),
        "rooms": tuple(row.rooms),
        "style": row.style,
        "signature": row.signature,
        "origin": row.origin,
        "created_at": row.created_at,
        "state": row.state,
        "state_reason": row.state_reason,
        "circuit": row.circuit,
        "failures_in_row": row.failures_in_row,
        "failing_since": row.failing_since,
        "last_success_at": row.last_success_at,
        "paused_until": row.paused_until,
        "owed_rooms": owed.rooms,
        "owed_events": owed.events,
        "dead_letters": parked,
        "rate_per_second": row.rate_per_second,
        "max_concurrency": row.max_concurrency,
        "timeout_seconds": row.timeout_seconds,
    }

"""Endpoints for listings: settings, health, backlog, secrets."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, func, or_, select

from bridge.admin.attempts import AttemptFilter, ListedAttempt, list_attempts
from bridge.admin.listing import Listing, Order, Page, columns_of, copy_fields, fetch_page
from bridge.db.encryption import SecretCipher
from bridge.db.tables import cursors, dead_letters, endpoint_secrets, endpoints, events
from bridge.delivery.endpoints import find_endpoint
from bridge.errors import BridgeError
from bridge.events.types import EventType, matches
from bridge.rules.signing import InvalidSecretError, parse_secret

HIDDEN = "…"
LOCKED = "(encrypted with a key that is not listed)"


class EndpointState(StrEnum):
    """A disabled endpoint has a `state_reason`."""

    ACTIVE = "active"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedEndpoint:
    """An endpoint with its backlog; `timeout_seconds` is None for the default of `[delivery]`."""

    id: str
    name: str
    url: str
    events: Sequence[str]
    rooms: Sequence[str]
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
    """A secret that signs now, hidden unless revealed; one that was replaced signs until `expires_at`."""

    secret: str = field(repr=False)
    public_key: str | None
    generated: bool
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownEndpoint(ListedEndpoint):
    """An endpoint with its headers, its secrets (the current one first) and its last attempt."""

    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[ShownSecret, ...]
    last_attempt: ListedAttempt | None


_BY_NAME = Order((endpoints.c.name,), newest_first=False)
_DEAD_LETTERS = select(func.count()).where(dead_letters.c.endpoint_key == endpoints.c.id).scalar_subquery()
_LISTED: Select[Any] = select(
    endpoints.c.public_id.label("id"),
    *columns_of(endpoints, ListedEndpoint),
    _DEAD_LETTERS.label("dead_letters"),
)


def list_endpoints(
    connection: Connection, page: Page, *, state: EndpointState | None = None
) -> Listing[ListedEndpoint]:
    """Return endpoints (in a state), ordered by name."""
    query = _LISTED if state is None else _LISTED.where(endpoints.c.state == state.value)

    def listed(**columns: Any) -> ListedEndpoint:  # noqa: ANN401 - of any type
        return ListedEndpoint(**columns, **_owed(connection, columns["id"], columns["events"]))

    return fetch_page(connection, query, _BY_NAME, page, listed)


def show_endpoint(
    connection: Connection, name: str, *, now: datetime, cipher: SecretCipher, reveal: bool = False
) -> ShownEndpoint:
    """Return the endpoint with that name or id.

    Args:
        connection: Of a transaction.
        name: The endpoint's name or public id.
        now: Decides which secrets have expired.
        cipher: Decrypts the secrets.
        reveal: Show the secrets and the values of the endpoint's own headers.

    Raises:
        NotFoundError: there is none.
        BridgeError: what is to be revealed cannot be decrypted.
    """
    stored = find_endpoint(connection, name)
    row = connection.execute(_LISTED.where(endpoints.c.id == stored.id)).one()
    decrypted = _decrypt(stored.headers, cipher, reveal=reveal)
    headers: dict[str, str] = {} if decrypted is None else json.loads(decrypted)
    newest = list_attempts(connection, AttemptFilter(endpoint=stored.name), Page(limit=1)).items
    return ShownEndpoint(
        **row._asdict(),
        **_owed(connection, row.id, row.events),
        headers=headers if reveal else dict.fromkeys(headers, HIDDEN),
        secrets=_secrets(connection, stored.id, now=now, cipher=cipher, reveal=reveal),
        last_attempt=newest[0] if newest else None,
    )


def oldest_owed(connection: Connection, endpoint_ids: Collection[str]) -> dict[str, datetime]:
    """Return when the oldest event that is owed was recorded, by the endpoint's id; one that it skips counts too."""
    oldest = (
        select(endpoints.c.public_id, func.min(events.c.recorded_at).label("oldest"))
        .join(cursors, and_(cursors.c.endpoint_key == endpoints.c.id, cursors.c.acked < cursors.c.head))
        .join(events, and_(events.c.room_key == cursors.c.room_key, events.c.sequence == cursors.c.acked + 1))
        .where(endpoints.c.public_id.in_(endpoint_ids))
        .group_by(endpoints.c.public_id)
    )
    return {row.public_id: row.oldest for row in connection.execute(oldest)}


def _owed(connection: Connection, endpoint_id: str, globs: Collection[str]) -> dict[str, Any]:
    """Count the rooms and events that the endpoint waits for, without the events that its cursors only pass over."""
    within_reach = and_(
        events.c.room_key == cursors.c.room_key,
        events.c.sequence > cursors.c.acked,
        events.c.sequence <= cursors.c.head,
    )
    owed = (
        select(func.count(cursors.c.room_key.distinct()).label("owed_rooms"), func.count().label("owed_events"))
        .select_from(endpoints)
        .join(cursors, cursors.c.endpoint_key == endpoints.c.id)
        .join(events, within_reach)
        .where(
            endpoints.c.public_id == endpoint_id,
            cursors.c.acked < cursors.c.head,
            events.c.type.in_(_types(globs)),
        )
    )
    return connection.execute(owed).one()._asdict()


def _types(globs: Collection[str]) -> list[str]:
    return [known.value for known in EventType if matches(known, globs)]


def _secrets(
    connection: Connection, endpoint_key: int, *, now: datetime, cipher: SecretCipher, reveal: bool
) -> tuple[ShownSecret, ...]:
    signing = (
        select(endpoint_secrets)
        .where(
            endpoint_secrets.c.endpoint_key == endpoint_key,
            or_(endpoint_secrets.c.expires_at.is_(None), endpoint_secrets.c.expires_at > now),
        )
        .order_by(endpoint_secrets.c.id.desc())
    )
    return tuple(
        _shown(row, _decrypt(row.ciphertext, cipher, reveal=reveal), reveal=reveal)
        for row in connection.execute(signing)
    )


def _decrypt(ciphertext: str, cipher: SecretCipher, *, reveal: bool) -> str | None:
    """Return the text; None if it cannot be decrypted and need not be revealed."""
    try:
        return cipher.decrypt(ciphertext)
    except BridgeError:
        if reveal:
            raise
        return None


def _shown(row: Row[Any], secret: str | None, *, reveal: bool) -> ShownSecret:
    if secret is None:
        secret = LOCKED
    prefix = next((known for known in ("whsec_", "whsk_") if secret.startswith(known)), "")
    return copy_fields(
        ShownSecret,
        row,
        secret=secret if reveal or secret == LOCKED else prefix + HIDDEN,
        public_key=_public_key(secret) if prefix == "whsk_" else None,
    )


def _public_key(secret: str) -> str | None:
    try:
        return str(getattr(parse_secret(secret), "public_key", None))
    except InvalidSecretError:
        return None

"""Endpoints as the sender needs them: URL, headers, secrets. A sender keeps those that it has called recently.

A kept target is valid while the row of its endpoint is the same (`TARGET_COLUMNS`; `rotated_at` changes with every
secret) and no previous secret has expired.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Row, bindparam, update

from bridge.db.cursors import TARGET_COLUMNS, KnownEndpoint, Offer
from bridge.db.encryption import SecretCipher
from bridge.db.tables import endpoints
from bridge.delivery.endpoints import find_endpoint
from bridge.delivery.secrets import SigningSecret, decrypt_secrets, signing_secrets
from bridge.errors import BridgeError
from bridge.events.subscription import Subscription, subscription
from bridge.logs import get_logger
from bridge.metrics import endpoint_label
from bridge.rules.rate import UNLIMITED

UNREADABLE_PAUSE = timedelta(minutes=1)
"""For an endpoint whose secret cannot be decrypted."""

log = get_logger("bridge.delivery")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An endpoint as the sender needs it; `secrets` in signing order, the current one first.

    `rotated_at` is the time of the last change of its secret: once it differs, the claim must not be continued.
    """

    key: int
    name: str
    metrics_label: str = ""
    url: str
    format: str
    signature: str
    timeout: timedelta | None
    rotated_at: datetime | None = None
    headers: dict[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeptTarget:
    """A target, the row that it came from, and when the first of its secrets expires."""

    target: Target
    row: tuple[Any, ...] = field(repr=False)
    subscription: Subscription
    valid_until: datetime | None

    def is_valid(self, now: datetime) -> bool:
        """Whether its secrets still sign."""
        return self.valid_until is None or self.valid_until > now


class TargetCache:
    """The targets of one sender."""

    def __init__(self, cipher: SecretCipher) -> None:
        self._cipher = cipher
        self._kept: dict[int, KeptTarget] = {}

    def load(self, connection: Connection, rows: Sequence[Row[Any]], now: datetime) -> dict[int, Target]:
        """Targets by key, of rows of `endpoints`; an endpoint whose secret cannot be decrypted is paused instead."""
        missing = [row for row in rows if not self._is_current(row, now)]
        secrets = signing_secrets(connection, [row.id for row in missing], now) if missing else {}
        for row in missing:
            self._kept.pop(row.id, None)
            try:
                self._kept[row.id] = _kept_target(row, secrets[row.id], self._cipher)
            except (BridgeError, ValueError, LookupError) as error:
                log.error("endpoint.secret_unreadable", endpoint=row.name, detail=str(error))  # noqa: TRY400 - the message is all
                connection.execute(_PAUSE, {"key": row.id, "until": now + UNREADABLE_PAUSE})
        return {row.id: self._kept[row.id].target for row in rows if row.id in self._kept}

    def offer(
        self,
        *,
        token: str,
        now: datetime,
        slots: int,
        per_endpoint: int = UNLIMITED,
        under_way: Mapping[int, int] = MappingProxyType({}),
    ) -> Offer:
        """An offer to take over cursors of all endpoints that are kept.

        Args:
            token: for their claims.
            now: for pauses, and for secrets that expire.
            slots: most cursors in all.
            per_endpoint: most cursors of one endpoint,
            under_way: of which it has so many already, by key.
        """
        known = {
            key: KnownEndpoint(subscription=kept.subscription, row=kept.row, slots=per_endpoint - under_way.get(key, 0))
            for key, kept in list(self._kept.items())
            if kept.is_valid(now)
        }
        return Offer(token=token, now=now, slots=slots, known=known)

    def get(self, endpoint_key: int) -> Target | None:
        """The target of an endpoint, if it is kept."""
        kept = self._kept.get(endpoint_key)
        return None if kept is None else kept.target

    def _is_current(self, row: Row[Any], now: datetime) -> bool:
        kept = self._kept.get(row.id)
        return kept is not None and kept.row == target_row(row) and kept.is_valid(now)


def load_target(connection: Connection, name: str, *, now: datetime, cipher: SecretCipher) -> Target:
    """The endpoint of that name or id, whatever its state.

    Raises:
        NotFoundError: there is none.
    """
    row = find_endpoint(connection, name)
    return _kept_target(row, signing_secrets(connection, [row.id], now)[row.id], cipher).target


def target_row(row: Row[Any]) -> tuple[Any, ...]:
    """The values of `TARGET_COLUMNS` in a row of `endpoints`."""
    return tuple(row._mapping[column] for column in TARGET_COLUMNS)  # noqa: SLF001 - SQLAlchemy's public name for it


def _kept_target(row: Row[Any], secrets: Sequence[SigningSecret], cipher: SecretCipher) -> KeptTarget:
    target = Target(
        key=row.id,
        name=row.name,
        metrics_label=endpoint_label(row.name, row.origin),
        url=row.url,
        format=row.style,
        signature=row.signature,
        timeout=None if row.timeout_seconds is None else timedelta(seconds=row.timeout_seconds),
        rotated_at=row.rotated_at,
        headers=json.loads(cipher.decrypt(row.headers)),
        secrets=decrypt_secrets([secret.ciphertext for secret in secrets], cipher),
    )
    expiries = [secret.expires_at for secret in secrets if secret.expires_at is not None]
    return KeptTarget(target, target_row(row), subscription(row.id, row.events, row.rooms), min(expiries, default=None))


_PAUSE = (
    update(endpoints)
    .where(endpoints.c.id == bindparam("key"))
    .values(paused_until=bindparam("until"), redeliveries_paused_until=bindparam("until"))
)

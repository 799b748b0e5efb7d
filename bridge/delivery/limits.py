"""Limits of an endpoint: `max_concurrency` and `rate_per_second`, over all senders.

The rows of the endpoints are locked by the caller, which makes both limits exact: nothing read here changes before the
claim that it allows is written.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, case, or_, select, update

from bridge.db.arrays import one_of
from bridge.db.cursors import BUSY_CURSORS
from bridge.db.tables import cursors, endpoints
from bridge.rules.rate import UNLIMITED, Rate

RATE_ALLOWS = or_(
    endpoints.c.rate_per_second <= 0,
    endpoints.c.next_delivery_at.is_(None),
    endpoints.c.next_delivery_at <= bindparam("now"),
)
"""Whether the rate of the endpoint at hand allows an attempt now: `Rate.available` in SQL, if no clock is wrong."""
CURSORS_AT_ONCE = case((endpoints.c.circuit == "closed", endpoints.c.max_concurrency), else_=1)


def busy_cursors(connection: Connection, endpoint_keys: Collection[int]) -> dict[int, int]:
    """Number of cursors that are worked on, by endpoint."""
    rows = connection.execute(_BUSY_BY_ENDPOINT, {"keys": list(endpoint_keys)})
    return {row.id: row.busy for row in rows}


def live_allowance(endpoint: Row[Any], busy: int, now: datetime) -> int:
    """Number of further cursors that may be worked on; one in all while the circuit is open."""
    if endpoint.circuit != "closed":
        return 0 if busy else 1
    free: int = endpoint.max_concurrency - busy
    return min(free, _rate_allowance(endpoint, now))


def redelivery_allowance(connection: Connection, endpoint: Row[Any], busy: int, now: datetime) -> int:
    """Number of redeliveries that may be claimed: none while live events need the last slot."""
    if endpoint.state == "active":
        free: int = endpoint.max_concurrency - busy
        is_last = free == 1 or endpoint.circuit != "closed"  # an open circuit has one slot, for the probe
        if free <= 0 or (is_last and has_due_events(connection, endpoint.id, now)):
            return 0
    return min(1 if endpoint.max_concurrency == 1 else UNLIMITED, _rate_allowance(endpoint, now))


def spend_rate(connection: Connection, endpoint: Row[Any], count: int, now: datetime) -> None:
    """Spend attempts of the endpoint's rate, if it has one."""
    rate = Rate(endpoint.rate_per_second)
    if rate.per_second > 0:
        next_at = rate.after(count, endpoint.next_delivery_at, now)
        connection.execute(update(endpoints).where(endpoints.c.id == endpoint.id).values(next_delivery_at=next_at))


def has_due_events(connection: Connection, endpoint_key: int, now: datetime) -> bool:
    """Whether a live event is due for the endpoint."""
    return connection.execute(_DUE_EVENT, {"endpoint": endpoint_key, "now": now}).one_or_none() is not None


def _rate_allowance(endpoint: Row[Any], now: datetime) -> int:
    return Rate(endpoint.rate_per_second).available(endpoint.next_delivery_at, now)


_BUSY_BY_ENDPOINT = select(endpoints.c.id, BUSY_CURSORS.label("busy")).where(one_of(endpoints.c.id, "keys"))
_DUE_EVENT = (
    select(cursors.c.id)
    .where(
        cursors.c.endpoint_key == bindparam("endpoint"),
        cursors.c.acked < cursors.c.head,
        cursors.c.next_attempt_at <= bindparam("now"),
        cursors.c.claim_token.is_(None),
    )
    .limit(1)
)

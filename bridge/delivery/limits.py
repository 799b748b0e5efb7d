"""How much of an endpoint may be worked on now: `max_concurrency` and `rate_per_second`, over all senders.

The caller holds the rows of the endpoints meanwhile. That is what makes both limits exact: what it reads here nobody
changes before it has claimed what it is allowed to.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, bindparam, case, exists, func, or_, select, update

from bridge.db.tables import cursors, endpoints, redeliveries

UNLIMITED = 1_000_000
ROUNDING = 1e-6
"""So that a rate of exactly one attempt is not lost to a float just below it."""
RATE_BURST = timedelta(milliseconds=250)
"""How much unused rate an endpoint may save up: enough to use all of it between two ticks."""

REDELIVERING_NOW = exists().where(
    redeliveries.c.endpoint_key == endpoints.c.id,
    redeliveries.c.state == "owed",
    redeliveries.c.claim_token.is_not(None),
    redeliveries.c.next_attempt_at > bindparam("now"),
)
"""Whether somebody is working off redeliveries of the endpoint at hand."""

BUSY_CURSORS = (
    select(func.count())
    .select_from(cursors)
    .where(
        cursors.c.endpoint_key == endpoints.c.id,
        cursors.c.claim_token.is_not(None),
        cursors.c.next_attempt_at > bindparam("now"),
    )
    .correlate(endpoints)
    .scalar_subquery()
) + case((REDELIVERING_NOW, 1), else_=0)
"""How many lines of the endpoint at hand somebody is working on; its line of redeliveries is one of them."""

RATE_IS_FREE = or_(
    endpoints.c.rate_per_second <= 0, endpoints.c.rate_at.is_(None), endpoints.c.rate_at <= bindparam("now")
)
"""Whether the rate of the endpoint at hand leaves an attempt for now."""
CURSORS_AT_ONCE = case((endpoints.c.circuit == "closed", endpoints.c.max_concurrency), else_=1)
"""How many lines of the endpoint at hand may be worked on at once."""


def busy_cursors(connection: Connection, endpoint_keys: Collection[int], now: datetime) -> dict[int, int]:
    """How many lines of each of the endpoints somebody is working on."""
    rows = connection.execute(_BUSY_BY_ENDPOINT, {"now": now, "keys": list(endpoint_keys)})
    return {row.id: row.busy for row in rows}


def live_allowance(endpoint: Row[Any], busy: int, now: datetime) -> int:
    """How many cursors may be worked on beside those that already are; one at a time while the circuit is open."""
    if endpoint.circuit != "closed":
        return 0 if busy else 1
    free: int = endpoint.max_concurrency - busy
    return min(free, rate_allowance(endpoint, now))


def replay_allowance(connection: Connection, endpoint: Row[Any], busy: int, now: datetime) -> int:
    """How many redeliveries may be taken at once: none while live events need the last place."""
    if endpoint.state == "active":
        free: int = endpoint.max_concurrency - busy
        is_last = free == 1 or endpoint.circuit != "closed"  # while it is open, there is one place, and it is a probe's
        if free <= 0 or (is_last and has_pending_events(connection, endpoint, now)):
            return 0
    return min(1 if endpoint.max_concurrency == 1 else UNLIMITED, max(0, rate_allowance(endpoint, now)))


def rate_allowance(endpoint: Row[Any], now: datetime) -> int:
    """How many attempts the endpoint's `rate_per_second` leaves for now; below 1 if it leaves none."""
    if endpoint.rate_per_second <= 0:
        return UNLIMITED
    spacing = _spacing(endpoint)
    return int((now - _next_at(endpoint, spacing, now)) / spacing + ROUNDING) + 1 if _is_free(endpoint, now) else 0


def spend_rate(connection: Connection, endpoint: Row[Any], count: int, now: datetime) -> None:
    """Use up some of the endpoint's rate, if it has one; what is not there yet is used up in advance."""
    if endpoint.rate_per_second > 0:
        spacing = _spacing(endpoint)
        next_at = _next_at(endpoint, spacing, now) + count * spacing
        connection.execute(update(endpoints).where(endpoints.c.id == endpoint.id).values(rate_at=next_at))


def _spacing(endpoint: Row[Any]) -> timedelta:
    return timedelta(seconds=1 / endpoint.rate_per_second)


def _is_free(endpoint: Row[Any], now: datetime) -> bool:
    """As RATE_IS_FREE."""
    return bool(endpoint.rate_at is None or endpoint.rate_at <= now)


def _next_at(endpoint: Row[Any], spacing: timedelta, now: datetime) -> datetime:
    """Since when the next attempt may be made; what was saved up longer ago than a burst has lapsed."""
    earliest = now - max(RATE_BURST - spacing, timedelta())
    return earliest if endpoint.rate_at is None else max(endpoint.rate_at, earliest)


def has_pending_events(connection: Connection, endpoint: Row[Any], now: datetime) -> bool:
    """Whether a live event is due for the endpoint."""
    return connection.execute(_OWED, {"endpoint": endpoint.id, "now": now}).one_or_none() is not None


_BUSY_BY_ENDPOINT = select(endpoints.c.id, BUSY_CURSORS.label("busy")).where(
    endpoints.c.id.in_(bindparam("keys", expanding=True))
)
_OWED = (
    select(cursors.c.room_key)
    .where(
        cursors.c.endpoint_key == bindparam("endpoint"),
        cursors.c.acked < cursors.c.head,
        cursors.c.next_attempt_at <= bindparam("now"),
    )
    .limit(1)
)

"""Retention: deletes what is old enough, a little per transaction, so that nothing waits for it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, func, select

from bridge.db.tables import attempts, redeliveries
from bridge.rules.delivery import RedeliveryState

ROWS_AT_ONCE = 5_000


def prune_attempts(connection: Connection, before: datetime) -> int:
    """Delete some attempts and ended redeliveries from before that time; returns how many, 0 when none are left."""
    old = select(attempts.c.id).where(attempts.c.started_at < before).order_by(attempts.c.started_at)
    count = connection.execute(delete(attempts).where(attempts.c.id.in_(old.limit(ROWS_AT_ONCE)))).rowcount
    ended = (redeliveries.c.state != RedeliveryState.OWED.value, redeliveries.c.requested_at < before)
    done = select(redeliveries.c.id).where(*ended).limit(ROWS_AT_ONCE)
    return count + connection.execute(delete(redeliveries).where(redeliveries.c.id.in_(done))).rowcount


def count_old_attempts(connection: Connection, before: datetime) -> int:
    """Return how many attempts `prune_attempts` would delete."""
    old = select(func.count()).select_from(attempts).where(attempts.c.started_at < before)
    return int(connection.execute(old).scalar_one())

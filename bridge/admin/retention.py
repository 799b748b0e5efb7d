"""Retention: what is old enough to be forgotten. A little per transaction, so that nobody waits behind it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, select

from bridge.db.tables import attempts, redeliveries
from bridge.delivery.redeliver import RedeliveryState

AT_ONCE = 5_000


def prune_attempts(connection: Connection, before: datetime) -> int:
    """Forget some attempts, and redeliveries done with, from before then; answers how many, 0 when none are left."""
    old = select(attempts.c.id).where(attempts.c.started_at < before).order_by(attempts.c.started_at).limit(AT_ONCE)
    count = connection.execute(delete(attempts).where(attempts.c.id.in_(old))).rowcount
    done = redeliveries.c.state != RedeliveryState.OWED.value
    settled = select(redeliveries.c.id).where(done, redeliveries.c.requested_at < before).limit(AT_ONCE)
    return count + connection.execute(delete(redeliveries).where(redeliveries.c.id.in_(settled))).rowcount

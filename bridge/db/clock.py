"""What to do when the clock is put back: times that were due soon would else lie as far ahead as it was put back."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, Connection, update

from bridge.db.tables import cursors, endpoints, redeliveries, rooms, sources
from bridge.polling.source_state import UNAVAILABLE
from bridge.rules.delivery import RETRY_AFTER_CAP, Circuit
from bridge.rules.polling import RETRY_AFTER_LIMIT


def forgive_clock(connection: Connection, now: datetime) -> None:
    """Make everything due that waits for a time still to come; claims and what others asked for stand.

    A source that limits our rate, or an endpoint whose circuit is closed, is held because it asked for quiet. Of a room
    that fails it is not known whether it was asked for: it may be asked once too early.
    """
    connection.execute(
        update(rooms).where(rooms.c.next_poll_at > now, rooms.c.claim_token.is_(None)).values(next_poll_at=now)
    )

    connection.execute(update(sources).where(sources.c.budget_at > now).values(budget_at=now))
    in_trouble = sources.c.condition.in_([condition.value for condition in UNAVAILABLE])
    connection.execute(update(sources).where(in_trouble, sources.c.paused_until > now).values(paused_until=now))
    _cap(connection, sources.c.paused_until, now + RETRY_AFTER_LIMIT)

    connection.execute(update(endpoints).where(endpoints.c.rate_at > now).values(rate_at=now))
    is_open = endpoints.c.circuit == Circuit.OPEN.value
    connection.execute(update(endpoints).where(is_open, endpoints.c.paused_until > now).values(paused_until=now))
    _cap(connection, endpoints.c.paused_until, now + RETRY_AFTER_CAP)
    _cap(connection, endpoints.c.redeliveries_paused_until, now + RETRY_AFTER_CAP)

    for table in (cursors, redeliveries):
        waiting = (table.c.next_attempt_at > now, table.c.claim_token.is_(None))
        connection.execute(update(table).where(*waiting).values(next_attempt_at=now))


def _cap(connection: Connection, paused_until: Column[datetime], latest: datetime) -> None:
    """What others asked for ends at the latest when it would if they had asked for the most just now."""
    connection.execute(update(paused_until.table).where(paused_until > latest).values({paused_until.name: latest}))

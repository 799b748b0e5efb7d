"""After the clock was changed: due times that the old clock set lie too far ahead, so everything that waits is due."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, Connection, update

from bridge.db.tables import cursors, endpoints, redeliveries, rooms, sources
from bridge.rules.backoff import LONGEST_RETRY_AFTER
from bridge.rules.delivery import Circuit
from bridge.rules.polling import UNAVAILABLE


def make_everything_due(connection: Connection, now: datetime) -> None:
    """Make everything due that waits for a later time.

    Pauses that others asked for (a rate limit, a `Retry-After`) stay too, but for no longer than the longest possible.
    Tables are changed in the order in which everything locks: rooms, sources, endpoints, cursors.
    """
    _make_due(connection, rooms.c.next_poll_at, now)
    unavailable = sources.c.condition.in_([condition.value for condition in UNAVAILABLE])
    connection.execute(update(sources).where(unavailable, sources.c.paused_until > now).values(paused_until=now))
    is_open = endpoints.c.circuit == Circuit.OPEN.value
    connection.execute(update(endpoints).where(is_open, endpoints.c.paused_until > now).values(paused_until=now))
    latest = now + LONGEST_RETRY_AFTER
    for until in (sources.c.paused_until, endpoints.c.paused_until, endpoints.c.redeliveries_paused_until):
        connection.execute(update(until.table).where(until > latest).values({until.name: latest}))
    for next_at in (sources.c.next_request_at, endpoints.c.next_delivery_at):
        connection.execute(update(next_at.table).where(next_at > now).values({next_at.name: now}))
    for due in (cursors.c.next_attempt_at, redeliveries.c.next_attempt_at):
        _make_due(connection, due, now)


def _make_due(connection: Connection, due: Column[datetime], now: datetime) -> None:
    connection.execute(update(due.table).where(due > now).values({due.name: now}))

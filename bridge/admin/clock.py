"""Corrects due times from a wrong clock, so that no work waits for a time too far ahead."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Column, Connection, exists, func, or_, select, update

from bridge.db.tables import attempts, cursors, endpoints, events, jobs, redeliveries, rooms, sources
from bridge.polling.source_state import LIST_JOB
from bridge.rules.backoff import JITTER, LONGEST_RETRY_AFTER
from bridge.rules.delivery import Circuit, DeliveryPolicy
from bridge.rules.polling import UNAVAILABLE

TOLERANCE: Final = timedelta(seconds=10)
"""A record less far in the future is no sign of a changed clock: the clocks of machines differ."""
_IS_LIST = jobs.c.name.startswith(LIST_JOB)


def clock_lag(connection: Connection, now: datetime) -> timedelta:
    """How far the newest record lies in the future, zero if it does not: the clock was put back between two runs."""
    newest = [
        connection.execute(select(func.max(column))).scalar()
        for column in (rooms.c.polled_at, events.c.recorded_at, attempts.c.started_at)
    ]
    lag = max((moment - now for moment in newest if moment is not None), default=timedelta())
    return lag if lag > TOLERANCE else timedelta()


def longest_wait(interval: timedelta, policy: DeliveryPolicy) -> timedelta:
    """The longest wait that a rule sets, apart from the intervals of single rooms."""
    steps = (interval, LONGEST_RETRY_AFTER, *policy.retry_schedule, *policy.refused_schedule)
    return max(steps) * (1 + JITTER)


def waits_impossibly(connection: Connection, latest: datetime) -> bool:
    """Whether anything waits for a time after `latest`; quick, because indexes answer it."""
    of_source = (rooms.c.source == sources.c.name, rooms.c.next_poll_at > latest)
    of_cursor = (cursors.c.acked < cursors.c.head, cursors.c.next_attempt_at > latest)
    of_redelivery = (redeliveries.c.state == "owed", redeliveries.c.next_attempt_at > latest)
    waiting = (
        select(sources.c.name).where(or_(exists().where(*of_source), sources.c.paused_until > latest)),
        select(endpoints.c.id).where(
            or_(
                exists().where(cursors.c.endpoint_key == endpoints.c.id, *of_cursor),
                exists().where(redeliveries.c.endpoint_key == endpoints.c.id, *of_redelivery),
                endpoints.c.paused_until > latest,
                endpoints.c.redeliveries_paused_until > latest,
            )
        ),
        select(jobs.c.name).where(_IS_LIST, jobs.c.next_run_at > latest),
    )
    return any(connection.execute(query.limit(1)).first() is not None for query in waiting)


def make_impossible_due(connection: Connection, now: datetime, longest: timedelta) -> None:
    """Make everything due that waits longer than `longest`, or than the longest interval of a room."""
    seconds = connection.execute(select(func.max(rooms.c.interval_seconds))).scalar() or 0
    _make_due(connection, rooms.c.next_poll_at, now, max(longest, timedelta(seconds=seconds) * (1 + JITTER)))
    _end_long_pauses(connection, now)
    for due in (cursors.c.next_attempt_at, redeliveries.c.next_attempt_at):
        _make_due(connection, due, now, longest)
    _make_lists_due(connection, now, longest)


def make_everything_due(connection: Connection, now: datetime) -> None:
    """Make everything due that waits for a later time.

    Pauses that others asked for (a rate limit, a `Retry-After`) stay, unless they are longer than any can be.
    Tables are changed in the order in which everything locks: rooms, sources, endpoints, cursors, jobs.
    """
    _make_due(connection, rooms.c.next_poll_at, now)
    unavailable = sources.c.condition.in_([condition.value for condition in UNAVAILABLE])
    connection.execute(update(sources).where(unavailable, sources.c.paused_until > now).values(paused_until=now))
    is_open = endpoints.c.circuit == Circuit.OPEN.value
    connection.execute(update(endpoints).where(is_open, endpoints.c.paused_until > now).values(paused_until=now))
    _end_long_pauses(connection, now)
    for next_at in (sources.c.next_request_at, endpoints.c.next_delivery_at):
        _make_due(connection, next_at, now)
    for due in (cursors.c.next_attempt_at, redeliveries.c.next_attempt_at):
        _make_due(connection, due, now)
    _make_lists_due(connection, now)


def _make_lists_due(connection: Connection, now: datetime, after: timedelta = timedelta()) -> None:
    """Other jobs look at the clock themselves (`bridge.db.jobs`)."""
    connection.execute(update(jobs).where(_IS_LIST, jobs.c.next_run_at > now + after).values(next_run_at=now))


def _end_long_pauses(connection: Connection, now: datetime) -> None:
    for until in (sources.c.paused_until, endpoints.c.paused_until, endpoints.c.redeliveries_paused_until):
        _make_due(connection, until, now, LONGEST_RETRY_AFTER)


def _make_due(connection: Connection, due: Column[datetime], now: datetime, after: timedelta = timedelta()) -> None:
    connection.execute(update(due.table).where(due > now + after).values({due.name: now}))

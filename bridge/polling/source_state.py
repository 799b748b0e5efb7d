"""Sources as rows: how each is doing, how many requests it may be sent now, and whom that concerns.

The rules are `bridge.rules.polling`'s; here they meet the database, so that all pollers share one source_update and one budget.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, or_, select, update

from bridge.db.event_log import upsert
from bridge.db.tables import rooms, sources
from bridge.events.bodies import Draft, draft_source
from bridge.rules.polling import FAILURE_SCORE_LIMIT, Condition, SourceHealth, failure_score_limit, judge
from bridge.rules.presence import Failure, Snapshot

UNLIMITED = 1_000_000
ROUNDING = 1e-6
"""So that a budget of exactly one request is not lost to a float just below it."""
BURST = timedelta(milliseconds=250)
"""How much unused request budget a source may save up: enough to spend all of it between two ticks."""


UNAVAILABLE = frozenset({Condition.UNAUTHORIZED, Condition.FAILING})
"""A rate limit is the upstream at work, not away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one poll says of its source; no response if it was not asked.

    `is_news` says that the room had not failed before: one that always fails beside others that response says nothing
    about its source.
    """

    source: str
    response: Snapshot | Failure | None
    is_probe: bool
    is_news: bool
    at: datetime
    jitter: float


def lock_source(connection: Connection, name: str) -> Row[Any]:
    """The source's row, locked; made anew if a process whose file does not name the source has removed it."""
    row = connection.execute(_LOCKED, {"of": name}).one_or_none()
    if row is None:
        connection.execute(upsert(connection)(sources).values(name=name).on_conflict_do_nothing())
        row = connection.execute(_LOCKED, {"of": name}).one()
    return row


_LOCKED = select(sources).where(sources.c.name == bindparam("of")).with_for_update()


def retry_sources(connection: Connection, changed: Collection[str], now: datetime) -> None:
    """Somebody started or reloaded the bridge, perhaps to mend a source: the next probe of one in trouble is due now.

    A rate limit stands, unless the source is among the `changed`: it is asked at another address, or with another key.
    Then its rooms that failed are due now, for each may have been asked to wait.
    """
    failed = (rooms.c.source.in_(changed), rooms.c.failures > 0, rooms.c.claim_token.is_(None))
    connection.execute(update(rooms).where(*failed, rooms.c.next_poll_at > now).values(next_poll_at=now))
    mended = or_(sources.c.condition.in_(UNAVAILABLE), sources.c.name.in_(changed))
    connection.execute(update(sources).where(mended, sources.c.paused_until > now).values(paused_until=now))


def slots(row: Row[Any], requests_per_second: float, now: datetime) -> int:
    """How many requests a source may be sent now: one while it is in trouble, none while it is held."""
    if row.paused_until is not None and row.paused_until > now:
        return 0
    if requests_per_second <= 0:
        budget = UNLIMITED
    else:
        spacing = timedelta(seconds=1 / requests_per_second)
        budget = int((now - _saving_since(row, spacing, now)) / spacing + ROUNDING)
    return budget if row.condition == Condition.OK else min(budget, 1)


def _saving_since(row: Row[Any], spacing: timedelta, now: datetime) -> datetime:
    """The moment up to which the budget is spent; what was saved up longer ago than a burst has lapsed."""
    earliest = now - max(BURST, spacing)
    return earliest if row.budget_at is None else max(row.budget_at, earliest)


def spend(
    connection: Connection,
    row: Row[Any],
    requests_per_second: float,
    count: int,
    *,
    now: datetime,
    lease_until: datetime,
) -> None:
    """Take `count` requests out of the budget; while the source is in trouble, the one request is a probe."""
    values: dict[str, Any] = {}
    if requests_per_second > 0:
        spacing = timedelta(seconds=1 / requests_per_second)
        values["budget_at"] = _saving_since(row, spacing, now) + count * spacing
    if row.condition != Condition.OK:
        values["paused_until"] = lease_until  # the next probe waits until this one has had its say
    if values:
        connection.execute(update(sources).where(sources.c.name == row.name).values(**values))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUpdate:
    """How sources are doing by now, and what is to be told of it in the bridge's own log."""

    health: dict[str, SourceHealth]
    told: list[Draft]


def update_source_health(connection: Connection, reports: Sequence[Report]) -> SourceUpdate:
    """Fold the polls into what is known of their sources, and say what is to be told when one fails or recovers."""
    names = sorted({report.source for report in reports})
    known = {name: _health(lock_source(connection, name)) for name in names}  # all held before anything else is
    after: dict[str, SourceHealth] = {}
    told: list[Draft] = []
    for name, before in known.items():
        health, failure = before, None
        own = [report for report in reports if report.source == name and report.response is not None]
        limit = (
            _limit(connection, name)
            if any(isinstance(report.response, Failure) for report in own)
            else FAILURE_SCORE_LIMIT
        )
        nobody_is_well = any(not report.is_news for report in own) and _is_nobody_well(connection, name)
        for report in own:
            heard = report.response if isinstance(report.response, Failure) else None
            failure = heard or failure
            health = judge(
                health,
                heard,
                is_probe=report.is_probe,
                is_news=report.is_news or nobody_is_well,
                limit=limit,
                now=report.at,
                jitter=report.jitter,
            )
        after[name] = health
        if health != before:
            at = max(report.at for report in reports)
            _write_health(connection, name, health)
            if health.condition is Condition.OK and before.condition is not Condition.OK:
                _release_rooms(connection, name, before.since or at, at)
            told += _news(name, before, health, failure, at=at)
    return SourceUpdate(health=after, told=told)


def _limit(connection: Connection, source: str) -> int:
    polled = (
        select(rooms.c.id).where(rooms.c.source == source, rooms.c.next_poll_at.is_not(None)).limit(FAILURE_SCORE_LIMIT)
    )
    return failure_score_limit(connection.execute(select(func.count()).select_from(polled.subquery())).scalar_one())


def _is_nobody_well(connection: Connection, source: str) -> bool:
    """Whether every room of the source failed last: then each failure speaks for the source, not for its room."""
    well = (rooms.c.source == source, rooms.c.next_poll_at.is_not(None), rooms.c.failures == 0)
    return connection.execute(select(rooms.c.id).where(*well).limit(1)).one_or_none() is None


def _health(row: Row[Any]) -> SourceHealth:
    return SourceHealth(
        condition=Condition(row.condition),
        since=row.since,
        paused_until=row.paused_until,
        failure_score=row.failure_score,
        pauses=row.pauses,
    )


def _write_health(connection: Connection, name: str, health: SourceHealth) -> None:
    connection.execute(
        update(sources)
        .where(sources.c.name == name)
        .values(
            condition=health.condition.value,
            since=health.since,
            paused_until=health.paused_until,
            failure_score=health.failure_score,
            pauses=health.pauses,
        )
    )


def _release_rooms(connection: Connection, source: str, since: datetime, at: datetime) -> None:
    """A source that recovered is asked at once about every room that it failed to tell of since its trouble began."""
    failed = (rooms.c.source == source, rooms.c.failures > 0, rooms.c.polled_at >= since)
    connection.execute(
        update(rooms).where(*failed, rooms.c.claim_token.is_(None), rooms.c.next_poll_at > at).values(next_poll_at=at)
    )


def _news(
    name: str, before: SourceHealth, after: SourceHealth, failure: Failure | None, *, at: datetime
) -> Iterator[Draft]:
    was_away, is_away = before.condition in UNAVAILABLE, after.condition in UNAVAILABLE
    if was_away == is_away:
        return
    yield draft_source(
        available=was_away,
        source=name,
        condition=(before if was_away else after).condition.value,
        since=(before if was_away else after).since or at,
        detail=None if failure is None or was_away else failure.detail,
        observed_at=at,
    )

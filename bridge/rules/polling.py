"""When a room is polled next, and when a whole source is left alone: every rule of pace lives in this file.

Pure: `now` and `jitter` (uniform in [0, 1)) are arguments. DESIGN section 4: a suspect is confirmed early, a failing
room backs off, a bad key slows its source to a try a minute, `Retry-After` holds the whole source, and so do
failures of most of its rooms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from bridge.rules.presence import Failure, FailureKind

FOLLOW_UP = timedelta(seconds=2)
"""How soon a room is asked again about a peer that one snapshot missed."""
ROOM_BACKOFF_LIMIT = timedelta(minutes=1)
UNAUTHORIZED_PAUSE = timedelta(minutes=1)
SHORTEST_PAUSE = timedelta(seconds=1)
"""Whatever an upstream asks for: a `Retry-After` of 0 must not become a busy loop."""
RATE_LIMITED_PAUSE = timedelta(seconds=5)
"""For a 429 without `Retry-After`; doubled while it goes on."""
SOURCE_PAUSE = timedelta(seconds=2)
SOURCE_PAUSE_LIMIT = timedelta(minutes=1)
RETRY_AFTER_LIMIT = timedelta(hours=24)
"""Of a 429, which speaks for the whole source."""
ROOM_RETRY_AFTER_LIMIT = timedelta(minutes=5)
"""Of any other failure: a proxy's page of maintenance must not blind us for a day."""
FAILURE_SCORE_LIMIT = 8
"""Failures ahead of successes, over all rooms of a source, from which the source itself is held to be failing."""
LOWEST_FAILURE_SCORE_LIMIT = 3
"""The same for a source with a single room."""
JITTER = 0.2


def next_poll(due_at: datetime, now: datetime, interval: timedelta, *, suspects: bool) -> datetime:
    """After a snapshot: a fixed rate from when the poll was due, so that slow answers do not stretch the interval."""
    if suspects:
        return now + min(FOLLOW_UP, interval)
    following = due_at + interval
    return following if now < following <= now + interval else now + interval  # a clock may have been put back


def next_poll_after_failure(
    now: datetime,
    interval: timedelta,
    failures: int,
    jitter: float,
    *,
    suspects: bool = False,
    retry_after: timedelta | None = None,
) -> datetime:
    """After the `failures`-th failure in a row: doubling from the interval up to a minute, ± 20 %.

    From the follow-up's pause while somebody waits to be confirmed as missing; never before `retry_after`, unless that
    is longer than 5 minutes.
    """
    first = min(FOLLOW_UP, interval) if suspects else interval
    wait = _jittered(min(first * 2 ** min(failures - 1, 16), max(interval, ROOM_BACKOFF_LIMIT)), jitter)
    return now + (wait if retry_after is None else max(wait, min(retry_after, ROOM_RETRY_AFTER_LIMIT)))


class Condition(StrEnum):
    """How a source is doing."""

    OK = "ok"
    UNAUTHORIZED = "unauthorized"
    RATE_LIMITED = "rate_limited"
    FAILING = "failing"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHealth:
    """What is known of a source. Unless it is ok, only one room is tried each time that `paused_until` has passed.

    `since` is when its trouble began: with the first failure that counted, before it was held for failing.
    """

    condition: Condition = Condition.OK
    since: datetime | None = None
    paused_until: datetime | None = None
    failure_score: int = 0
    """Failures ahead of successes: it can only grow while most polls fail."""
    pauses: int = 0


def failure_score_limit(room_count: int) -> int:
    """How many failures ahead of successes make a source of so many rooms a failing one: two rounds, within bounds."""
    return min(max(2 * room_count, LOWEST_FAILURE_SCORE_LIMIT), FAILURE_SCORE_LIMIT)


def judge(
    health: SourceHealth,
    failure: Failure | None,
    *,
    is_probe: bool,
    is_news: bool = True,
    limit: int = FAILURE_SCORE_LIMIT,
    now: datetime,
    jitter: float,
) -> SourceHealth:
    """What one poll says of its source; no failure is a success.

    While a source is held, only the probe that was begun after the hold can lift or renew it: the answers of those
    that were under way when it began are old news.

    Args:
        health: of the source, before.
        failure: what the poll brought; None is an response.
        is_probe: the poll was begun to learn whether a source in trouble has recovered.
        is_news: the room had not failed before, or no room of the source is well. A room that always fails beside
            others that response is its own trouble, and backs off.
        limit: see `failure_score_limit`.
        now: when the response came.
        jitter: a chance assign_sequences in [0, 1).
    """
    if health.condition is not Condition.OK and not is_probe:
        return _extended(health, failure, now)
    if failure is None:
        if health.condition is Condition.OK:
            return (
                replace(health, failure_score=health.failure_score - 1) if health.failure_score > 1 else SourceHealth()
            )
        return SourceHealth()
    match failure.kind:
        case FailureKind.UNAUTHORIZED:
            return _held(health, Condition.UNAUTHORIZED, now, UNAUTHORIZED_PAUSE)
        case FailureKind.RATE_LIMITED:
            pause = min(RATE_LIMITED_PAUSE * 2 ** min(health.pauses, 4), SOURCE_PAUSE_LIMIT)
            asked = failure.retry_after
            return _held(health, Condition.RATE_LIMITED, now, pause if asked is None else min(asked, RETRY_AFTER_LIMIT))
        case FailureKind.SERVER_ERROR | FailureKind.BAD_RESPONSE | FailureKind.TIMEOUT | FailureKind.UNREACHABLE:
            return _troubled(health, limit, now, jitter) if is_news or is_probe else health


def _extended(health: SourceHealth, failure: Failure | None, now: datetime) -> SourceHealth:
    """A straggler's `Retry-After` may ask for more patience than the first one did."""
    if failure is None or failure.retry_after is None or health.paused_until is None:
        return health
    limit = RETRY_AFTER_LIMIT if failure.kind is FailureKind.RATE_LIMITED else ROOM_RETRY_AFTER_LIMIT
    return replace(health, paused_until=max(health.paused_until, now + min(failure.retry_after, limit)))


def _troubled(health: SourceHealth, limit: int, now: datetime, jitter: float) -> SourceHealth:
    failure_score = min(health.failure_score + 1, FAILURE_SCORE_LIMIT)
    health = replace(health, failure_score=failure_score, since=health.since or now)
    if failure_score < limit and health.condition is Condition.OK:
        return health
    condition = Condition.FAILING if failure_score >= limit else health.condition
    pause = _jittered(min(SOURCE_PAUSE * 2 ** min(health.pauses, 5), SOURCE_PAUSE_LIMIT), jitter)
    return _held(health, condition, now, pause)


def _held(health: SourceHealth, condition: Condition, now: datetime, pause: timedelta) -> SourceHealth:
    return SourceHealth(
        condition=condition,
        since=health.since or now,
        paused_until=now + max(pause, SHORTEST_PAUSE),
        failure_score=health.failure_score,
        pauses=health.pauses + 1,
    )


def _jittered(delay: timedelta, jitter: float) -> timedelta:
    return delay * (1 - JITTER + 2 * JITTER * jitter)

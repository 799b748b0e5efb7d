"""Rules of polling: when a room is polled next, and when a whole source is paused. All of them are in this file.

Pure: `now` and `jitter` (uniform in [0, 1)) are arguments. A suspected leave is confirmed early, a failing room backs
off, a rejected key slows its source to one probe a minute, `Retry-After` of a 429 pauses the whole source, and so do
failures of most of its rooms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from bridge.rules.backoff import LONGEST_RETRY_AFTER, jittered
from bridge.rules.presence import Failure, FailureKind

FOLLOW_UP: Final = timedelta(seconds=2)
"""Delay of the poll that confirms a suspected leave."""
EXTRA_POLL_GAP: Final = timedelta(seconds=1)
"""The shortest time between two polls of a room that are caused by pokes or lists."""
LONGEST_ROOM_BACKOFF: Final = timedelta(minutes=1)
LONGEST_ROOM_RETRY_AFTER: Final = timedelta(minutes=5)
"""Of failures other than 429: a proxy's maintenance page must not stop the polling of a room for a day."""
UNAUTHORIZED_PAUSE: Final = timedelta(minutes=1)
RATE_LIMITED_PAUSE: Final = timedelta(seconds=5)
"""For a 429 without `Retry-After`; doubled while it goes on."""
FAILING_PAUSE: Final = timedelta(seconds=2)
"""Doubled while it goes on."""
LONGEST_SOURCE_PAUSE: Final = timedelta(minutes=1)
SHORTEST_PAUSE: Final = timedelta(seconds=1)
"""A `Retry-After` of 0 must not become a busy loop."""
HIGHEST_FAILURE_SCORE: Final = 8
LOWEST_FAILURE_LIMIT: Final = 3


def extra_poll(now: datetime, polled_at: datetime | None, *, is_under_way: bool) -> datetime:
    """Due time of a room that a list or a poke has named: at once, but not within a second of the last poll.

    A poll that is under way may have been sent too early, so another one follows.
    """
    if is_under_way:
        return now + EXTRA_POLL_GAP
    return now if polled_at is None or polled_at > now else max(now, polled_at + EXTRA_POLL_GAP)


def next_poll(due_at: datetime, now: datetime, interval: timedelta, *, suspects: bool) -> datetime:
    """Due time after a snapshot: a fixed rate from the last due time, so that slow responses do not stretch it."""
    if suspects:
        return now + min(FOLLOW_UP, interval)
    following = due_at + interval
    return following if now < following <= now + interval else now + interval  # the clock may have been put back


def next_poll_after_failure(
    now: datetime,
    interval: timedelta,
    failures: int,
    jitter: float,
    *,
    suspects: bool = False,
    retry_after: timedelta | None = None,
) -> datetime:
    """Due time after the `failures`-th failure in a row: doubling from the interval up to a minute, ± 20 %.

    While a leave waits to be confirmed, doubling starts from the follow-up's delay. `retry_after` counts up to 5
    minutes.
    """
    first = min(FOLLOW_UP, interval) if suspects else interval
    wait = jittered(min(first * (1 << min(failures - 1, 16)), max(interval, LONGEST_ROOM_BACKOFF)), jitter)
    return now + (wait if retry_after is None else max(wait, min(retry_after, LONGEST_ROOM_RETRY_AFTER)))


class Condition(StrEnum):
    """Condition of a source."""

    OK = "ok"
    UNAUTHORIZED = "unauthorized"
    RATE_LIMITED = "rate_limited"
    FAILING = "failing"


UNAVAILABLE: Final = frozenset({Condition.UNAUTHORIZED, Condition.FAILING})
"""Conditions in which the rooms cannot be polled. With a rate limit, the upstream works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHealth:
    """Health of a source. Unless it is ok, one room is polled as a probe each time that `paused_until` has passed.

    `since` is the time of the first failure that led to the condition.
    """

    condition: Condition = Condition.OK
    since: datetime | None = None
    paused_until: datetime | None = None
    failure_score: int = 0
    """Failures minus successes: it only grows while most polls fail."""
    pauses: int = 0

    def is_paused(self, now: datetime) -> bool:
        """Whether nothing may be asked now. A pause longer than any rule makes is from a wrong clock."""
        return self.paused_until is not None and now < self.paused_until <= now + LONGEST_RETRY_AFTER


def failure_limit(room_count: int) -> int:
    """The failure score from which a source with so many rooms counts as failing: two rounds, from 3 to 8."""
    return min(max(2 * room_count, LOWEST_FAILURE_LIMIT), HIGHEST_FAILURE_SCORE)


def pause_at_once(failure: Failure, now: datetime) -> datetime | None:
    """The earliest time for polls that are claimed but not sent, after a failure that concerns the whole source."""
    match failure.kind:
        case FailureKind.RATE_LIMITED:
            return now + _rate_limited_pause(failure, pauses=0)
        case FailureKind.UNAUTHORIZED:
            return now + UNAUTHORIZED_PAUSE
        case FailureKind.SERVER_ERROR | FailureKind.BAD_RESPONSE | FailureKind.TIMEOUT | FailureKind.UNREACHABLE:
            return None


def update_source_health(
    health: SourceHealth,
    failure: Failure | None,
    *,
    is_probe: bool,
    counts: bool = True,
    limit: int = HIGHEST_FAILURE_SCORE,
    now: datetime,
    jitter: float,
) -> SourceHealth:
    """Health of a source after one poll.

    While a source is paused, only the probe can end or renew the pause: responses to polls that were under way when it
    began are older than it.

    Args:
        health: before the poll.
        failure: outcome of the poll; None for a snapshot.
        is_probe: whether the poll was sent to find out if the source has recovered.
        counts: whether a failure counts against the source: its room had not failed before, or no room of the source
            is healthy. A room that always fails beside healthy ones does not count, and backs off.
        limit: see `failure_limit`.
        now: time of the response.
        jitter: uniform in [0, 1).
    """
    if health.condition is not Condition.OK and not is_probe:
        return _extend_pause(health, failure, now)
    if failure is None:
        if health.condition is Condition.OK and health.failure_score > 1:
            return replace(health, failure_score=health.failure_score - 1)
        return SourceHealth()
    match failure.kind:
        case FailureKind.UNAUTHORIZED:
            return _pause(health, Condition.UNAUTHORIZED, now, UNAUTHORIZED_PAUSE)
        case FailureKind.RATE_LIMITED:
            return _pause(health, Condition.RATE_LIMITED, now, _rate_limited_pause(failure, health.pauses))
        case FailureKind.SERVER_ERROR | FailureKind.BAD_RESPONSE | FailureKind.TIMEOUT | FailureKind.UNREACHABLE:
            return _count_failure(health, limit, now, jitter) if counts or is_probe else health


def _rate_limited_pause(failure: Failure, pauses: int) -> timedelta:
    if failure.retry_after is not None:
        return max(min(failure.retry_after, LONGEST_RETRY_AFTER), SHORTEST_PAUSE)
    return min(RATE_LIMITED_PAUSE * (1 << min(pauses, 4)), LONGEST_SOURCE_PAUSE)


def _extend_pause(health: SourceHealth, failure: Failure | None, now: datetime) -> SourceHealth:
    """The `Retry-After` of a late response may be longer than that of the first."""
    if failure is None or failure.retry_after is None or health.paused_until is None:
        return health
    longest = LONGEST_RETRY_AFTER if failure.kind is FailureKind.RATE_LIMITED else LONGEST_ROOM_RETRY_AFTER
    return replace(health, paused_until=max(health.paused_until, now + min(failure.retry_after, longest)))


def _count_failure(health: SourceHealth, limit: int, now: datetime, jitter: float) -> SourceHealth:
    score = min(health.failure_score + 1, HIGHEST_FAILURE_SCORE)
    health = replace(health, failure_score=score, since=health.since or now)
    if score < limit and health.condition is Condition.OK:
        return health
    condition = Condition.FAILING if score >= limit else health.condition
    pause = jittered(min(FAILING_PAUSE * (1 << min(health.pauses, 5)), LONGEST_SOURCE_PAUSE), jitter)
    return _pause(health, condition, now, pause)


def _pause(health: SourceHealth, condition: Condition, now: datetime, pause: timedelta) -> SourceHealth:
    return SourceHealth(
        condition=condition,
        since=health.since or now,
        paused_until=now + max(pause, SHORTEST_PAUSE),
        failure_score=health.failure_score,
        pauses=health.pauses + 1,
    )

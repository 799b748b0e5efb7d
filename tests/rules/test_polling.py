from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.rules.backoff import LONGEST_RETRY_AFTER
from bridge.rules.polling import (
    FOLLOW_UP,
    HIGHEST_FAILURE_SCORE,
    Condition,
    SourceHealth,
    failure_limit,
    next_poll,
    next_poll_after_failure,
    update_source_health,
)
from bridge.rules.presence import Failure, FailureKind

START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
FAILURES = [FailureKind.SERVER_ERROR, FailureKind.BAD_RESPONSE, FailureKind.TIMEOUT, FailureKind.UNREACHABLE]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def failure(kind: FailureKind = FailureKind.SERVER_ERROR, retry_after: float | None = None) -> Failure:
    return Failure(kind=kind, detail="", retry_after=None if retry_after is None else span(retry_after))


def failing(times: int, health: SourceHealth | None = None, kind: FailureKind = FailureKind.TIMEOUT) -> SourceHealth:
    health = health or SourceHealth()
    for _ in range(times):
        health = update_source_health(health, failure(kind), is_probe=False, now=at(0), jitter=0.5)
    return health


@pytest.mark.parametrize(
    ("due", "now", "interval", "suspects", "following"),
    [
        (0, 0.3, 10, False, 10),
        (0, 10, 10, False, 20),
        (0, 35, 10, False, 45),
        (0, 0.3, 10, True, 2.3),
        (0, 0.3, 1, True, 1.3),
    ],
)
def test_a_room_is_polled_at_a_fixed_rate_and_a_suspect_early(
    *, due: float, now: float, interval: float, suspects: bool, following: float
) -> None:
    assert next_poll(at(due), at(now), span(interval), suspects=suspects) == at(following)


@settings(max_examples=100, deadline=None)
@given(due=st.floats(-1e5, 1e5), now=st.floats(0, 1e5), interval=st.floats(0.1, 1e4), suspects=st.booleans())
def test_the_next_poll_lies_ahead_and_no_further_than_the_interval(
    *, due: float, now: float, interval: float, suspects: bool
) -> None:
    if due > now:
        due, now = now, due
    following = next_poll(at(due), at(now), span(interval), suspects=suspects)

    assert at(now) < following <= at(now) + span(interval)
    assert not suspects or following <= at(now) + FOLLOW_UP


@pytest.mark.parametrize(
    ("interval", "failures", "jitter", "wait"),
    [
        (10, 1, 0.5, 10),
        (10, 2, 0.5, 20),
        (10, 4, 0.5, 60),
        (10, 10_000, 0.5, 60),
        (300, 1, 0.5, 300),
        (10, 1, 0.0, 8),
        (10, 1, 1.0, 12),
    ],
)
def test_a_failing_room_backs_off_to_a_minute(interval: float, failures: int, jitter: float, wait: float) -> None:
    assert next_poll_after_failure(at(0), span(interval), failures, jitter) == at(wait)


@pytest.mark.parametrize(
    ("interval", "failures", "suspects", "retry_after", "wait"),
    [
        (40, 1, True, None, 2),
        (40, 3, True, None, 8),
        (1, 1, True, None, 1),
        (10, 1, False, 3, 10),
        (10, 1, False, 299, 299),
        (10, 1, False, 301, 300),
        (10, 1, False, 10**8, 300),
        (3600, 1, False, 86_400, 3600),
    ],
)
def test_a_failed_follow_up_is_repeated_soon_and_retry_after_is_honoured_up_to_five_minutes(
    *, interval: float, failures: int, suspects: bool, retry_after: float | None, wait: float
) -> None:
    asked = None if retry_after is None else span(retry_after)
    due_at = next_poll_after_failure(at(0), span(interval), failures, 0.5, suspects=suspects, retry_after=asked)
    assert due_at == at(wait)


@pytest.mark.parametrize("kind", FAILURES)
def test_retry_after_of_a_maintenance_page_pauses_a_failing_source_for_five_minutes_at_most(kind: FailureKind) -> None:
    late = failure(kind, retry_after=86_400)

    after = update_source_health(failing(HIGHEST_FAILURE_SCORE), late, is_probe=False, now=at(0), jitter=0.5)

    assert after.paused_until == at(300)


@pytest.mark.parametrize("kind", FAILURES)
def test_retry_after_of_one_failing_room_does_not_pause_its_source(kind: FailureKind) -> None:
    health = update_source_health(
        SourceHealth(), failure(kind, retry_after=86_400), is_probe=False, now=at(0), jitter=0.5
    )

    assert (health.condition, health.paused_until) == (Condition.OK, None)


def test_a_source_fails_after_two_rounds_of_failures_at_least_three_at_most_eight() -> None:
    assert [failure_limit(rooms) for rooms in (0, 1, 2, 3, 4, 5, 100_000)] == [3, 3, 4, 6, 8, 8, 8]
    health = SourceHealth()
    for limit, condition in ((3, Condition.OK), (3, Condition.OK), (3, Condition.FAILING)):
        health = update_source_health(health, failure(), is_probe=False, limit=limit, now=at(0), jitter=0.5)
        assert health.condition is condition


def test_a_bad_key_slows_the_source_to_one_attempt_a_minute() -> None:
    health = update_source_health(
        SourceHealth(), failure(FailureKind.UNAUTHORIZED), is_probe=False, now=at(0), jitter=0.9
    )

    assert (health.condition, health.since, health.paused_until) == (Condition.UNAUTHORIZED, at(0), at(60))
    later = update_source_health(health, failure(FailureKind.UNAUTHORIZED), is_probe=True, now=at(60), jitter=0.1)
    assert (later.condition, later.since, later.paused_until) == (Condition.UNAUTHORIZED, at(0), at(120))


def test_a_rate_limit_without_retry_after_waits_longer_each_time_up_to_a_minute() -> None:
    health, waits, now = SourceHealth(), [], 0.0
    for turn in range(6):
        health = update_source_health(
            health, failure(FailureKind.RATE_LIMITED), is_probe=turn > 0, now=at(now), jitter=0.5
        )
        assert health.paused_until is not None
        waits.append((health.paused_until - at(now)).total_seconds())
        now += waits[-1]

    assert waits == [5, 10, 20, 40, 60, 60]


@pytest.mark.parametrize(("asked", "waits"), [(1, 1), (30, 30), (3600, 3600), (10**8, 86_400)])
def test_a_rate_limit_lasts_as_long_as_its_retry_after_but_one_day_at_most(asked: float, waits: float) -> None:
    health = update_source_health(
        SourceHealth(), failure(FailureKind.RATE_LIMITED, retry_after=asked), is_probe=False, now=at(0), jitter=0.5
    )

    assert (health.condition, health.paused_until) == (Condition.RATE_LIMITED, at(waits))


@pytest.mark.parametrize("asked", [0, -5])
def test_a_rate_limit_pauses_even_if_retry_after_is_zero(asked: float) -> None:
    health = SourceHealth()
    for turn in range(3):
        limited = failure(FailureKind.RATE_LIMITED, retry_after=asked)
        health = update_source_health(health, limited, is_probe=turn > 0, now=at(0), jitter=0.5)

        assert health.paused_until is not None
        assert health.paused_until >= at(1), "429 after 429 must not become a busy loop"


@pytest.mark.parametrize("kind", FAILURES)
def test_failures_in_a_row_pause_the_source(kind: FailureKind) -> None:
    before, after = failing(HIGHEST_FAILURE_SCORE - 1, kind=kind), failing(HIGHEST_FAILURE_SCORE, kind=kind)

    assert (before.condition, before.paused_until) == (Condition.OK, None)
    assert (after.condition, after.paused_until) == (Condition.FAILING, at(2))


def test_the_pause_of_a_failing_source_doubles_up_to_a_minute() -> None:
    health, waits, now = failing(HIGHEST_FAILURE_SCORE), [2.0], 2.0
    for _ in range(6):
        health = update_source_health(health, failure(), is_probe=True, now=at(now), jitter=0.5)
        assert health.paused_until is not None
        waits.append((health.paused_until - at(now)).total_seconds())
        now += waits[-1]

    assert waits == [2, 4, 8, 16, 32, 60, 60]
    assert health.since == at(0)


@pytest.mark.parametrize("condition", [Condition.UNAUTHORIZED, Condition.RATE_LIMITED, Condition.FAILING])
def test_one_successful_probe_ends_the_pause(condition: Condition) -> None:
    paused = SourceHealth(condition=condition, since=at(0), paused_until=at(60), failure_score=8, pauses=4)

    assert update_source_health(paused, None, is_probe=True, now=at(61), jitter=0.5) == SourceHealth()


@pytest.mark.parametrize("condition", [Condition.UNAUTHORIZED, Condition.RATE_LIMITED, Condition.FAILING])
def test_responses_that_were_under_way_neither_end_nor_extend_the_pause(condition: Condition) -> None:
    paused = SourceHealth(condition=condition, since=at(0), paused_until=at(60), failure_score=8, pauses=4)

    assert update_source_health(paused, None, is_probe=False, now=at(1), jitter=0.5) == paused
    for kind in FailureKind:
        assert update_source_health(paused, failure(kind), is_probe=False, now=at(1), jitter=0.5) == paused


def test_a_late_response_may_extend_a_rate_limit_but_not_shorten_it() -> None:
    paused = SourceHealth(condition=Condition.RATE_LIMITED, since=at(0), paused_until=at(60), pauses=1)

    more = update_source_health(
        paused, failure(FailureKind.RATE_LIMITED, retry_after=90), is_probe=False, now=at(1), jitter=0.5
    )
    less = update_source_health(
        paused, failure(FailureKind.RATE_LIMITED, retry_after=9), is_probe=False, now=at(1), jitter=0.5
    )

    assert (more.paused_until, less.paused_until) == (at(91), at(60))


def test_one_server_error_does_not_make_a_rate_limited_source_fail() -> None:
    limited = update_source_health(
        SourceHealth(), failure(FailureKind.RATE_LIMITED), is_probe=False, now=at(0), jitter=0.5
    )
    after = update_source_health(limited, failure(FailureKind.SERVER_ERROR), is_probe=True, now=at(5), jitter=0.5)

    assert after.condition is not Condition.FAILING
    assert after.paused_until is not None
    assert after.paused_until > at(5)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(FAILURES)), max_size=60))
def test_a_source_fails_only_after_more_failures_than_successes(polls: list[tuple[bool, FailureKind]]) -> None:
    health = SourceHealth()
    for number, (good, kind) in enumerate(polls, start=1):
        health = update_source_health(
            health, None if good else failure(kind), is_probe=False, now=at(number), jitter=0.5
        )
        if health.condition is not Condition.OK:
            streaks = [sum(1 if not one else -1 for one, _ in polls[begin:number]) for begin in range(number)]
            assert max(streaks) >= HIGHEST_FAILURE_SCORE
            return


PROBES = st.tuples(
    st.none() | st.sampled_from(list(FailureKind)),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PROBES, max_size=40))
def test_a_pause_never_ends_before_the_retry_after_of_a_rate_limit(
    polls: list[tuple[FailureKind | None, float | None, float, bool]],
) -> None:
    health, now, asked = SourceHealth(), 0.0, None
    for kind, retry_after, jitter, is_probe in polls:
        if health.paused_until is not None and is_probe:
            now = max(now, (health.paused_until - START).total_seconds())  # a probe begins after the pause
        now += 0.01
        result = None if kind is None else failure(kind, retry_after)
        probing = is_probe and health.condition is not Condition.OK
        health = update_source_health(health, result, is_probe=probing, now=at(now), jitter=jitter)
        if kind is FailureKind.RATE_LIMITED and retry_after is not None:
            earliest = at(now) + min(span(retry_after), LONGEST_RETRY_AFTER)
            asked = earliest if asked is None else max(asked, earliest)
        if asked is not None and asked > at(now):
            assert health.paused_until is not None
            assert health.paused_until >= asked
        if health.condition is Condition.OK:
            assert (health.paused_until, health.pauses) == (None, 0)
            assert (health.since is None) == (health.failure_score == 0)
        else:
            assert health.paused_until is not None
            assert health.since is not None

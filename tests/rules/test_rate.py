from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.rules.rate import BURST, LONGEST_AHEAD, UNLIMITED, Rate

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
RATES = st.floats(0.05, 1000).map(Rate)
GAPS = st.timedeltas(timedelta(), 5 * SECOND) | st.timedeltas(timedelta(), 20 * timedelta(milliseconds=1))


@pytest.mark.parametrize(("per_second", "at_once"), [(0.1, 1), (1, 1), (4, 1), (20, 5), (100, 25)])
def test_after_a_quiet_time_a_quarter_of_a_second_is_available_and_at_least_one_request(
    per_second: float, at_once: int
) -> None:
    rate = Rate(per_second)

    for quiet_since in (None, NOW - timedelta(days=1), NOW - SECOND):
        assert rate.available(quiet_since, NOW) == at_once


def test_a_rate_of_zero_is_unlimited() -> None:
    assert Rate(0).available(NOW + SECOND, NOW) == UNLIMITED
    assert Rate(0).after(5, None, NOW) is None


@given(RATES, st.lists(st.tuples(GAPS, st.integers(0, 300)), max_size=40))
def test_no_period_has_more_requests_than_its_rate_and_one_burst(
    rate: Rate, wishes: list[tuple[timedelta, int]]
) -> None:
    now, next_at = NOW, None
    spent: list[tuple[datetime, int]] = []
    for gap, wanted in wishes:
        now += gap
        count = min(wanted, rate.available(next_at, now))
        next_at = rate.after(count, next_at, now)
        spent.append((now, count))

    burst = max(BURST / rate.spacing, 1)
    for first, (begin, _) in enumerate(spent):
        for last, (end, _) in enumerate(spent[first:], start=first):
            requests = sum(count for _, count in spent[first : last + 1])
            assert requests <= (end - begin) / rate.spacing + burst + 1e-3


@given(RATES, st.integers(1, 300))
def test_the_next_request_is_allowed_when_its_time_has_come_and_not_before(rate: Rate, wanted: int) -> None:
    next_at = rate.after(min(wanted, rate.available(None, NOW)), None, NOW)

    assert next_at is not None
    assert rate.available(next_at, max(next_at, NOW)) >= 1
    if next_at > NOW:
        assert rate.available(next_at, NOW) == 0
        assert rate.available(next_at, next_at - timedelta(microseconds=1)) == 0


@given(RATES, st.timedeltas(timedelta(microseconds=1), timedelta(days=400)), st.integers(1, 5))
def test_a_time_that_another_clock_set_is_ignored(rate: Rate, ahead: timedelta, count: int) -> None:
    set_by_another_clock = NOW + rate.spacing + LONGEST_AHEAD + ahead

    assert rate.available(set_by_another_clock, NOW) == rate.available(None, NOW)
    assert rate.after(count, set_by_another_clock, NOW) == rate.after(count, None, NOW)

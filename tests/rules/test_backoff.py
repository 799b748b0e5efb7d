from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.rules.backoff import jittered, parse_retry_after

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
IN_90_SECONDS = format_datetime(NOW + 90 * SECOND, usegmt=True)


@given(st.timedeltas(timedelta(), 30 * DAY), st.floats(min_value=0, max_value=1, exclude_max=True))
def test_jitter_changes_a_delay_by_a_fifth_at_most(delay: timedelta, jitter: float) -> None:
    assert delay * 0.8 <= jittered(delay, jitter) <= delay * 1.2
    assert jittered(delay, 0.5) == delay


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 2 * MINUTE),
        (" 120 ", 2 * MINUTE),
        ("0", timedelta(0)),
        ("86401", DAY),
        ("9" * 6000, DAY),
        ("0" * 20 + "60", MINUTE),
        ("60, 60", MINUTE),
        ("60, soon", MINUTE),
        (f"60, {IN_90_SECONDS}", 90 * SECOND),
        (f"{IN_90_SECONDS},120", 2 * MINUTE),
        (f"Mon Nov 23 09:01:30 2026, {IN_90_SECONDS}", 90 * SECOND),
        (IN_90_SECONDS, 90 * SECOND),
        ("Monday, 23-Nov-26 09:01:30 GMT", 90 * SECOND),
        ("Mon Nov 23 09:01:30 2026", 90 * SECOND),
        ("Mon, 23 Nov 2026 10:01:30 +0100", 90 * SECOND),
        (format_datetime(NOW - DAY, usegmt=True), timedelta(0)),
        (format_datetime(NOW + 400 * DAY, usegmt=True), DAY),
        ("Fri, 31 Dec 9999 23:59:59 GMT", DAY),
        ("-5", None),
        ("1.5", 2 * SECOND),
        ("0.001", SECOND),
        ("2.0", 2 * SECOND),
        ("31536000", DAY),  # a year
        (f"{NOW.timestamp() + 90:.0f}", 90 * SECOND),
        (f"{NOW.timestamp() * 1000 + 90_000:.0f}", 90 * SECOND),
        (f"{NOW.timestamp() - 90:.0f}", timedelta(0)),
        (f"{NOW.timestamp() + 10 * 86_400:.0f}", DAY),
        ("1e3", None),
        ("٣", None),
        ("soon", None),
        ("Mon, 99 Nov 2026 99:99:99 GMT", None),
        ("Mon, 23 Nov 2026 09:01:30 +9999", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_every_form_and_limited_to_a_day(value: str | None, expected: timedelta | None) -> None:
    assert parse_retry_after(value, NOW) == expected


zones = st.integers(-1439, 1439).map(lambda minutes: timezone(minutes * MINUTE))
dates = st.datetimes(timezones=zones).map(format_datetime)
numbers = st.from_regex(r"-?[0-9]{1,30}", fullmatch=True)
retry_afters = st.lists(st.text() | numbers | dates | st.text("0123456789:+-, MonGTv"), max_size=4).map(",".join)


@given(retry_afters)
def test_no_retry_after_is_ever_an_error_negative_or_longer_than_a_day(value: str) -> None:
    wait = parse_retry_after(value, NOW)

    assert wait is None or timedelta(0) <= wait <= DAY


@given(st.lists(st.tuples(st.integers(0, 2 * 86_400), st.booleans(), st.integers(0, 20)), min_size=1, max_size=4))
def test_the_longest_of_several_waits_counts_in_any_form(waits: list[tuple[int, bool, int]]) -> None:
    value = ", ".join(
        format_datetime(NOW + seconds * SECOND, usegmt=True) if is_date else "0" * zeros + str(seconds)
        for seconds, is_date, zeros in waits
    )

    assert parse_retry_after(value, NOW) == min(max(seconds for seconds, _, _ in waits) * SECOND, DAY)

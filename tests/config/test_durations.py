from __future__ import annotations

from datetime import timedelta

import pytest

from bridge.config.durations import LONGEST, parse_duration, parse_positive_duration


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("10s", timedelta(seconds=10)),
        ("5d", timedelta(days=5)),
        ("1.5h", timedelta(minutes=90)),
        (" 10s ", timedelta(seconds=10)),
        ("30", timedelta(seconds=30)),
        (30, timedelta(seconds=30)),
        (0.25, timedelta(milliseconds=250)),
        (0, timedelta(0)),
        ("36500d", LONGEST),
    ],
)
def test_a_duration_in_every_form(written: object, meant: timedelta) -> None:
    assert parse_duration(written) == meant


@pytest.mark.parametrize(
    "written", ["", "s", "ten", "10 sec", "10S", "1h30m", "1e3s", "-5s", "+5s", "\u0661s", ".5s", "5.s", True, None, []]
)
def test_an_invalid_duration_is_refused_with_examples(written: object) -> None:
    with pytest.raises(ValueError, match='must be a duration, like "250ms", "10s"'):
        parse_duration(written)


@pytest.mark.parametrize("written", [-1, -0.001, float("-inf")])
def test_a_negative_duration_is_refused(written: float) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        parse_duration(written)


@pytest.mark.parametrize("written", ["36501d", 10**30, float("inf"), float("nan"), "9" * 500])
def test_a_duration_past_the_calendar_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="is too long: the longest span is 36500d"):
        parse_duration(written)


@pytest.mark.parametrize("written", ["0s", "0", 0, 0.0, "0.0001ms"])
def test_zero_is_refused_where_a_duration_is_repeated(written: object) -> None:
    with pytest.raises(ValueError, match="must be longer than zero"):
        parse_positive_duration(written)

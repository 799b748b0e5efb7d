"""Durations of the configuration: `"250ms"`, `"10s"`, `"5m"`, `"2h"`, `"5d"`, or seconds."""

from __future__ import annotations

import re
from datetime import timedelta

LONGEST = timedelta(days=36_500)
"""A century: dates further ahead may not be representable."""

_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|m|h|d)?")
DURATION_PATTERN = f"^{_FORM.pattern}$"
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NOT_A_DURATION = 'must be a duration, like "250ms", "10s", "5m", "2h", "5d" or a number of seconds'


def parse_duration(value: object) -> timedelta:
    """Return the span that a text with a unit, or a number of seconds, means; the environment gives numbers as text.

    Raises:
        ValueError: with a sentence for the operator.
    """
    if isinstance(value, str):
        seconds = _seconds_in(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    else:
        raise ValueError(_NOT_A_DURATION)  # noqa: TRY004 - pydantic reports ValueErrors
    if seconds < 0:
        raise ValueError("must not be negative")
    if not seconds <= LONGEST.total_seconds():
        raise ValueError(f"is too long: the longest span is {LONGEST.days}d")
    return timedelta(seconds=seconds)


def parse_positive_duration(value: object) -> timedelta:
    """Return a span longer than zero, for anything that is repeated.

    Raises:
        ValueError: with a sentence for the operator.
    """
    if not (span := parse_duration(value)):
        raise ValueError("must be longer than zero")
    return span


def _seconds_in(text: str) -> float:
    if (parts := _FORM.fullmatch(text.strip())) is None:
        raise ValueError(_NOT_A_DURATION)
    number, unit = parts.groups(default="s")
    return float(number) * _SECONDS[unit]

"""Values of options: lists, event types, times and spans; errors name the option."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from typing import TypeVar
from zoneinfo import ZoneInfo

from bridge.config import moments
from bridge.config.checks import check_event_glob, parse_timezone
from bridge.config.durations import parse_duration, parse_positive_duration
from bridge.config.moments import Period, parse_moment
from bridge.config.words import did_you_mean, one_of, quoted
from bridge.errors import UsageError

E = TypeVar("E", bound=StrEnum)


def split_list(values: Iterable[str] | None) -> tuple[str, ...]:
    """Return the items of an option that may be repeated, or have several values separated with commas."""
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


def event_globs(values: Iterable[str] | None) -> tuple[str, ...]:
    """Return the globs of `--type`; none means every type.

    Raises:
        UsageError: a glob matches no event type.
    """
    globs = split_list(values)
    for glob in globs:
        try:
            check_event_glob(glob)
        except ValueError as problem:
            raise UsageError(f"--type {quoted(glob)}: {problem}") from None
    return globs


def parse_span(option: str, text: str, *, positive: bool = False) -> timedelta:
    """Return a span, like `24h`.

    Raises:
        UsageError: it is none, or not longer than zero if it must be `positive`.
    """
    try:
        return parse_positive_duration(text) if positive else parse_duration(text)
    except ValueError as problem:
        raise UsageError(f"{option} {quoted(text)}: {problem}") from None


def parse_period(since: str | None, until: str | None, *, now: datetime, zone: tzinfo) -> Period:
    """Return the period of `--since` and `--until`.

    Raises:
        UsageError: one is not a time, or they are the wrong way round.
    """
    period = Period(
        since=None if since is None else _parse_time("--since", since, now, zone),
        until=None if until is None else _parse_time("--until", until, now, zone),
    )
    if period.since is not None and period.until is not None and period.until <= period.since:
        raise UsageError("--until must be later than --since")
    return period


def parse_window(text: str, *, now: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """Return the times of `--window START/END`.

    Raises:
        UsageError: it is not two times with a slash between them, or they are the wrong way round.
    """
    try:
        return moments.parse_window(text, now=now, zone=zone)
    except ValueError as problem:
        raise UsageError(f"--window {quoted(text)}: {problem}") from None


def parse_zone(text: str) -> ZoneInfo:
    """Return the time zone of `--tz`.

    Raises:
        UsageError: there is no such zone.
    """
    try:
        return parse_timezone(text)
    except ValueError as problem:
        raise UsageError(f"--tz {quoted(text)}: {problem}") from None


def parse_percent(option: str, text: str) -> float:
    """Return a number from 0 to 100.

    Raises:
        UsageError: it is none.
    """
    try:
        percent = float(text)
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:  # noqa: PLR2004 - a hundred per cent
        raise UsageError(f"{option} {quoted(text)}: must be a number from 0 to 100")
    return percent


def choose(option: str, text: str, choices: type[E]) -> E:
    """Return the member of a StrEnum that an option names.

    Raises:
        UsageError: there is none.
    """
    try:
        return choices(text)
    except ValueError:
        raise UsageError(f"{option} {quoted(text)}: must be {one_of(choices)}{did_you_mean(text, choices)}") from None


def _parse_time(option: str, text: str, now: datetime, zone: tzinfo) -> datetime:
    try:
        return parse_moment(text, now=now, zone=zone)
    except ValueError as problem:
        raise UsageError(f"{option} {quoted(text)}: {problem}") from None

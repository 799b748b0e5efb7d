"""Values of options: lists, event types, times and spans; errors name the option."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from bridge.config.checks import check_event_glob
from bridge.config.durations import parse_duration, parse_positive_duration
from bridge.config.words import quoted
from bridge.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The times in [since, until); None leaves that end open."""

    since: datetime | None = None
    until: datetime | None = None


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


def _parse_time(option: str, text: str, now: datetime, zone: tzinfo) -> datetime:
    """Return a time in RFC 3339 (without an offset: in `zone`, as tables show it), or a span before `now`."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    try:
        if not text[-1:].isdecimal():  # a bare number could be seconds ago, an epoch or a date
            return now - parse_duration(text)
    except ValueError:
        pass
    raise UsageError(
        f"{option} {quoted(text)}: must be a time, like 2026-11-23T09:30:00Z, or a span before now, like 90m or 5d"
    )

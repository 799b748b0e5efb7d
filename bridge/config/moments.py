"""Times and windows that people write: in RFC 3339, or as a span before now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from bridge.config.durations import parse_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The times in [since, until); None leaves that end open."""

    since: datetime | None = None
    until: datetime | None = None


def parse_moment(text: str, *, now: datetime, zone: tzinfo) -> datetime:
    """Return a time in RFC 3339 (without an offset: in `zone`, as tables show it), or a span before `now`.

    Raises:
        ValueError: it is neither.
    """
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    try:
        if not text[-1:].isdecimal():  # a bare number could be seconds ago, an epoch or a date
            return now - parse_duration(text)
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a time, like 2026-11-23T09:30:00Z, or a span before now, like 90m or 5d")


def parse_window(text: str, *, now: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """Return the two times of `START/END`.

    Raises:
        ValueError: it is not two times with a slash between them, or they are the wrong way round.
    """
    start, slash, end = text.partition("/")
    if not slash:
        raise ValueError("must be START/END, like 2026-11-23T09:00/2026-11-23T10:30")
    window = parse_moment(start, now=now, zone=zone), parse_moment(end, now=now, zone=zone)
    if window[1] <= window[0]:
        raise ValueError("the end must be later than the start")
    return window

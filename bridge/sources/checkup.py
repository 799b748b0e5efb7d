"""Checkup of an account with one request, and of this machine's clock against the upstream's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from bridge.rules.presence import Failure

LOOK_EVERY: Final = timedelta(minutes=1)
_RESOLUTION: Final = timedelta(seconds=1)
"""Of a `Date` header (RFC 9110 section 5.6.7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """A response, or the failure to get one; `dated_at` is its `Date`, None if absent or unreadable."""

    failure: Failure | None
    asked_at: datetime
    responded_at: datetime
    dated_at: datetime | None = None

    @property
    def duration(self) -> timedelta:
        """Duration of the request."""
        return self.responded_at - self.asked_at

    @property
    def clock_skew(self) -> timedelta | None:
        """Lead of this machine's clock over the upstream's, negative if it is behind; None if unknown.

        The `Date` lies between request and response: a difference within that time is no skew, so that a slow network
        does not look like a wrong clock.
        """
        if self.dated_at is None:
            return None
        return _clock_skew(self.asked_at, self.responded_at, self.dated_at)


class ClockWatch:
    """The clock of a source, compared with this machine's once a minute: reading headers costs time."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._looked_at: datetime | None = None
        self.skew: timedelta | None = None
        """As `Checkup.clock_skew`, of the last response whose `Date` was read."""

    def look(self, asked_at: datetime, read_date: Callable[[], str | None]) -> None:
        """A response has come; its `Date` header is read if that is due."""
        now = self._clock()
        if self._looked_at is not None and abs(now - self._looked_at) < LOOK_EVERY:
            return
        self._looked_at = now
        dated_at = parse_date(read_date())
        self.skew = None if dated_at is None else _clock_skew(asked_at, now, dated_at)


def _clock_skew(asked_at: datetime, responded_at: datetime, dated_at: datetime) -> timedelta:
    if dated_at > responded_at:
        return responded_at - dated_at
    return max(asked_at - (dated_at + _RESOLUTION), timedelta())


def parse_date(header: str | None) -> datetime | None:
    """The time of a `Date` header; None if it is absent or unreadable."""
    try:
        moment = parsedate_to_datetime(header or "")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None

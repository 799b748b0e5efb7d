"""What one request says of an account and of this machine's clock: the rule by which two clocks are compared."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from bridge.rules.presence import Failure

_RESOLUTION: Final = timedelta(seconds=1)
"""What a `Date` header leaves open (RFC 9110, section 5.6.7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """One response, or why there was none; `dated_at` is the response's `Date`, None if it has none that can be read."""

    failure: Failure | None
    asked_at: datetime
    answered_at: datetime
    dated_at: datetime | None = None

    @property
    def duration(self) -> timedelta:
        """How long the response took."""
        return self.answered_at - self.asked_at

    @property
    def clock_skew(self) -> timedelta | None:
        """How far this machine's clock is ahead of the upstream's, negative if behind; None if nobody can say.

        The response was dated at some moment between question and response: what that explains is no skew, so that a
        slow network is not taken for a wrong clock.
        """
        if self.dated_at is None:
            return None
        if self.dated_at > self.answered_at:
            return self.answered_at - self.dated_at
        return max(self.asked_at - (self.dated_at + _RESOLUTION), timedelta())


def parse_date(header: str | None) -> datetime | None:
    """The moment that a `Date` header names; None if it names none."""
    try:
        moment = parsedate_to_datetime(header or "")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None

"""A rate limit as one stored moment: `next_at`, when the next request is allowed. Pure; used for sources and endpoints.

Unused allowance is kept for a quarter of a second, so that the whole rate can be used between two ticks of the
scheduler, and a quiet minute is not followed by a burst.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

UNLIMITED: Final = 1_000_000
BURST: Final = timedelta(milliseconds=250)
LONGEST_AHEAD: Final = timedelta(minutes=1)
"""A `next_at` further ahead than this, beyond the spacing, is from a wrong clock and is ignored."""
_ROUNDING: Final = 1e-6
"""A float just below a whole number of requests must not lose one."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests per second; 0 is unlimited."""

    per_second: float

    @property
    def spacing(self) -> timedelta:
        """The time between two requests at a steady rate."""
        return timedelta(seconds=1 / self.per_second) if self.per_second > 0 else timedelta()

    def available(self, next_at: datetime | None, now: datetime) -> int:
        """Number of requests allowed now."""
        if self.per_second <= 0:
            return UNLIMITED
        if next_at is not None and now < next_at <= now + self.spacing + LONGEST_AHEAD:
            return 0
        return int((now - self._since(next_at, now)) / self.spacing + _ROUNDING) + 1

    def after(self, count: int, next_at: datetime | None, now: datetime) -> datetime | None:
        """The new `next_at` once `count` requests are spent; None where the rate is unlimited."""
        return self._since(next_at, now) + count * self.spacing if self.per_second > 0 else None

    def _since(self, next_at: datetime | None, now: datetime) -> datetime:
        earliest = now - max(BURST - self.spacing, timedelta())
        return earliest if next_at is None or next_at > now + self.spacing + LONGEST_AHEAD else max(next_at, earliest)

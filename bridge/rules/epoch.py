"""Numbers that count from 1970-01-01, in seconds or milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
SECONDS_BELOW: Final = 10**11
"""A smaller number is in seconds (until the year 5138), a larger one in milliseconds (since 1973)."""


def read_epoch(number: float) -> datetime | None:
    """The time that a number of seconds or milliseconds means; None if there is no such year."""
    try:
        return EPOCH + (timedelta(seconds=number) if number < SECONDS_BELOW else timedelta(milliseconds=number))
    except (ValueError, OverflowError):
        return None

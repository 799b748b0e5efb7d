"""Waiting: jitter, and how long a `Retry-After` header asks us to wait. Shared by polling and delivery; pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

JITTER: Final = 0.2
LONGEST_RETRY_AFTER: Final = timedelta(hours=24)
"""A longer `Retry-After` counts as this."""

_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?", re.ASCII)


def jittered(delay: timedelta, jitter: float) -> timedelta:
    """The delay ± 20 %; `jitter` is uniform in [0, 1)."""
    return delay * (1 - JITTER + 2 * JITTER * jitter)


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Parse `Retry-After`: seconds or an HTTP date (RFC 9110 section 10.2.3).

    A header that was sent twice arrives as one value with a comma in it: the longer wait counts.

    Returns:
        A wait from zero to 24 hours, or None if the header is absent or unreadable.
    """
    # An HTTP date has a comma of its own, but can also be read without the weekday in front of it.
    waits = [_parse_wait(part.strip(), now) for part in (value or "").split(",")]
    return max((wait for wait in waits if wait is not None), default=None)


def _parse_wait(text: str, now: datetime) -> timedelta | None:
    if _SECONDS.fullmatch(text):
        return timedelta(seconds=min(float(text), LONGEST_RETRY_AFTER.total_seconds()))
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    wait = (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    return min(max(wait, timedelta(0)), LONGEST_RETRY_AFTER)

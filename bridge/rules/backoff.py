"""Delays: jitter, and the wait that a `Retry-After` header asks for. Shared by polling and delivery; pure."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from bridge.rules.epoch import read_epoch

JITTER: Final = 0.2
LONGEST_RETRY_AFTER: Final = timedelta(hours=24)
"""A longer `Retry-After` counts as this."""
EPOCH_ABOVE_SECONDS: Final = 365 * 86_400
"""A larger number in `Retry-After` is a time since the epoch and not a wait: some APIs send that."""

_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?", re.ASCII)


def jittered(delay: timedelta, jitter: float) -> timedelta:
    """The delay ± 20 %; `jitter` is uniform in [0, 1)."""
    return delay * (1 - JITTER + 2 * JITTER * jitter)


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Parse `Retry-After`: seconds or an HTTP date (RFC 9110 section 10.2.3); a fraction of a second is rounded up.

    A header that was sent twice arrives as one value with a comma in it: the longer wait counts.

    Returns:
        A wait from zero to 24 hours, or None if the header is absent or unreadable.
    """
    # An HTTP date has a comma of its own, but can also be read without the weekday in front of it.
    waits = [_parse_wait(part.strip(), now) for part in (value or "").split(",")]
    return max((wait for wait in waits if wait is not None), default=None)


def _parse_wait(text: str, now: datetime) -> timedelta | None:
    if _SECONDS.fullmatch(text):
        return _wait_of_number(float(text), now)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return _until(at if at.tzinfo else at.replace(tzinfo=UTC), now)


def _wait_of_number(number: float, now: datetime) -> timedelta:
    if number <= EPOCH_ABOVE_SECONDS:
        return timedelta(seconds=math.ceil(min(number, LONGEST_RETRY_AFTER.total_seconds())))
    at = read_epoch(number)
    return LONGEST_RETRY_AFTER if at is None else _until(at, now)


def _until(at: datetime, now: datetime) -> timedelta:
    wait = at - now
    return min(max(wait, timedelta(0)), LONGEST_RETRY_AFTER)

"""A small drawing of how many peers a room had over the last day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate

WIDTH = 96
"""Columns; each is a quarter of an hour of a day."""
HEIGHT = 28.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spark:
    """The path of an area of `WIDTH` by `HEIGHT`; `most` is the largest number of peers at once."""

    path: str
    most: int


def draw_spark(stays: Sequence[tuple[datetime, datetime]], since: datetime, until: datetime, scale: int) -> Spark:
    """Draw the largest number of peers in each column; `scale` peers reach the top, in all drawings of a page."""
    step = (until - since) / WIDTH
    counts = [0] * WIDTH
    present = at = 0
    for moment, change in _changes(stays):
        column = min(int((moment - since) / step), WIDTH - 1)
        for between in range(at, column + 1):
            counts[between] = max(counts[between], present)
        at, present = column, present + change
        counts[column] = max(counts[column], present)
    for between in range(at, WIDTH):
        counts[between] = max(counts[between], present)
    return Spark(path=_path(counts, max(scale, 1)), most=largest(stays))


def largest(stays: Sequence[tuple[datetime, datetime]]) -> int:
    """The largest number of stays at once."""
    return max(accumulate(change for _, change in _changes(stays)), default=0)


def day_before(now: datetime) -> datetime:
    return now - timedelta(days=1)


def _changes(stays: Sequence[tuple[datetime, datetime]]) -> list[tuple[datetime, int]]:
    """Arrivals and departures by time; at the same time, departures come first."""
    return sorted([(start, 1) for start, _ in stays] + [(end, -1) for _, end in stays])


def _path(counts: Sequence[int], scale: int) -> str:
    parts = [f"M0 {HEIGHT:g}"]
    before = 0
    for column, count in enumerate(counts):
        if count != before:
            parts.append(f"H{column}V{HEIGHT - (HEIGHT - 2) * min(count, scale) / scale:.4g}")
            before = count
    return "".join([*parts, f"H{WIDTH}V{HEIGHT:g}Z"])

"""Lengths of time and counts as text for people."""

from __future__ import annotations

from datetime import timedelta


def span(length: timedelta) -> str:
    """Return a span in its two largest units: `850ms`, `12s`, `3m 5s`, `2h 10m`, `5d 3h`."""
    if length < timedelta(seconds=1):
        return f"{length / timedelta(milliseconds=1):.0f}ms"
    seconds = int(length.total_seconds())
    parts = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    largest = next(index for index, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count}{unit}" for count, unit in parts[largest : largest + 2] if count)


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 event`, `2 events`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"

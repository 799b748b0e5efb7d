"""When a signal to stop is the second one: the rule that the service and every command that waits share."""

from __future__ import annotations

from enum import Enum, auto

SAME_SIGNAL_SECONDS = 0.1
"""Wrappers pass on a signal that the whole group has had already (`timeout`, make): that is not a second one."""


class Heard(Enum):
    """What a signal to stop means."""

    FIRST = auto()
    SAME = auto()
    SECOND = auto()


class StopSignals:
    """Remembers the first one."""

    def __init__(self) -> None:
        self._first_at: float | None = None

    def hear(self, now: float) -> Heard:
        """Judge a signal that came at `now`, in seconds of a clock that only goes forward."""
        if self._first_at is None:
            self._first_at = now
            return Heard.FIRST
        return Heard.SAME if now - self._first_at <= SAME_SIGNAL_SECONDS else Heard.SECOND

"""The simulator's time: the wall's, until somebody takes it in hand; from then on it moves only when told to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def wall_now() -> int:
    """The machine's time, epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Clock:
    """Epoch milliseconds, as the simulated upstream believes them to be."""

    def __init__(self, running: Callable[[], int] = wall_now) -> None:
        self._running = running
        self._stopped_at: int | None = None

    @classmethod
    def stopped(cls, now: int) -> Clock:
        """A clock that stands at `now` (epoch milliseconds) until it is set or advanced."""
        clock = cls()
        clock.set_to(now)
        return clock

    def now(self) -> int:
        """Epoch milliseconds."""
        return self._running() if self._stopped_at is None else self._stopped_at

    def set_to(self, now: int) -> None:
        """Stop at `now` (epoch milliseconds), which may lie in the past: upstream clocks do jump."""
        self._stopped_at = now

    def advance(self, milliseconds: int) -> None:
        """Move on by so much and stop there."""
        self._stopped_at = self.now() + milliseconds

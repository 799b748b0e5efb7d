"""A clock of the simulator that only moves when it is set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class StoppedClock:
    now: int
    """Epoch milliseconds."""

    def __call__(self) -> int:
        return self.now

    def advance(self, milliseconds: int) -> None:
        self.now += milliseconds

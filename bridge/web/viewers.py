"""Open pages of this process, and their refresh interval, so that many pages do not slow polls and deliveries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LEAST_SECONDS: Final = 0.5
PAGES_PER_SECOND: Final = 4
"""A page costs some 25 ms of processor time with a thousand rooms, so all of them cost a tenth of a core at most."""


class Viewers:
    """Counts the open pages that update live."""

    def __init__(self) -> None:
        self._count = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a page while the block lasts."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    @property
    def pace(self) -> float:
        """Seconds between two refreshes of a page."""
        return max(LEAST_SECONDS, self._count / PAGES_PER_SECOND)

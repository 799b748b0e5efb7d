"""Signatures of the pokes that this process has taken: the same message again has no effect."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from bridge.rules.signing import TOLERANCE

REMEMBERED: Final = 2 * TOLERANCE
"""By then, the timestamp of a message is out of tolerance, even if it was ahead of this clock."""
KEPT: Final = 10_000
"""Limit of memory: a message that is forgotten earlier costs one more poll if it is repeated."""


@dataclass(slots=True)
class SeenPokes:
    """The pokes of the last minutes, by source and fingerprint; only verified ones get here."""

    _seen: set[tuple[str, bytes]] = field(default_factory=set)
    _by_time: deque[tuple[datetime, tuple[str, bytes]]] = field(default_factory=deque)

    def has(self, source: str, fingerprint: bytes) -> bool:
        return (source, fingerprint) in self._seen

    def add(self, source: str, fingerprint: bytes, now: datetime) -> None:
        """Remember a poke, and forget those that are too old to be accepted again."""
        while self._by_time and (self._by_time[0][0] < now - REMEMBERED or len(self._by_time) >= KEPT):
            self._seen.discard(self._by_time.popleft()[1])
        if not self.has(source, fingerprint):
            self._seen.add((source, fingerprint))
            self._by_time.append((now, (source, fingerprint)))

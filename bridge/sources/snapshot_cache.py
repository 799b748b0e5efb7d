"""Cache of parsed responses: most polls get the same response as the one before, and comparing is cheaper than parsing.

Limited by the bytes of the responses. When it is full, new entries are refused instead of old ones evicted: rooms are
polled in turn, so each would evict the one that is polled next. Now and then, entries that were not used since the
last time are removed.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.rules.presence import Snapshot


@dataclass(slots=True, kw_only=True)
class _Entry:
    digest: bytes
    snapshot: Snapshot
    size: int
    used: bool = True


class SnapshotCache:
    """The latest snapshot of each room, up to `limit` bytes of responses."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._refused = 0
        self._entries: dict[str, _Entry] = {}

    def recall(self, room_id: str, digest: bytes) -> Snapshot | None:
        """The room's snapshot, if the response is still the same."""
        entry = self._entries.get(room_id)
        if entry is None or entry.digest != digest:
            return None
        entry.used = True
        return entry.snapshot

    def remember(self, room_id: str, digest: bytes, snapshot: Snapshot, size: int) -> None:
        """Keep the snapshot of a response of this digest and `size` bytes, if there is space."""
        self.forget(room_id)
        if self._size + size > self._limit:
            self._refuse()
            return
        self._entries[room_id] = _Entry(digest=digest, snapshot=snapshot, size=size)
        self._size += size

    def forget(self, room_id: str) -> None:
        """Remove a room."""
        entry = self._entries.pop(room_id, None)
        if entry is not None:
            self._size -= entry.size

    def _refuse(self) -> None:
        self._refused += 1
        if self._refused <= len(self._entries):
            return
        self._refused = 0
        for room_id, entry in list(self._entries.items()):
            if entry.used:
                entry.used = False
            else:
                self.forget(room_id)

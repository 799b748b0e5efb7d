"""Answers already read: most polls find what the last one found, and reading a list costs more than comparing it.

Bounded by the bytes of the answers. When full, newcomers are turned away rather than let in at another's expense:
rooms are asked in turn, and each would throw out the one whose turn comes next. Now and then, those that nobody has
asked for since the last time make room.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.rules.presence import Snapshot


@dataclass(slots=True, kw_only=True)
class _Entry:
    snapshot: Snapshot
    size: int
    asked_for: bool = True


class SnapshotCache:
    """The newest snapshot of each room, up to `limit` bytes of answers."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._turned_away = 0
        self._entries: dict[str, _Entry] = {}

    def recall(self, room_id: str, fingerprint: bytes) -> Snapshot | None:
        """The room's snapshot, if the response is still the one that it was read from."""
        entry = self._entries.get(room_id)
        if entry is None or entry.snapshot.fingerprint != fingerprint:
            return None
        entry.asked_for = True
        return entry.snapshot

    def remember(self, room_id: str, snapshot: Snapshot, size: int) -> None:
        """Keep what was read from an response of `size` bytes, if there is room for it."""
        self.forget(room_id)
        if self._size + size > self._limit:
            self._turn_away()
            return
        self._entries[room_id] = _Entry(snapshot=snapshot, size=size)
        self._size += size

    def forget(self, room_id: str) -> None:
        """Drop a room, if it is known."""
        entry = self._entries.pop(room_id, None)
        if entry is not None:
            self._size -= entry.size

    def _turn_away(self) -> None:
        self._turned_away += 1
        if self._turned_away <= len(self._entries):
            return
        self._turned_away = 0
        for room_id, entry in list(self._entries.items()):
            if entry.asked_for:
                entry.asked_for = False
            else:
                self.forget(room_id)

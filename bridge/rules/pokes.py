"""The result that a poll should have if a poke is true. Pure.

A poke never changes presence itself. But the list of peers may lag behind it: if the next poll contradicts it, the
room is polled once more a moment later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from bridge.rules.presence import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A peer should be present or gone; without a `peer_id`, the room should be empty."""

    peer_id: str | None
    present: bool = False

    def agrees_with(self, snapshot: Snapshot) -> bool:
        """Whether a poll found what was expected."""
        if self.peer_id is None:
            return not snapshot.peers
        return any(peer.peer_id == self.peer_id for peer in snapshot.peers) is self.present

    def __str__(self) -> str:
        """The text that `parse` reads."""
        return ("+" if self.present else "-") + (self.peer_id or "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of an expectation."""
        return cls(peer_id=text[1:] or None, present=text.startswith("+"))

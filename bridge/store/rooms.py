"""Tracked rooms: which there are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSpec:
    """A room as somebody asked for it; None means "as `[polling]` says"."""

    source: str
    upstream_id: str
    name: str | None = None
    interval: timedelta | None = None
    leave_after_missed: int | None = None
    enabled: bool = True

"""Sources for listings: their condition, and how many rooms they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, case, func, select

from bridge.db.tables import rooms, sources
from bridge.rules.polling import Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSource:
    """A configured source; `failing_rooms` of its `rooms` could not be polled the last time."""

    name: str
    kind: str
    condition: str
    since: datetime | None
    paused_until: datetime | None
    rooms: int
    failing_rooms: int


def list_sources(connection: Connection, kinds: Mapping[str, str]) -> list[ListedSource]:
    """Return sources, given with their kinds, by name."""
    stored = {row.name: row for row in connection.execute(select(sources).where(sources.c.name.in_(kinds)))}
    failing = func.sum(case((rooms.c.failures > 0, 1), else_=0)).label("failing")
    counted = select(rooms.c.source, func.count().label("rooms"), failing).where(rooms.c.tracked)
    counts = {row.source: row for row in connection.execute(counted.group_by(rooms.c.source))}
    return [
        ListedSource(
            name=name,
            kind=kind,
            condition=stored[name].condition if name in stored else Condition.OK.value,
            since=stored[name].since if name in stored else None,
            paused_until=stored[name].paused_until if name in stored else None,
            rooms=counts[name].rooms if name in counts else 0,
            failing_rooms=counts[name].failing if name in counts else 0,
        )
        for name, kind in sorted(kinds.items())
    ]

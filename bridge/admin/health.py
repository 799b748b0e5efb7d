"""Counts and overdue work, for `/readyz` and the dashboard."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, or_, select

from bridge.db.tables import cursors, endpoints, events, rooms, sources, visits
from bridge.rules.polling import Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """Due times of the longest overdue poll and delivery (None: nothing is due), and the sources that are not ok."""

    poll_due_since: datetime | None
    delivery_due_since: datetime | None
    unavailable_sources: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Numbers of tracked rooms, occupied rooms, and so on. Counting takes time for each room."""

    rooms: int
    occupied_rooms: int
    peers: int
    events: int
    endpoints: int
    disabled_endpoints: int


def read_overdue(connection: Connection, now: datetime) -> Overdue:
    """Read what is overdue. Work of a paused source or endpoint is not."""
    ok_sources = select(sources.c.name).where(sources.c.condition == Condition.OK.value)
    poll_due = select(func.min(rooms.c.next_poll_at)).where(
        rooms.c.tracked,
        rooms.c.next_poll_at <= now,
        rooms.c.claim_token.is_(None),
        rooms.c.source.in_(ok_sources),
    )
    delivery_due = (
        select(func.min(cursors.c.next_attempt_at))
        .join(endpoints, endpoints.c.id == cursors.c.endpoint_key)
        .where(
            cursors.c.acked < cursors.c.head,
            cursors.c.next_attempt_at <= now,
            cursors.c.claim_token.is_(None),
            endpoints.c.state == "active",
            endpoints.c.circuit == "closed",
            or_(endpoints.c.paused_until.is_(None), endpoints.c.paused_until <= now),
        )
    )
    unavailable = select(sources.c.name, sources.c.condition).where(sources.c.condition != Condition.OK.value)
    return Overdue(
        poll_due_since=connection.execute(poll_due).scalar_one(),
        delivery_due_since=connection.execute(delivery_due).scalar_one(),
        unavailable_sources={row.name: row.condition for row in connection.execute(unavailable)},
    )


def read_counts(connection: Connection) -> Counts:
    """Count rooms, endpoints and the rest."""
    count = func.count()
    return Counts(
        rooms=connection.execute(select(count).select_from(rooms).where(rooms.c.tracked)).scalar_one(),
        occupied_rooms=connection.execute(
            select(count).select_from(rooms).where(rooms.c.tracked, rooms.c.session_key.is_not(None))
        ).scalar_one(),
        peers=connection.execute(select(count).select_from(visits).where(visits.c.left_at.is_(None))).scalar_one(),
        events=connection.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one(),
        endpoints=connection.execute(select(count).select_from(endpoints)).scalar_one(),
        disabled_endpoints=connection.execute(
            select(count).select_from(endpoints).where(endpoints.c.state != "active")
        ).scalar_one(),
    )

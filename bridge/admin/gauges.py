"""Gauges for metrics: a few counting statements, whose cost grows with rooms, peers and cursors that owe events."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, func, select

from bridge.admin.rooms import STATE, RoomState
from bridge.db.tables import cursors, dead_letters, endpoints, events, rooms, sources, visits
from bridge.metrics import EndpointGauges, Gauges, SourceGauges, endpoint_label
from bridge.rules.delivery import Circuit
from bridge.rules.polling import UNAVAILABLE


def read_gauges(connection: Connection, now: datetime) -> Gauges:
    """Read the state of every source and of every endpoint."""
    return Gauges(sources=_sources(connection), endpoints=_endpoints(connection, now))


def _sources(connection: Connection) -> list[SourceGauges]:
    conditions = connection.execute(select(sources.c.name, sources.c.condition).order_by(sources.c.name))
    peers = {row.source: row.number for row in connection.execute(_PEERS)}
    states: dict[str, dict[str, int]] = defaultdict(lambda: {state.value: 0 for state in RoomState})
    for row in connection.execute(_ROOMS):
        states[row.source][row.state] = row.number
    return [
        SourceGauges(
            source=row.name,
            is_up=row.condition not in UNAVAILABLE,
            rooms=states[row.name],
            peers=peers.get(row.name, 0),
        )
        for row in conditions
    ]


def _endpoints(connection: Connection, now: datetime) -> list[EndpointGauges]:
    by_label: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(_ENDPOINTS):
        by_label[endpoint_label(row.name, row.origin)].append(row)
    return [_endpoint(label, rows, now) for label, rows in by_label.items()]


def _endpoint(label: str, rows: list[Any], now: datetime) -> EndpointGauges:
    oldest = min((row.oldest for row in rows if row.oldest is not None), default=now)
    return EndpointGauges(
        endpoint=label,
        is_up=all(row.state == "active" and row.circuit == Circuit.CLOSED for row in rows),
        owed_events=int(sum(row.owed for row in rows)),
        oldest_owed=max(now - oldest, timedelta()),
        dead_letters=sum(row.dead for row in rows),
    )


_NUMBER = func.count().label("number")
_PEERS = (
    select(rooms.c.source, _NUMBER)
    .join(visits, and_(visits.c.room_key == rooms.c.id, visits.c.left_at.is_(None)))
    .group_by(rooms.c.source)
)
_ROOMS = select(rooms.c.source, STATE.label("state"), _NUMBER).where(rooms.c.tracked).group_by(rooms.c.source, STATE)
_OWING = and_(cursors.c.endpoint_key == endpoints.c.id, cursors.c.acked < cursors.c.head)
_OWED = select(func.coalesce(func.sum(cursors.c.head - cursors.c.acked), 0)).where(_OWING).scalar_subquery()
_OLDEST = (
    select(func.min(events.c.recorded_at))
    .select_from(cursors)
    .join(events, and_(events.c.room_key == cursors.c.room_key, events.c.sequence == cursors.c.acked + 1))
    .where(_OWING)
    .correlate(endpoints)
    .scalar_subquery()
)
_DEAD = select(func.count()).where(dead_letters.c.endpoint_key == endpoints.c.id).scalar_subquery()
_ENDPOINTS = select(
    endpoints.c.name, endpoints.c.origin, endpoints.c.state, endpoints.c.circuit,
    _OWED.label("owed"), _OLDEST.label("oldest"), _DEAD.label("dead"),
).order_by(endpoints.c.name)  # fmt: skip

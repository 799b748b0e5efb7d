"""Attempts and dead letters for listings, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, Text, cast, literal, select

from bridge.admin.events import find_event
from bridge.admin.listing import Listing, Order, Page, columns_of, fetch_page, in_period, keys_of_room
from bridge.db.tables import attempts, dead_letters, endpoints, events, rooms
from bridge.delivery.endpoints import find_endpoint
from bridge.rules.delivery import Outcome

_PREFIX = "att_"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFilter:
    """Conditions that attempts or dead letters must meet.

    `endpoint` is a name or an id. `since` (inclusive) and `until` compare the time at which an attempt was started, or
    at which an event became a dead letter.
    """

    endpoint: str | None = None
    room: str | None = None
    event: str | None = None
    delivered: bool = False
    failed: bool = False
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedAttempt:
    """One POST and its outcome; `kind` is live or redelivery, `response` the beginning of the response's body."""

    id: str
    event_id: str
    type: str
    source: str | None
    room_id: str | None
    sequence: int
    endpoint: str
    endpoint_id: str
    kind: str
    started_at: datetime
    duration_seconds: float
    outcome: str
    status: int | None
    cause: str | None
    detail: str
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDeadLetter:
    """An event that was given up for an endpoint, after `tries` attempts."""

    event_id: str
    type: str
    source: str | None
    room_id: str | None
    sequence: int
    endpoint: str
    endpoint_id: str
    parked_at: datetime
    reason: str
    tries: int


def list_attempts(connection: Connection, wanted: AttemptFilter, page: Page) -> Listing[ListedAttempt]:
    """Return attempts, newest first.

    Raises:
        NotFoundError: there is no such endpoint, room or event.
    """
    query = _select(connection, attempts, wanted, _ATTEMPT, attempts.c.started_at)
    if wanted.delivered:
        query = query.where(attempts.c.outcome == Outcome.DELIVERED.value)
    if wanted.failed:
        query = query.where(_IS_FAILED)
    return fetch_page(connection, query, _NEWEST_FIRST, page, ListedAttempt)


def list_dead_letters(connection: Connection, wanted: AttemptFilter, page: Page) -> Listing[ListedDeadLetter]:
    """Return dead letters, newest first.

    Raises:
        NotFoundError: there is no such endpoint, room or event.
    """
    query = _select(connection, dead_letters, wanted, _DEAD_LETTER, dead_letters.c.parked_at)
    return fetch_page(connection, query, _LAST_PARKED_FIRST, page, ListedDeadLetter)


def _select(
    connection: Connection,
    table: Table,
    wanted: AttemptFilter,
    columns: tuple[ColumnElement[Any], ...],
    at: ColumnElement[datetime],
) -> Select[Any]:
    """Select attempts or dead letters with their event, room and endpoint; the filters that both know are applied.

    Every attempt and dead letter has these. The outer joins restrict nothing, so no database starts with them.
    """
    query = (
        select(*columns, *_EVENT)
        .outerjoin(events, events.c.id == table.c.event_key)
        .outerjoin(rooms, rooms.c.id == events.c.room_key)
        .outerjoin(endpoints, endpoints.c.id == table.c.endpoint_key)
        .where(*in_period(at, wanted.since, wanted.until))
    )
    if wanted.endpoint is not None:
        query = query.where(table.c.endpoint_key == find_endpoint(connection, wanted.endpoint).id)
    if wanted.room is not None:
        of_room = select(events.c.id).where(events.c.room_key.in_(keys_of_room(connection, wanted.room)))
        query = query.where(table.c.event_key.in_(of_room))
    if wanted.event is not None:
        query = query.where(table.c.event_key == find_event(connection, wanted.event).key)
    return query


_EVENT = (
    events.c.public_id.label("event_id"),
    *(events.c.type, events.c.sequence, rooms.c.source, rooms.c.upstream_id.label("room_id")),
    *(endpoints.c.name.label("endpoint"), endpoints.c.public_id.label("endpoint_id")),
)
_ATTEMPT = (
    (literal(_PREFIX) + cast(attempts.c.id, Text)).label("id"),
    *columns_of(attempts, ListedAttempt),
)
_NEWEST_FIRST = Order((attempts.c.started_at, attempts.c.id))
_LAST_PARKED_FIRST = Order((dead_letters.c.id,))
_IS_FAILED = attempts.c.outcome != literal(Outcome.DELIVERED.value, literal_execute=True)  # as in `ix_attempts_failed`
_DEAD_LETTER = tuple(columns_of(dead_letters, ListedDeadLetter))

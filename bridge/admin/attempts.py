"""Attempts and dead letters as people and programs ask for them, newest first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, select

from bridge.admin.events import find_event
from bridge.admin.listing import Page, keys_of_room
from bridge.db.tables import attempts, dead_letters, endpoints, events, rooms
from bridge.delivery.endpoints import find_endpoint
from bridge.errors import NotFoundError
from bridge.rules.delivery import Outcome

_PREFIX = "att_"
_DIGITS = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFilter:
    """Which attempts (or dead letters) are wanted; everything, unless something is said.

    `endpoint` is a name or id, `since` (inclusive) and `until` are about when an attempt began, or an event was parked.
    """

    endpoint: str | None = None
    room: str | None = None
    event: str | None = None
    failed: bool = False
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedAttempt:
    """One POST and what came of it. `kind` is live, or what else it was; `response` is the beginning of the body."""

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
    """An event that an endpoint was given up for; `tries` is how many attempts that took."""

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


def list_attempts(connection: Connection, wanted: AttemptFilter, page: Page) -> list[ListedAttempt]:
    """Attempts, newest first.

    Raises:
        NotFoundError: there is no such endpoint, room, event or attempt.
    """
    query = _wanted(connection, attempts, wanted)
    if wanted.failed:
        query = query.where(attempts.c.outcome != Outcome.DELIVERED.value)
    if wanted.since is not None:
        query = query.where(attempts.c.started_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(attempts.c.started_at < wanted.until)
    if page.after is not None:
        query = query.where(attempts.c.id < _key(page.after))
    newest_first = query.order_by(attempts.c.id.desc()).limit(page.limit)
    return [_attempt(row) for row in connection.execute(newest_first)]


def list_dead_letters(connection: Connection, wanted: AttemptFilter, *, limit: int) -> list[ListedDeadLetter]:
    """Dead letters, the last parked first.

    Raises:
        NotFoundError: there is no such endpoint, room or event.
    """
    query = _wanted(connection, dead_letters, wanted)
    if wanted.since is not None:
        query = query.where(dead_letters.c.parked_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(dead_letters.c.parked_at < wanted.until)
    newest_first = query.order_by(dead_letters.c.id.desc()).limit(limit)
    return [_dead_letter(row) for row in connection.execute(newest_first)]


def _wanted(connection: Connection, table: Table, wanted: AttemptFilter) -> Select[Any]:
    """What the filters have in common: rows of attempts or dead letters, with their event, room and endpoint."""
    query = (
        select(table, events.c.public_id.label("event_id"), events.c.type, events.c.sequence)
        .add_columns(rooms.c.source, rooms.c.upstream_id.label("room_id"))
        .add_columns(endpoints.c.name.label("endpoint"), endpoints.c.public_id.label("endpoint_id"))
        .join(events, events.c.id == table.c.event_key)
        .join(rooms, rooms.c.id == events.c.room_key)
        .join(endpoints, endpoints.c.id == table.c.endpoint_key)
    )
    if wanted.endpoint is not None:
        query = query.where(table.c.endpoint_key == find_endpoint(connection, wanted.endpoint).id)
    if wanted.room is not None:
        query = query.where(events.c.room_key.in_(keys_of_room(connection, wanted.room)))
    if wanted.event is not None:
        query = query.where(table.c.event_key == find_event(connection, wanted.event).key)
    return query


def _key(attempt_id: str) -> int:
    digits = attempt_id.removeprefix(_PREFIX)
    if not (attempt_id.startswith(_PREFIX) and _DIGITS.fullmatch(digits)):
        raise NotFoundError(f"no attempt has the id {attempt_id!r}: see `bridge deliveries list --json`")
    return int(digits)


def _event_values(row: Row[Any]) -> dict[str, Any]:
    return {
        "event_id": row.event_id,
        "type": row.type,
        "source": row.source,
        "room_id": row.room_id,
        "sequence": row.sequence,
        "endpoint": row.endpoint,
        "endpoint_id": row.endpoint_id,
    }


def _attempt(row: Row[Any]) -> ListedAttempt:
    return ListedAttempt(
        **_event_values(row),
        id=f"{_PREFIX}{row.id}",
        kind=row.kind,
        started_at=row.started_at,
        duration_seconds=row.duration_seconds,
        outcome=row.outcome,
        status=row.status,
        cause=row.cause,
        detail=row.detail,
        response=row.response,
    )


def _dead_letter(row: Row[Any]) -> ListedDeadLetter:
    return ListedDeadLetter(**_event_values(row), parked_at=row.parked_at, reason=row.reason, tries=row.tries)

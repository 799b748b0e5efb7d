"""What became of one event at every endpoint: acknowledged, owed, dead, or none of its business."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, and_, select

from bridge.admin.attempts import (
    AttemptFilter,
    ListedAttempt,
    ListedDeadLetter,
    list_attempts,
    list_dead_letters,
)
from bridge.admin.events import LoggedEvent, find_event
from bridge.admin.listing import Page
from bridge.db.tables import cursors, endpoints, events, redeliveries, rooms
from bridge.delivery.redeliver import RedeliveryState
from bridge.events.types import matches
from bridge.rules.delivery import Outcome

EVERYTHING = 100_000
"""More attempts than one event can have: `retry_schedule` ends."""


class DeliveryState(StrEnum):
    """Where an event stands at one endpoint. Passed over: it did not want it, or did not exist yet."""

    ACKNOWLEDGED = "acknowledged"
    OWED = "owed"
    DEAD = "dead"
    PASSED_OVER = "passed_over"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDelivery:
    """One event at one endpoint; attempts newest first. `next_attempt_at` only if it is at the head of its line.

    `redelivery_at` is when a redelivery that somebody asked for is due.
    """

    endpoint: str
    endpoint_id: str
    endpoint_state: str
    state: DeliveryState
    next_attempt_at: datetime | None
    redelivery_at: datetime | None
    dead_letter: ListedDeadLetter | None
    attempts: tuple[ListedAttempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredEvent:
    """An event and where it stands at every endpoint, by name."""

    event: LoggedEvent
    deliveries: tuple[EventDelivery, ...]


def show_deliveries(connection: Connection, event_id: str) -> DeliveredEvent:
    """What became of an event.

    Raises:
        NotFoundError: there is no such event.
    """
    event = find_event(connection, event_id)
    this_one = AttemptFilter(event=event_id)
    tried: dict[str, list[ListedAttempt]] = defaultdict(list)
    for attempt in list_attempts(connection, this_one, Page(limit=EVERYTHING)):
        tried[attempt.endpoint_id].append(attempt)
    dead = {letter.endpoint_id: letter for letter in list_dead_letters(connection, this_one, limit=EVERYTHING)}
    asked_for = _redeliveries(connection, event.key)
    return DeliveredEvent(
        event=event,
        deliveries=tuple(
            EventDelivery(
                endpoint=row.name,
                endpoint_id=row.public_id,
                endpoint_state=row.state,
                state=_state(row, tried[row.public_id], dead.get(row.public_id)),
                next_attempt_at=_next_attempt_at(connection, row),
                redelivery_at=asked_for.get(row.public_id),
                dead_letter=dead.get(row.public_id),
                attempts=tuple(tried[row.public_id]),
            )
            for row in _lines(connection, event.key)
        ),
    )


def _redeliveries(connection: Connection, event_key: int) -> dict[str, datetime]:
    """When the redeliveries of the event that are owed are due, by the endpoint's id."""
    owed = (
        select(endpoints.c.public_id, redeliveries.c.next_attempt_at)
        .join(endpoints, endpoints.c.id == redeliveries.c.endpoint_key)
        .where(redeliveries.c.event_key == event_key, redeliveries.c.state == RedeliveryState.OWED)
    )
    return {row.public_id: row.next_attempt_at for row in connection.execute(owed)}


def _lines(connection: Connection, event_key: int) -> Sequence[Row[Any]]:
    """Every endpoint, with the event and its cursor in the event's room, where there is one."""
    return connection.execute(
        select(endpoints.c.public_id, endpoints.c.name, endpoints.c.state, endpoints.c.created_at)
        .add_columns(endpoints.c.events.label("types"), endpoints.c.rooms)
        .add_columns(events.c.room_key, events.c.sequence, events.c.type, events.c.recorded_at, rooms.c.upstream_id)
        .add_columns(cursors.c.acked, cursors.c.head, cursors.c.next_attempt_at)
        .select_from(endpoints)
        .join(events, events.c.id == event_key)
        .join(rooms, rooms.c.id == events.c.room_key)
        .outerjoin(cursors, and_(cursors.c.endpoint_key == endpoints.c.id, cursors.c.room_key == events.c.room_key))
        .order_by(endpoints.c.name)
    ).all()


def _state(row: Row[Any], tried: Sequence[ListedAttempt], dead: ListedDeadLetter | None) -> DeliveryState:
    if dead is not None:
        return DeliveryState.DEAD
    if _is_owed(row):
        return DeliveryState.OWED
    if any(attempt.outcome == Outcome.DELIVERED for attempt in tried):
        return DeliveryState.ACKNOWLEDGED
    has_passed = row.acked is not None and row.sequence <= row.acked
    # Concerned and passed without an attempt on record: those are kept for a time only. Unless it came later.
    if has_passed and _concerns(row) and row.created_at <= row.recorded_at:
        return DeliveryState.ACKNOWLEDGED
    return DeliveryState.PASSED_OVER


def _is_owed(row: Row[Any]) -> bool:
    return row.acked is not None and row.acked < row.sequence <= row.head and _concerns(row)


def _concerns(row: Row[Any]) -> bool:
    return matches(row.type, row.types) and (row.upstream_id is None or matches(row.upstream_id, row.rooms))


def _next_attempt_at(connection: Connection, row: Row[Any]) -> datetime | None:
    """Of the event that is first in its line; those behind it wait for it."""
    if not _is_owed(row):
        return None
    before = select(events.c.type).where(
        events.c.room_key == row.room_key, events.c.sequence > row.acked, events.c.sequence < row.sequence
    )
    if any(matches(kind, row.types) for kind in connection.execute(before).scalars()):
        return None
    due_at: datetime = row.next_attempt_at
    return due_at

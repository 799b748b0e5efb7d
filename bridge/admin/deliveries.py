"""The delivery of one event, at every endpoint: acknowledged, owed, a dead letter, or passed over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, select

from bridge.admin.attempts import AttemptFilter, ListedAttempt, ListedDeadLetter, list_attempts, list_dead_letters
from bridge.admin.events import LoggedEvent, find_event
from bridge.admin.listing import Page
from bridge.db.tables import cursors, endpoints, events, redeliveries, rooms
from bridge.events.subscription import subscription
from bridge.rules.delivery import Outcome, RedeliveryState

ALL = 100_000
"""More attempts than one event can have: `retry_schedule` ends."""


class DeliveryState(StrEnum):
    """The state of one event at one endpoint; `passed_over` if the filters exclude it or the endpoint is newer."""

    ACKNOWLEDGED = "acknowledged"
    OWED = "owed"
    DEAD = "dead"
    PASSED_OVER = "passed_over"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDelivery:
    """One event at one endpoint; attempts newest first.

    `next_attempt_at` is set if the event is the next one of its cursor, `redelivery_at` if a redelivery is pending.
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
    """An event and its delivery to every endpoint, by the endpoint's name."""

    event: LoggedEvent
    deliveries: tuple[EventDelivery, ...]


def show_deliveries(connection: Connection, event_id: str) -> DeliveredEvent:
    """Return the deliveries of an event.

    Raises:
        NotFoundError: there is no such event.
    """
    event = find_event(connection, event_id)
    this_one = AttemptFilter(event=event_id)
    attempts: dict[str, list[ListedAttempt]] = defaultdict(list)
    for attempt in list_attempts(connection, this_one, Page(limit=ALL)).items:
        attempts[attempt.endpoint_id].append(attempt)
    dead = {letter.endpoint_id: letter for letter in list_dead_letters(connection, this_one, Page(limit=ALL)).items}
    pending = _redeliveries(connection, event.key)
    return DeliveredEvent(
        event=event,
        deliveries=tuple(
            EventDelivery(
                endpoint=row.name,
                endpoint_id=row.public_id,
                endpoint_state=row.state,
                state=_state(row, attempts[row.public_id], dead.get(row.public_id)),
                next_attempt_at=row.next_attempt_at if _is_next(connection, row) else None,
                redelivery_at=pending.get(row.public_id),
                dead_letter=dead.get(row.public_id),
                attempts=tuple(attempts[row.public_id]),
            )
            for row in _endpoints_with_cursors(connection, event.key)
        ),
    )


def _redeliveries(connection: Connection, event_key: int) -> dict[str, datetime]:
    """Return the due times of the pending redeliveries of the event, by the endpoint's id."""
    pending = (
        select(endpoints.c.public_id, redeliveries.c.next_attempt_at)
        .join(endpoints, endpoints.c.id == redeliveries.c.endpoint_key)
        .where(redeliveries.c.event_key == event_key, redeliveries.c.state == RedeliveryState.OWED)
    )
    return {row.public_id: row.next_attempt_at for row in connection.execute(pending)}


def _endpoints_with_cursors(connection: Connection, event_key: int) -> Sequence[Row[Any]]:
    """Return every endpoint with the event and, if there is one, its cursor in the event's room."""
    query: Select[Any] = (
        select(
            *(endpoints.c.public_id, endpoints.c.name, endpoints.c.state, endpoints.c.created_at),
            *(endpoints.c.id.label("endpoint_key"), events.c.audience),
            *(endpoints.c.events.label("types"), endpoints.c.rooms),
            *(events.c.room_key, events.c.sequence, events.c.type, events.c.recorded_at, rooms.c.upstream_id),
            *(cursors.c.acked, cursors.c.head, cursors.c.next_attempt_at),
        )
        .select_from(endpoints)
        .join(events, events.c.id == event_key)
        .join(rooms, rooms.c.id == events.c.room_key)
        .outerjoin(cursors, and_(cursors.c.endpoint_key == endpoints.c.id, cursors.c.room_key == events.c.room_key))
    )
    return connection.execute(query.order_by(endpoints.c.name)).all()


def _state(row: Row[Any], attempts: Sequence[ListedAttempt], dead: ListedDeadLetter | None) -> DeliveryState:
    if dead is not None:
        return DeliveryState.DEAD
    if _is_owed(row):
        return DeliveryState.OWED
    if any(attempt.outcome == Outcome.DELIVERED for attempt in attempts):
        return DeliveryState.ACKNOWLEDGED
    is_behind_the_cursor = row.acked is not None and row.sequence <= row.acked
    # Without an attempt on record it may still have been delivered: attempts are pruned before events.
    if is_behind_the_cursor and _is_wanted(row) and row.created_at <= row.recorded_at:
        return DeliveryState.ACKNOWLEDGED
    return DeliveryState.PASSED_OVER


def _is_owed(row: Row[Any]) -> bool:
    return row.acked is not None and row.acked < row.sequence <= row.head and _is_wanted(row)


def _is_wanted(row: Row[Any]) -> bool:
    wanting = subscription(row.endpoint_key, row.types, row.rooms)
    return wanting.wants(row.type, row.upstream_id, row.audience)


def _is_next(connection: Connection, row: Row[Any]) -> bool:
    """Whether the event is the next one of its cursor; the events behind it wait for it."""
    if not _is_owed(row):
        return False
    before = select(events.c.type, events.c.audience).where(
        *(events.c.room_key == row.room_key, events.c.sequence > row.acked, events.c.sequence < row.sequence),
        events.c.body.is_not(None),
    )
    wanting = subscription(row.endpoint_key, row.types, row.rooms)
    return not any(
        wanting.wants(each.type, row.upstream_id, each.audience) for each in connection.execute(before.distinct())
    )

"""Giving up one event for an endpoint, so that the endpoint gets the later events of the room."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, select, update

from bridge.db.event_log import is_in_audience
from bridge.db.notifications import notify_due
from bridge.db.tables import cursors, endpoints, events, rooms
from bridge.delivery.endpoints import find_endpoint
from bridge.delivery.plan import NewDeadLetter
from bridge.delivery.record import insert_dead_letters
from bridge.errors import ConflictError, NotFoundError
from bridge.events.subscription import subscription
from bridge.events.types import matches
from bridge.rules.delivery import DeadLetterReason


def skip_event(connection: Connection, endpoint_name: str, event_id: str, now: datetime) -> None:
    """Make the next event that the endpoint's cursor owes a dead letter, and move the cursor past it.

    The claim of a sender is revoked: what it records about this event is fenced.

    Raises:
        NotFoundError: there is no such endpoint or event.
        ConflictError: the event is not the next one that is owed.
    """
    endpoint = find_endpoint(connection, endpoint_name)
    connection.execute(select(endpoints.c.id).where(endpoints.c.id == endpoint.id).with_for_update(key_share=True))
    event = _find_event(connection, event_id)
    of_cursor = (cursors.c.endpoint_key == endpoint.id, cursors.c.room_key == event.room_key)
    position: Select[Any] = select(cursors.c.acked, cursors.c.head).where(*of_cursor)
    cursor = connection.execute(position.with_for_update()).first()
    following = None if cursor is None else _next_owed(connection, endpoint, event, cursor)
    if following is None or following.id != event.id:
        raise ConflictError(f"event {event_id!r} cannot be skipped: {_reason(endpoint, event, cursor, following)}")
    insert_dead_letters(connection, [NewDeadLetter(endpoint.id, event.id, now, DeadLetterReason.SKIPPED.value)])
    connection.execute(
        update(cursors)
        .where(*of_cursor)
        .values(
            acked=event.sequence,
            claim_token=None,
            next_attempt_at=now,
            failed_attempts=0,
            rejections=0,
            last_failed_at=None,
        )
    )
    notify_due(connection)


def _find_event(connection: Connection, event_id: str) -> Row[Any]:
    columns = (events.c.id, events.c.room_key, events.c.sequence, events.c.type, rooms.c.upstream_id)
    found: Select[Any] = select(*columns).join(rooms, rooms.c.id == events.c.room_key)
    row = connection.execute(found.where(events.c.public_id == event_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"no event has the id {event_id!r}", "see `bridge events list --json`")
    return row


def _next_owed(connection: Connection, endpoint: Row[Any], event: Row[Any], cursor: Row[Any]) -> Row[Any] | None:
    """The first event after the cursor that the endpoint wants."""
    wanting = subscription(endpoint.id, endpoint.events, endpoint.rooms)
    if not wanting.wants_room(event.upstream_id):
        return None
    wanted = (
        events.c.room_key == event.room_key,
        events.c.sequence > cursor.acked,
        events.c.sequence <= cursor.head,
        events.c.type.in_(wanting.event_types),
        events.c.body.is_not(None),
        is_in_audience(events.c.audience, endpoint.id),
    )
    first: Select[Any] = select(events.c.id, events.c.public_id).where(*wanted).order_by(events.c.sequence)
    return connection.execute(first.limit(1)).one_or_none()


def _reason(endpoint: Row[Any], event: Row[Any], cursor: Row[Any] | None, following: Row[Any] | None) -> str:
    if cursor is not None and event.sequence <= cursor.acked:
        return f"endpoint {endpoint.name!r} has acknowledged it, or it was given up"
    if following is None or not matches(event.type, endpoint.events):
        return f"it was never owed to endpoint {endpoint.name!r}"
    return f"the next event owed to endpoint {endpoint.name!r} in this room is {following.public_id}: skip that first"

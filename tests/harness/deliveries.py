"""What must hold of the requests that an endpoint got, and how they compare with the log in the database.

DESIGN section 1: everything at least once, in order per room, the same bytes under the same id. Like `log`, this file
imports nothing of the bridge; it reads the tables with plain SQL.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.harness.receiver import Delivery, Event


def delivery_problems(deliveries: Sequence[Delivery]) -> list[str]:
    """What is wrong with one endpoint's requests: unverified, other bytes under one id, out of order.

    For an endpoint that wants every type: an event may be sent only when all before it in its room were accepted.
    """
    return [*_unverified(deliveries), *_different_bytes(deliveries), *_out_of_order(deliveries)]


def _unverified(deliveries: Sequence[Delivery]) -> Iterator[str]:
    for delivery in deliveries:
        if delivery.unverified is not None:
            yield f"request {delivery.assign_sequences} does not verify: {delivery.unverified}"
        if delivery.event.get("id") != delivery.event_id:
            yield f"request {delivery.assign_sequences}: webhook-id is not the event's id"


def _different_bytes(deliveries: Sequence[Delivery]) -> Iterator[str]:
    bodies: dict[str, bytes] = {}
    for delivery in deliveries:
        if bodies.setdefault(delivery.event_id, delivery.body) != delivery.body:
            yield f"request {delivery.assign_sequences} has other bytes than the first of {delivery.event_id}"


def _out_of_order(deliveries: Sequence[Delivery]) -> Iterator[str]:
    accepted: dict[tuple[str | None, int], int] = {}
    """When (as a place in the order of answers) each sequence of a room was first accepted."""
    for delivery in sorted((one for one in deliveries if one.accepted), key=lambda one: one.settled or 0):
        accepted.setdefault((delivery.room, delivery.event["data"]["sequence"]), delivery.settled or 0)
    for delivery in deliveries:
        sequence = delivery.event["data"]["sequence"]
        before = accepted.get((delivery.room, sequence - 1))
        if sequence > 1 and (before is None or before > delivery.settled_before):
            yield f"request {delivery.assign_sequences} ({delivery.room} #{sequence}) came before #{sequence - 1} was accepted"


def duplicates(deliveries: Iterable[Delivery]) -> list[str]:
    """Ids that were accepted more than once."""
    seen: set[str] = set()
    found = []
    for delivery in deliveries:
        if delivery.accepted:
            if delivery.event_id in seen:
                found.append(delivery.event_id)
            seen.add(delivery.event_id)
    return found


def stored_events(database_url: str) -> list[tuple[bytes, Event]]:
    """The rooms' logs as the database holds them, each in the order of `sequence`: the bytes, and what they say."""
    url = database_url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT body FROM events JOIN rooms ON rooms.id = room_key WHERE upstream_id IS NOT NULL"
                " ORDER BY room_key, sequence"
            )
        )
        bodies = [bytes(body) for (body,) in rows]
    return [(body, json.loads(body)) for body in bodies]


def difference_from_log(deliveries: Sequence[Delivery], stored: Sequence[tuple[bytes, Event]]) -> list[str]:
    """How what an endpoint accepted differs from the stored log: nothing missing, nothing else, the same bytes."""
    received = {delivery.event_id: delivery.body for delivery in deliveries if delivery.accepted}
    logged = {event["id"]: body for body, event in stored}
    return [
        *(f"never delivered: {_said(logged[event])}" for event in logged.keys() - received.keys()),
        *(f"not in the log: {_said(received[event])}" for event in received.keys() - logged.keys()),
        *(f"other bytes: {event}" for event in logged.keys() & received.keys() if logged[event] != received[event]),
    ]


def _said(body: bytes) -> str:
    event = json.loads(body)
    return f"{event['data']['room_id']} #{event['data']['sequence']} {event['type']}"

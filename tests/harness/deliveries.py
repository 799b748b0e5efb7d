"""Checks of the requests that an endpoint got, by themselves and against the log in the database.

The promises of the README: everything at least once, in order per room, the same bytes under the same id. Like `log`,
this file imports nothing of the bridge; it reads the tables with plain SQL.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from tests.harness.log import log_problems
from tests.harness.receiver import Delivery, Event, Receiver
from tests.harness.tables import rows
from tests.harness.waiting import PATIENCE, wait_until


def all_problems(deliveries: Sequence[Delivery], database_url: str) -> list[str]:
    """Return the faults of the rooms' logs, and of the deliveries of them to an endpoint that wants every type."""
    stored = stored_events(database_url)
    log = [event for _, event in stored]
    return [*log_problems(log), *difference_from_log(deliveries, stored), *delivery_problems(deliveries)]


def wait_until_delivered(receiver: Receiver, database_url: str, *, timeout: float = PATIENCE) -> None:
    """Wait until the receiver has accepted every event of the rooms' logs."""

    def difference() -> list[str]:
        return difference_from_log(receiver.deliveries, stored_events(database_url))

    wait_until(lambda: not difference(), timeout=timeout, what=lambda: f"the log at the receiver: {difference()[:10]}")


def delivery_problems(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the faults of one endpoint's requests: unverified, different bytes under one id, out of order.

    For an endpoint that wants every type: an event may be sent only when all before it in its room were accepted.
    """
    return [*_unverified(deliveries), *_different_bytes(deliveries), *_out_of_order(deliveries)]


def _unverified(deliveries: Sequence[Delivery]) -> Iterator[str]:
    for delivery in deliveries:
        if delivery.unverified is not None:
            yield f"request {delivery.number} does not verify: {delivery.unverified}"
        if delivery.event.get("id") != delivery.event_id:
            yield f"request {delivery.number}: webhook-id is not the event's id"


def _different_bytes(deliveries: Sequence[Delivery]) -> Iterator[str]:
    bodies: dict[str, bytes] = {}
    for delivery in deliveries:
        if bodies.setdefault(delivery.event_id, delivery.body) != delivery.body:
            yield f"request {delivery.number} differs from the first request for {delivery.event_id}"


def _out_of_order(deliveries: Sequence[Delivery]) -> Iterator[str]:
    accepted: dict[tuple[str | None, int], int] = {}
    """The position in the order of responses at which each sequence of a room was first accepted."""
    for delivery in sorted((one for one in deliveries if one.accepted), key=lambda one: one.responded or 0):
        accepted.setdefault((delivery.room, delivery.event["data"]["sequence"]), delivery.responded or 0)
    for delivery in deliveries:
        sequence = delivery.event["data"]["sequence"]
        before = accepted.get((delivery.room, sequence - 1))
        if sequence > 1 and (before is None or before > delivery.responded_before):
            about = f"request {delivery.number} ({delivery.room} #{sequence})"
            yield f"{about} came before #{sequence - 1} was accepted"


def duplicates(deliveries: Iterable[Delivery]) -> list[str]:
    """Return the ids that were accepted more than once."""
    seen: set[str] = set()
    found = []
    for delivery in deliveries:
        if delivery.accepted:
            if delivery.event_id in seen:
                found.append(delivery.event_id)
            seen.add(delivery.event_id)
    return found


def stored_events(database_url: str) -> list[tuple[bytes, Event]]:
    """Return the rooms' logs in the order of `sequence`: the bytes, and the event in them."""
    statement = (
        "SELECT body FROM events JOIN rooms ON rooms.id = room_key WHERE upstream_id IS NOT NULL"
        " ORDER BY room_key, sequence"
    )
    bodies = [bytes(body) for (body,) in rows(database_url, statement)]
    return [(body, json.loads(body)) for body in bodies]


def difference_from_log(deliveries: Sequence[Delivery], stored: Sequence[tuple[bytes, Event]]) -> list[str]:
    """Return what is missing, added or changed in the accepted deliveries, compared with the stored log."""
    received = {delivery.event_id: delivery.body for delivery in deliveries if delivery.accepted}
    logged = {event["id"]: body for body, event in stored}
    return [
        *(f"never delivered: {_brief(logged[event])}" for event in logged.keys() - received.keys()),
        *(f"not in the log: {_brief(received[event])}" for event in received.keys() - logged.keys()),
        *(f"other bytes: {event}" for event in logged.keys() & received.keys() if logged[event] != received[event]),
    ]


def _brief(body: bytes) -> str:
    event = json.loads(body)
    return f"{event['data']['room_id']} #{event['data']['sequence']} {event['type']}"

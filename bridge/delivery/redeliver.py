"""Records redeliveries: extra deliveries that an operator asked for, without effect on the endpoint's health.

Same event id and body, current secret. They wait in rows of their own, so that a crash in the middle of a replay loses
none, and one sender at a time works on those of an endpoint, so that live events keep their slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from bridge.db.tables import HOOK, attempts, dead_letters, endpoints, redeliveries
from bridge.delivery.claim import ClaimedRedeliveries, ClaimedRedelivery
from bridge.delivery.limits import has_due_events
from bridge.delivery.plan import Attempt
from bridge.delivery.record import attempt_values
from bridge.rules.delivery import Outcome, RedeliveryState


@dataclass(frozen=True, slots=True, kw_only=True)
class Redelivered:
    """An attempt at a redelivery; without `retry_at` it has ended, delivered or failed."""

    claimed: ClaimedRedeliveries
    redelivery: ClaimedRedelivery
    attempt: Attempt
    retry_at: datetime | None


def record_redelivery(connection: Connection, done: Redelivered) -> bool:
    """Record an attempt; returns whether the sender may go on with the claimed redeliveries.

    It may not if the claim was lost, if the endpoint is paused or its secret or URL has changed, or if a probe of an
    open circuit needs the only slot: then those not sent yet are given back.
    """
    key, outcome = done.claimed.target.key, done.attempt.result.outcome
    is_gone = outcome is Outcome.GONE
    endpoint = connection.execute(
        select(endpoints).where(endpoints.c.id == key).with_for_update(key_share=not is_gone)
    ).one_or_none()
    row = connection.execute(
        select(redeliveries.c.claim_token).where(redeliveries.c.id == done.redelivery.key).with_for_update()
    ).one_or_none()
    if endpoint is None or row is None or row.claim_token != done.claimed.token:
        return False
    if is_gone and endpoint.origin == HOOK and endpoint.url == done.claimed.target.url:
        connection.execute(delete(endpoints).where(endpoints.c.id == key))
        return False
    connection.execute(insert(attempts).values(**attempt_values(key, done.attempt, "redelivery")))
    if outcome is not Outcome.DELIVERED and endpoint.url != done.claimed.target.url:
        # A response from the old URL does not count for the new one.
        release_redeliveries(connection, [done.claimed])
        return False
    _write(connection, done)
    if outcome is Outcome.DELIVERED:
        of_event = (dead_letters.c.endpoint_key == key, dead_letters.c.event_key == done.attempt.event.key)
        connection.execute(delete(dead_letters).where(*of_event))
    if is_gone:
        owed = (redeliveries.c.endpoint_key == key, redeliveries.c.state == RedeliveryState.OWED)
        failed = {"state": RedeliveryState.FAILED.value, "claim_token": None}
        connection.execute(update(redeliveries).where(*owed).values(**failed))
        return False
    if _may_continue(connection, endpoint, done):
        return True
    release_redeliveries(connection, [done.claimed])
    return False


def release_redeliveries(connection: Connection, claimed: Sequence[ClaimedRedeliveries]) -> None:
    """Give back redeliveries that have not been sent: they are due as before."""
    for one in claimed:
        ours = (redeliveries.c.endpoint_key == one.target.key, redeliveries.c.claim_token == one.token)
        connection.execute(update(redeliveries).where(*ours).values(claim_token=None))


def _write(connection: Connection, done: Redelivered) -> None:
    delivered = done.attempt.result.outcome is Outcome.DELIVERED
    state = RedeliveryState.OWED if done.retry_at else RedeliveryState.DONE if delivered else RedeliveryState.FAILED
    connection.execute(
        update(redeliveries)
        .where(redeliveries.c.id == done.redelivery.key)
        .values(
            state=state.value,
            claim_token=None,
            tries=done.redelivery.tries + 1,
            next_attempt_at=done.retry_at or done.attempt.started_at,
        )
    )


def _may_continue(connection: Connection, endpoint: Row[Any], done: Redelivered) -> bool:
    result, target = done.attempt.result, done.claimed.target
    at = done.attempt.started_at + result.duration
    if result.retry_after is not None:
        paused = update(endpoints).where(endpoints.c.id == endpoint.id)
        connection.execute(paused.values(redeliveries_paused_until=at + result.retry_after))
        return False
    unchanged = bool((endpoint.rotated_at, endpoint.url) == (target.rotated_at, target.url))
    if endpoint.state != "active":
        return unchanged
    is_paused = endpoint.paused_until is not None and endpoint.paused_until > at
    is_in_the_way = endpoint.circuit != "closed" and has_due_events(connection, endpoint.id, at)
    return unchanged and not is_paused and not is_in_the_way

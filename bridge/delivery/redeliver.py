"""Redeliveries: extra deliveries that a person asked for, beside the cursors and without effect on anyone's health.

The same event, id and body, signed with the secret of the day. They wait in rows of their own, so that a kill in the
middle of a replay loses none, and one line of them per endpoint is worked off, so that live events are not starved.
A disabled endpoint gets them too: that is how it is tried out before it is enabled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, func, insert, or_, select, update

from bridge.db.encryption import SecretCipher
from bridge.db.tables import attempts, dead_letters, endpoints, events, redeliveries, rooms
from bridge.delivery.claim import LEASE_MARGIN, LOCKED_PAUSE, SPARE_ENDPOINTS, OwedEvent, Target, targets_of
from bridge.delivery.limits import (
    RATE_IS_FREE,
    REDELIVERING_NOW,
    busy_cursors,
    has_pending_events,
    replay_allowance,
    spend_rate,
)
from bridge.delivery.record import Tried, attempt_values
from bridge.rules.delivery import Outcome

LINE = 20
"""How many redeliveries of one endpoint one claim takes."""


class RedeliveryState(StrEnum):
    """What has become of a redelivery."""

    OWED = "owed"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRedelivery:
    """One redelivery of a claimed line."""

    key: int
    event: OwedEvent
    room_id: str | None
    tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRedeliveries:
    """Some redeliveries of one endpoint, ours until the lease ends."""

    target: Target
    token: str
    lease_until: datetime
    redeliveries: tuple[ClaimedRedelivery, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Redelivered:
    """What became of one redelivery; `retry_at` is None if it is done with, one way or the other."""

    line: ClaimedRedeliveries
    redelivery: ClaimedRedelivery
    tried: Tried
    retry_at: datetime | None
    lease_until: datetime


def claim_redeliveries(
    connection: Connection, *, lines: int, now: datetime, timeout: timedelta, token: str, cipher: SecretCipher
) -> list[ClaimedRedeliveries]:
    """Claim what is due, one line of at most 20 per endpoint, for up to `lines` endpoints."""
    due = _due_endpoints(connection, now, lines)
    if not due:
        return []
    busy = busy_cursors(connection, [endpoint.id for endpoint in due], now)
    targets = targets_of(connection, due, now, cipher)
    claimed: list[ClaimedRedeliveries] = []
    for endpoint in due:
        if len(claimed) >= lines:
            break
        if (target := targets.get(endpoint.id)) is None:
            _hold(connection, endpoint.id, now + LOCKED_PAUSE)
            continue
        # A line takes its time: each of its members may use up the whole time-out, and renews the lease of the rest.
        lease_until = now + (target.timeout or timeout) + LEASE_MARGIN
        allowance = replay_allowance(connection, endpoint, busy[endpoint.id], now)
        rows = _take(connection, endpoint, allowance, now, lease_until, token) if allowance > 0 else ()
        if rows:
            members = tuple(_claimed(row) for row in rows)
            claimed.append(
                ClaimedRedeliveries(target=target, token=token, lease_until=lease_until, redeliveries=members)
            )
    return claimed


def record_redelivery(connection: Connection, done: Redelivered) -> bool:
    """Write down what became of a redelivery; answers whether the line may go on.

    It may not if it is not ours any more, if the endpoint asked for quiet, here or in a live line, if its secret or its
    URL has changed since, or if a probe waits for the one place that an open circuit has: what of it has not been sent
    is then given back. What an address that is the endpoint's no more says against it means nothing.
    """
    key = done.line.target.key  # locked first, as everybody does
    endpoint = connection.execute(
        select(endpoints).where(endpoints.c.id == key).with_for_update(key_share=True)
    ).one_or_none()
    row = connection.execute(
        select(redeliveries.c.claim_token).where(redeliveries.c.id == done.redelivery.key).with_for_update()
    ).one_or_none()
    if endpoint is None or row is None or row.claim_token != done.line.token:
        return False
    connection.execute(insert(attempts).values(**attempt_values(key, done.tried, "redelivery")))
    delivered = done.tried.result.outcome is Outcome.DELIVERED
    if not delivered and endpoint.url != done.line.target.url:
        release_redeliveries(connection, [done.line], done.tried.started_at)
        return False
    state = RedeliveryState.OWED if done.retry_at else RedeliveryState.DONE if delivered else RedeliveryState.FAILED
    connection.execute(
        update(redeliveries)
        .where(redeliveries.c.id == done.redelivery.key)
        .values(
            state=state.value,
            claim_token=None,
            tries=done.redelivery.tries + 1,
            next_attempt_at=done.retry_at or done.lease_until,
        )
    )
    if delivered:
        connection.execute(
            delete(dead_letters).where(
                dead_letters.c.endpoint_key == key,
                dead_letters.c.event_key == done.tried.event.key,
            )
        )
    if done.tried.result.outcome is Outcome.GONE:
        _give_up(connection, key)
        return False
    if _may_go_on(connection, endpoint, done):
        _renew_lease(connection, done)
        return True
    release_redeliveries(connection, [done.line], done.tried.started_at)
    return False


def _may_go_on(connection: Connection, endpoint: Row[Any], done: Redelivered) -> bool:
    """Whether the next of the line may be sent, as the line was claimed."""
    result = done.tried.result
    at = done.tried.started_at + result.duration
    if result.retry_after is not None:
        _hold(connection, endpoint.id, at + result.retry_after)
        return False
    is_as_claimed = bool((endpoint.rotated_at, endpoint.url) == (done.line.target.rotated_at, done.line.target.url))
    if endpoint.state != "active":
        return is_as_claimed
    is_held = endpoint.paused_until is not None and endpoint.paused_until > at
    is_in_the_way = endpoint.circuit != "closed" and has_pending_events(connection, endpoint, at)
    return is_as_claimed and not is_held and not is_in_the_way


def _hold(connection: Connection, endpoint_key: int, until: datetime) -> None:
    """Nothing is replayed to the endpoint until then."""
    connection.execute(update(endpoints).where(endpoints.c.id == endpoint_key).values(redeliveries_paused_until=until))


def _give_up(connection: Connection, endpoint_key: int) -> None:
    """The endpoint is gone for good: it is called no more, whatever else was asked for."""
    owed = (redeliveries.c.endpoint_key == endpoint_key, redeliveries.c.state == RedeliveryState.OWED)
    connection.execute(update(redeliveries).where(*owed).values(state=RedeliveryState.FAILED.value, claim_token=None))


def _renew_lease(connection: Connection, done: Redelivered) -> None:
    connection.execute(
        update(redeliveries)
        .where(redeliveries.c.endpoint_key == done.line.target.key, redeliveries.c.claim_token == done.line.token)
        .values(next_attempt_at=done.lease_until)
    )


def release_redeliveries(connection: Connection, lines: Sequence[ClaimedRedeliveries], due_at: datetime) -> None:
    """Give back what of these lines has not been sent, to be due then."""
    for line in lines:
        ours = (redeliveries.c.endpoint_key == line.target.key, redeliveries.c.claim_token == line.token)
        connection.execute(update(redeliveries).where(*ours).values(claim_token=None, next_attempt_at=due_at))


def _due_endpoints(connection: Connection, now: datetime, lines: int) -> list[Row[Any]]:
    """The endpoints that may be replayed to, held; the one that waits longest first."""
    ready = connection.execute(_READY, {"now": now, "most": lines + SPARE_ENDPOINTS})
    turns = {row.id: place for place, row in enumerate(ready)}
    if not turns:
        return []
    held = connection.execute(_LOCKED_ENDPOINTS, {"keys": list(turns), "now": now}).all()
    # Asked anew now that they are held: somebody may have begun to replay to one while we waited for its row.
    taken = set(connection.execute(_TAKEN, {"keys": list(turns), "now": now}).scalars())
    return sorted((row for row in held if row.id not in taken), key=lambda row: turns[row.id])


def _take(
    connection: Connection, endpoint: Row[Any], allowance: int, now: datetime, lease_until: datetime, token: str
) -> Sequence[Row[Any, Any, Any, Any, Any, Any, Any, Any]]:
    rows = connection.execute(
        select(redeliveries.c.id, redeliveries.c.tries, redeliveries.c.event_key, events.c.public_id)
        .add_columns(events.c.sequence, events.c.type, events.c.body, rooms.c.upstream_id)
        .join(events, events.c.id == redeliveries.c.event_key)
        .join(rooms, rooms.c.id == events.c.room_key)
        .where(
            redeliveries.c.endpoint_key == endpoint.id,
            redeliveries.c.state == RedeliveryState.OWED,
            redeliveries.c.next_attempt_at <= now,
        )
        .order_by(redeliveries.c.event_key)
        .limit(min(LINE, allowance))
        .with_for_update(of=redeliveries, skip_locked=True)
    ).all()
    if rows:
        connection.execute(
            update(redeliveries)
            .where(redeliveries.c.id.in_([row.id for row in rows]))
            .values(claim_token=token, next_attempt_at=lease_until)
        )
        spend_rate(connection, endpoint, len(rows), now)
    return rows


def _claimed(row: Row[Any, Any, Any, Any, Any, Any, Any, Any]) -> ClaimedRedelivery:
    return ClaimedRedelivery(
        key=row.id,
        event=OwedEvent(
            key=row.event_key,
            public_id=row.public_id,
            sequence=row.sequence,
            type=row.type,
            body=bytes(row.body),
            passes_to=row.sequence,
        ),
        room_id=row.upstream_id,
        tries=row.tries,
    )


_MAY_BE_CALLED = and_(
    or_(
        endpoints.c.state != "active",  # whoever asks for it wants to try it out
        endpoints.c.paused_until.is_(None),
        endpoints.c.paused_until <= bindparam("now"),
    ),
    or_(endpoints.c.redeliveries_paused_until.is_(None), endpoints.c.redeliveries_paused_until <= bindparam("now")),
)
_WAITING_SINCE = (
    select(func.min(redeliveries.c.next_attempt_at))
    .where(
        redeliveries.c.endpoint_key == endpoints.c.id,
        redeliveries.c.state == RedeliveryState.OWED.value,
        redeliveries.c.next_attempt_at <= bindparam("now"),
    )
    .scalar_subquery()
)
_READY = (
    select(endpoints.c.id, _WAITING_SINCE.label("waiting_since"))
    .where(_MAY_BE_CALLED, RATE_IS_FREE, _WAITING_SINCE.is_not(None), ~REDELIVERING_NOW)
    .order_by("waiting_since", endpoints.c.id)
    .limit(bindparam("most"))
)
_LOCKED_ENDPOINTS = (
    select(endpoints)
    .where(endpoints.c.id.in_(bindparam("keys", expanding=True)), _MAY_BE_CALLED)
    .order_by(endpoints.c.id)
    .with_for_update(key_share=True)
)
_TAKEN = select(endpoints.c.id).where(endpoints.c.id.in_(bindparam("keys", expanding=True)), REDELIVERING_NOW)

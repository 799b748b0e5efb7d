"""T3: claims due cursors and redeliveries. The statements are `_OWED` and `_REQUESTED`, which find and lock them.

A cursor is an endpoint's position in a room's log; its next event is the first after `acked` that the endpoint wants.
Endpoints take turns: the one whose work has been due longest comes first. Its row is locked while its work is claimed,
so that its limits are exact over any number of senders. A claim sets a token that names the process
(`bridge.db.liveness`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    update,
)

from bridge.db.arrays import one_of
from bridge.db.cursors import BUSY_CURSORS, EVENTS_AT_ONCE, REDELIVERING, TakenCursor
from bridge.db.engine import latest
from bridge.db.event_log import is_in_audience
from bridge.db.tables import anchors, cursors, endpoints, events, redeliveries, rooms
from bridge.delivery.limits import (
    CURSORS_AT_ONCE,
    RATE_ALLOWS,
    busy_cursors,
    live_allowance,
    redelivery_allowance,
    spend_rate,
)
from bridge.delivery.targets import Target, TargetCache
from bridge.events.subscription import Subscription, subscription
from bridge.rules.chain import GENESIS
from bridge.rules.rate import UNLIMITED
from bridge.workers import Claimed

REDELIVERY_BATCH = 20
EXTRA_ENDPOINTS = 100
"""Endpoints that are considered beyond the number of slots, because some may be at a limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainProof:
    """The event's hash, and what its receiver needs to check it: the hash before it, and the salt."""

    hash: bytes
    previous: bytes
    salt: bytes

    @property
    def headers(self) -> dict[str, str]:
        return {"bridge-chain": self.hash.hex(), "bridge-chain-proof": f"{self.previous.hex()}.{self.salt.hex()}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedEvent:
    """An event to deliver; `acks_to` is the cursor's `acked` after it."""

    key: int
    public_id: str
    sequence: int
    type: str
    body: bytes = field(repr=False)
    acks_to: int
    chain: ChainProof | None = None
    """None for a test, which is in no log."""
    recorded_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedCursor:
    """A claimed cursor. Without events: the endpoint wants nothing up to `reach`.

    `is_retry`: its first event has been attempted before.
    """

    key: int
    target: Target
    room_id: str | None
    token: str
    acked: int
    reach: int
    events: tuple[OwedEvent, ...]
    is_retry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRedelivery:
    """One event that an operator asked to send again."""

    key: int
    event: OwedEvent
    room_id: str | None
    tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRedeliveries:
    """Claimed redeliveries of one endpoint, in the order of the log."""

    target: Target
    token: str
    redeliveries: tuple[ClaimedRedelivery, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Terms of a claim: how much, when, and with which token."""

    slots: int
    now: datetime
    token: str
    targets: TargetCache


def claim_cursors(
    connection: Connection,
    claim: Claim,
    *,
    per_endpoint: int = UNLIMITED,
    under_way: Mapping[int, int] = MappingProxyType({}),
) -> Claimed[ClaimedCursor]:
    """Claim up to `claim.slots` cursors that owe something.

    Args:
        connection: of a writing transaction.
        claim: terms.
        per_endpoint: slots that one endpoint may take.
        under_way: slots that each endpoint has taken already, by key.
    """
    due = _lock_due_endpoints(connection, _READY, _LOCK_READY, claim)
    if not due:
        return Claimed([], may_have_more=False)
    busy = busy_cursors(connection, [endpoint.id for endpoint in due])
    allowed = []
    for endpoint in due:
        own_slots = per_endpoint - under_way.get(endpoint.id, 0)
        allowance = min(live_allowance(endpoint, busy[endpoint.id], claim.now), own_slots)
        if allowance > 0:
            allowed.append((endpoint, allowance))
    targets = claim.targets.load(connection, [endpoint for endpoint, _ in allowed[: claim.slots]], claim.now)
    taken: list[tuple[Row[Any], Row[Any]]] = []
    may_have_more = len(allowed) < len(due)
    for endpoint, allowance in allowed:
        limit = min(allowance, claim.slots - len(taken))
        if endpoint.id in targets and limit > 0:
            rows = _take(connection, _OWED, _CLAIM_CURSORS, endpoint, limit, claim)
            taken += [(endpoint, row) for row in rows]
            may_have_more |= len(rows) == limit
    return Claimed(_with_events(connection, taken, targets, claim), may_have_more)


def claim_redeliveries(connection: Connection, claim: Claim) -> Claimed[ClaimedRedeliveries]:
    """Claim redeliveries that are due, at most 20 of an endpoint, for up to `claim.slots` endpoints."""
    due = _lock_due_endpoints(connection, _READY_TO_REDELIVER, _LOCK_READY_TO_REDELIVER, claim)
    if not due:
        return Claimed([], may_have_more=False)
    keys = [endpoint.id for endpoint in due]
    # Checked again now that the endpoints are locked: another sender may have begun while we waited for them.
    started = set(connection.execute(_WITH_REDELIVERIES, {"keys": keys}).scalars())
    busy = busy_cursors(connection, keys)
    targets = claim.targets.load(connection, due, claim.now)
    claimed: list[ClaimedRedeliveries] = []
    for endpoint in due:
        if endpoint.id in started or endpoint.id not in targets or len(claimed) >= claim.slots:
            continue
        allowance = redelivery_allowance(connection, endpoint, busy[endpoint.id], claim.now)
        limit = min(REDELIVERY_BATCH, allowance)
        rows = _take(connection, _REQUESTED, _CLAIM_REDELIVERIES, endpoint, limit, claim)
        if rows:
            members = tuple(_redelivery(row) for row in rows)
            claimed.append(ClaimedRedeliveries(target=targets[endpoint.id], token=claim.token, redeliveries=members))
    return Claimed(claimed, may_have_more=True)


def claimed_at_once(taken: TakenCursor, target: Target) -> ClaimedCursor:
    """The claimed cursor of one that was claimed when it was raised."""
    events = list(taken.events.items())[:EVENTS_AT_ONCE]
    following = list(taken.events.values())[1 : EVENTS_AT_ONCE + 1]
    acks_to = [event.sequence - 1 for event in following] + [taken.head] * (len(events) - len(following))
    return ClaimedCursor(
        key=taken.key,
        target=target,
        room_id=taken.room_id,
        token=taken.token,
        acked=taken.acked,
        reach=acks_to[-1],
        events=tuple(
            OwedEvent(
                key=key, public_id=event.public_id, sequence=event.sequence, type=event.type, body=event.body,
                acks_to=last,
                chain=ChainProof(hash=event.hash, previous=event.previous_hash, salt=event.salt),
                recorded_at=event.recorded_at,
            )
            for (key, event), last in zip(events, acks_to, strict=True)
        ),
    )  # fmt: skip


def release_cursors(connection: Connection, claimed: Sequence[ClaimedCursor]) -> None:
    """Give back claimed cursors: they are due as before."""
    if claimed:
        connection.execute(_RELEASE, [{"key": one.key, "token": one.token} for one in claimed])


def _lock_due_endpoints(connection: Connection, ready: Select[Any], lock: Select[Any], claim: Claim) -> list[Row[Any]]:
    """Lock endpoints with due work that may be called, by key; returns them longest due first."""
    found = connection.execute(ready, {"now": claim.now, "limit": claim.slots + EXTRA_ENDPOINTS})
    turns = {row.id: turn for turn, row in enumerate(found)}
    if not turns:
        return []
    locked = connection.execute(lock, {"keys": list(turns), "now": claim.now}).all()
    return sorted(locked, key=lambda row: turns[row.id])


def _take(
    connection: Connection,
    select_due: Select[Any],
    claim_rows: Any,  # noqa: ANN401 - an UPDATE
    endpoint: Row[Any],
    limit: int,
    claim: Claim,
) -> Sequence[Row[Any]]:
    """Claim due rows of one endpoint, cursors or redeliveries, and spend its rate."""
    if limit <= 0:
        return ()
    rows = connection.execute(select_due, {"endpoint": endpoint.id, "now": claim.now, "limit": limit}).all()
    if rows:
        connection.execute(claim_rows, {"keys": [row.id for row in rows], "token": claim.token})
        spend_rate(connection, endpoint, len(rows), claim.now)
    return rows


def _with_events(
    connection: Connection, taken: Sequence[tuple[Row[Any], Row[Any]]], targets: Mapping[int, Target], claim: Claim
) -> list[ClaimedCursor]:
    """Read the next events of claimed cursors."""
    if not taken:
        return []
    within_window: dict[int, list[Any]] = defaultdict(list)
    for row in connection.execute(_WITHIN_WINDOW, {"keys": [cursor.id for _, cursor in taken]}):
        within_window[row.cursor_key].append(row)
    claimed = []
    for endpoint, cursor in taken:
        target = targets[endpoint.id]
        owed, reach = _next_events(connection, endpoint, cursor, within_window[cursor.id])
        claimed.append(
            ClaimedCursor(
                key=cursor.id,
                target=target,
                room_id=cursor.upstream_id,
                token=claim.token,
                acked=cursor.acked,
                reach=reach,
                events=owed,
                is_retry=cursor.last_failed_at is not None,
            )
        )
    return claimed


def _next_events(
    connection: Connection, endpoint: Row[Any], cursor: Row[Any], found: Sequence[Row[Any]]
) -> tuple[tuple[OwedEvent, ...], int]:
    """The events to deliver now, and what is acknowledged after them."""
    wanting = subscription(endpoint.id, endpoint.events, endpoint.rooms)
    wanted = [
        row for row in found if row.body is not None and wanting.wants(row.type, cursor.upstream_id, row.audience)
    ]
    reach = min(cursor.head, cursor.acked + EVENTS_AT_ONCE)
    if not wanted and reach < cursor.head:
        following = _first_wanted(connection, wanting, cursor)
        reach = cursor.head if following is None else following - 1
    owed = _owed(wanted, reach)
    # One at a time where the rate counts attempts, and where the next one depends on how this one ends.
    if owed and (endpoint.rate_per_second > 0 or endpoint.failures_in_row > 0 or cursor.last_failed_at is not None):
        owed, reach = owed[:1], owed[0].acks_to
    return owed, reach


def _first_wanted(connection: Connection, wanting: Subscription, cursor: Row[Any]) -> int | None:
    """Sequence of the first wanted event beyond the window."""
    position = {"room": cursor.room_key, "beyond": cursor.acked + EVENTS_AT_ONCE, "head": cursor.head}
    types = wanting.event_types if wanting.wants_room(cursor.upstream_id) else ()
    found: int | None = connection.execute(
        _BEYOND_WINDOW, {**position, "types": types, "endpoint": wanting.endpoint_key}
    ).scalar()
    return found


def _owed(wanted: Sequence[Row[Any]], reach: int) -> tuple[OwedEvent, ...]:
    acks_to = [row.sequence - 1 for row in wanted[1:]] + [reach]
    return tuple(_owed_event(row, last) for row, last in zip(wanted, acks_to, strict=False))


def _owed_event(row: Row[Any], acks_to: int) -> OwedEvent:
    return OwedEvent(
        key=row.event_key,
        public_id=row.public_id,
        sequence=row.sequence,
        type=row.type,
        body=bytes(row.body),
        acks_to=acks_to,
        chain=ChainProof(hash=bytes(row.hash), previous=bytes(row.previous or GENESIS), salt=bytes(row.salt)),
        recorded_at=row.recorded_at,
    )


def _redelivery(row: Row[Any]) -> ClaimedRedelivery:
    return ClaimedRedelivery(key=row.id, event=_owed_event(row, row.sequence), room_id=row.upstream_id, tries=row.tries)


def _ready(due_since: Any, *conditions: ColumnElement[bool]) -> Select[Any]:  # noqa: ANN401 - a scalar subquery
    """Endpoints with due work that satisfy the conditions."""
    return select(endpoints.c.id, due_since.label("due_since")).where(RATE_ALLOWS, due_since.is_not(None), *conditions)


def _in_turn(ready: Select[Any]) -> Select[Any]:
    """The endpoints whose work has been due longest."""
    return ready.order_by("due_since", endpoints.c.id).limit(bindparam("limit"))


def _lock(condition: ColumnElement[bool]) -> Select[Any]:
    return (
        select(endpoints)
        .where(one_of(endpoints.c.id, "keys"), condition)
        .order_by(endpoints.c.id)
        .with_for_update(key_share=True)
    )


def _next_at(
    name: str, times: Sequence[ColumnElement[Any]], *conditions: ColumnElement[bool]
) -> ColumnElement[datetime | None]:
    """The earliest time at which an endpoint that satisfies the conditions may be called.

    For each that is the latest of `times`, the first of which is null if nothing is owed, and of what its rate allows.
    """
    rate_allows_at = case((endpoints.c.rate_per_second > 0, endpoints.c.next_delivery_at))
    labelled = [time.label(f"at_{number}") for number, time in enumerate((*times, rate_allows_at))]
    found = select(*labelled).where(times[0].is_not(None), *conditions).cte(name).prefix_with("MATERIALIZED")
    owed_at, *others = found.c
    return func.min(latest(owed_at, *others))


def _claim_rows(table: Any) -> Any:  # noqa: ANN401 - a Table, an UPDATE
    return update(table).where(one_of(table.c.id, "keys")).values(claim_token=bindparam("token"))


_BEFORE = events.alias("before")
_HASH_BEFORE = (
    select(_BEFORE.c.hash)
    .where(_BEFORE.c.room_key == events.c.room_key, _BEFORE.c.sequence == events.c.sequence - 1)
    .correlate(events)
    .scalar_subquery()
)
_ANCHOR = (
    select(anchors.c.hash)
    .where(anchors.c.room_key == events.c.room_key, anchors.c.sequence == events.c.sequence - 1)
    .correlate(events)
    .scalar_subquery()
)
_EVENT = (
    *(events.c.id.label("event_key"), events.c.public_id, events.c.sequence, events.c.type, events.c.recorded_at),
    *(events.c.body, events.c.salt, events.c.hash, func.coalesce(_HASH_BEFORE, _ANCHOR).label("previous")),
)
"""An erased event has no body."""

# Cursors

_IS_OWED = and_(cursors.c.acked < cursors.c.head, cursors.c.claim_token.is_(None))
_IS_DUE = and_(_IS_OWED, cursors.c.next_attempt_at <= bindparam("now"))
_IS_NOT_PAUSED = or_(endpoints.c.paused_until.is_(None), endpoints.c.paused_until <= bindparam("now"))
_MAY_BE_CALLED = and_(endpoints.c.state == "active", _IS_NOT_PAUSED)
_DUE_SINCE = (
    select(func.min(cursors.c.next_attempt_at))
    .where(cursors.c.endpoint_key == endpoints.c.id, _IS_DUE)
    .scalar_subquery()
)
_WITH_DUE = _ready(_DUE_SINCE, _MAY_BE_CALLED, CURSORS_AT_ONCE > BUSY_CURSORS)
_NEXT_OWED = (
    select(func.min(cursors.c.next_attempt_at))
    .where(cursors.c.endpoint_key == endpoints.c.id, _IS_OWED, cursors.c.next_attempt_at <= bindparam("until"))
    .scalar_subquery()
)
NEXT_DELIVERY = _next_at(
    "next_deliveries",
    (_NEXT_OWED, endpoints.c.paused_until),
    endpoints.c.state == "active",
    CURSORS_AT_ONCE > BUSY_CURSORS,
)
"""When the next cursor can be claimed, of an endpoint with a free slot; null if nothing waits."""
_READY = _in_turn(_WITH_DUE)
_LOCK_READY = _lock(_MAY_BE_CALLED)
_OWED = (
    select(
        cursors.c.id, cursors.c.room_key, cursors.c.acked, cursors.c.head, cursors.c.last_failed_at, rooms.c.upstream_id
    )
    .join(rooms, rooms.c.id == cursors.c.room_key)
    .where(cursors.c.endpoint_key == bindparam("endpoint"), _IS_DUE)
    .order_by(cursors.c.next_attempt_at, cursors.c.room_key)
    .limit(bindparam("limit"))
    .with_for_update(of=cursors, skip_locked=True)
)
_CLAIM_CURSORS = _claim_rows(cursors)
_RELEASE = (
    update(cursors)
    .where(cursors.c.id == bindparam("key"), cursors.c.claim_token == bindparam("token"))
    .values(claim_token=None)
)
_WITHIN_WINDOW = (
    select(cursors.c.id.label("cursor_key"), events.c.audience, *_EVENT)
    .join(
        events,
        and_(
            events.c.room_key == cursors.c.room_key,
            events.c.sequence > cursors.c.acked,
            events.c.sequence <= cursors.c.acked + EVENTS_AT_ONCE,
            events.c.sequence <= cursors.c.head,
        ),
    )
    .where(one_of(cursors.c.id, "keys"))
    .order_by(cursors.c.id, events.c.sequence)
)
_BEYOND_WINDOW = (
    select(events.c.sequence)
    .where(
        events.c.room_key == bindparam("room"),
        events.c.sequence > bindparam("beyond"),
        events.c.sequence <= bindparam("head"),
        one_of(events.c.type, "types"),
        events.c.body.is_not(None),
        is_in_audience(events.c.audience, bindparam("endpoint")),
    )
    .order_by(events.c.sequence)
    .limit(1)
)
# Redeliveries: a disabled endpoint gets them too, so that it can be tried before it is enabled.

_IS_OPEN = and_(redeliveries.c.state == literal_column("'owed'"), redeliveries.c.claim_token.is_(None))
_IS_REQUESTED = and_(_IS_OPEN, redeliveries.c.next_attempt_at <= bindparam("now"))
_MAY_BE_REDELIVERED_TO = and_(
    or_(
        endpoints.c.state != "active", endpoints.c.paused_until.is_(None), endpoints.c.paused_until <= bindparam("now")
    ),
    or_(endpoints.c.redeliveries_paused_until.is_(None), endpoints.c.redeliveries_paused_until <= bindparam("now")),
)
_REQUESTED_SINCE = (
    select(func.min(redeliveries.c.next_attempt_at))
    .where(redeliveries.c.endpoint_key == endpoints.c.id, _IS_REQUESTED)
    .scalar_subquery()
)
_WITH_REQUESTED = _ready(_REQUESTED_SINCE, _MAY_BE_REDELIVERED_TO, ~REDELIVERING)
_NEXT_REQUESTED = (
    select(func.min(redeliveries.c.next_attempt_at))
    .where(
        redeliveries.c.endpoint_key == endpoints.c.id, _IS_OPEN, redeliveries.c.next_attempt_at <= bindparam("until")
    )
    .scalar_subquery()
)
_PAUSED_IF_ACTIVE = case((endpoints.c.state == "active", endpoints.c.paused_until))
NEXT_REDELIVERY = _next_at(
    "next_redeliveries", (_NEXT_REQUESTED, endpoints.c.redeliveries_paused_until, _PAUSED_IF_ACTIVE), ~REDELIVERING
)
"""When the next redelivery can be claimed, of an endpoint that no sender is working on; null if none waits."""
_READY_TO_REDELIVER = _in_turn(_WITH_REQUESTED)
_LOCK_READY_TO_REDELIVER = _lock(_MAY_BE_REDELIVERED_TO)
_WITH_REDELIVERIES = select(endpoints.c.id).where(one_of(endpoints.c.id, "keys"), REDELIVERING)
_REQUESTED = (
    select(redeliveries.c.id, redeliveries.c.tries, *_EVENT, rooms.c.upstream_id)
    .join(events, events.c.id == redeliveries.c.event_key)
    .join(rooms, rooms.c.id == events.c.room_key)
    .where(redeliveries.c.endpoint_key == bindparam("endpoint"), _IS_REQUESTED, events.c.body.is_not(None))
    .order_by(redeliveries.c.event_key)
    .limit(bindparam("limit"))
    .with_for_update(of=redeliveries, skip_locked=True)
)
_CLAIM_REDELIVERIES = _claim_rows(redeliveries)

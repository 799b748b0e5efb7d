"""Deliveries on the database's side: T3 claims cursors that owe something, T4 records attempts and moves them.

Order comes from the shape: a cursor is one room's line at one endpoint, and its next event is the first after `acked`
that the endpoint wants. What happens after an outcome is `bridge.webhooks.delivery`'s to say; here it is written, in
one transaction for many attempts, and only for claims that are still ours.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import structlog
from sqlalchemy import (
    ColumnElement,
    Connection,
    Exists,
    Row,
    and_,
    case,
    exists,
    func,
    or_,
    select,
    update,
)

from bridge.errors import BridgeError
from bridge.events.types import EventType, matches
from bridge.store.endpoints import find_endpoint, secrets_of
from bridge.store.places import at_places
from bridge.store.tables import cursors, endpoints, events, redeliveries, rooms
from bridge.store.vault import Vault

WINDOW = 20
"""How far ahead of `acked` one claim looks: enough to keep a line moving, little enough to hold in memory."""
LOCKED_PAUSE = timedelta(minutes=1)
SPARE_TURNS = 100
"""How many endpoints more than there are seats are looked at: some may turn out to be at their rate."""
UNLIMITED = 1_000_000
ROUNDING = 1e-6
"""So that a rate of exactly one attempt is not lost to a float just below it."""
RATE_BURST = timedelta(milliseconds=250)
"""How much unused rate an endpoint may save up: enough to use all of it between two ticks."""
LEASE_MARGIN = timedelta(seconds=10)
"""How much longer than its time-out an attempt may take to be recorded, before somebody else tries."""


log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.store")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An endpoint as the sender needs it; `secrets` are in signing order, the current one first."""

    key: int
    name: str
    url: str
    style: str
    signature: str
    timeout: timedelta | None
    rotated_at: datetime | None = None
    """When its secret last changed: whoever signs with these must stop when that is no longer true."""
    headers: dict[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedEvent:
    """An event to be delivered; `passes_to` is what the cursor has acknowledged once this one is done with."""

    key: int
    public_id: str
    sequence: int
    type: str
    body: bytes = field(repr=False)
    passes_to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedCursor:
    """One room's line at one endpoint, ours until the lease ends. No events: nothing in reach concerns the endpoint."""

    target: Target
    room_key: int
    room_id: str | None
    token: str
    acked: int
    reach: int
    """What is acknowledged once all of `events` are done with."""
    lease_until: datetime
    events: tuple[OwedEvent, ...]
    behind: OwedEvent | None = None
    """What follows `events`, if it is known; only sent if the last of them gives way to it."""

    def next_after(self, event: OwedEvent) -> OwedEvent | None:
        """The event behind one of `events`."""
        following = (*self.events, self.behind)
        return following[following.index(event) + 1]


def claim_cursors(
    connection: Connection,
    *,
    seats: int,
    share: int = UNLIMITED,
    working_on: Mapping[int, int] = MappingProxyType({}),
    now: datetime,
    timeout: timedelta,
    token: str,
    vault: Vault,
) -> list[ClaimedCursor]:
    """Claim up to `seats` cursors that owe something, fairly: the endpoint that waits longest first.

    Each endpoint's row is held meanwhile, so `max_concurrency` and `rate_per_second` are exact over any number of
    senders. An endpoint whose circuit is open gets one probe at a time, in the room whose turn is next.

    Args:
        connection: Of a writing transaction.
        seats: How many the caller can work on.
        share: How many of one endpoint the caller works on at most.
        working_on: How many of each endpoint's the caller has already, by its key.
        now: When this is.
        timeout: Of an attempt, at endpoints that have none of their own; the lease outlasts it.
        token: Proof of this claim.
        vault: Opens the secrets.
    """
    claimed: list[tuple[Row[Any], Row[Any, Any, Any, Any], datetime]] = []
    targets: dict[int, Target] = {}
    for endpoint in _due_endpoints(connection, now, seats):
        own_share = share - working_on.get(endpoint.id, 0)
        allowance = min(_allowance(connection, endpoint, now), own_share, seats - len(claimed))
        if allowance <= 0 or (target := _open_target(connection, endpoint, now, vault)) is None:
            continue
        targets[endpoint.id] = target
        lease_until = now + (target.timeout or timeout) + LEASE_MARGIN
        taken = _take(connection, endpoint, allowance, now, lease_until, token)
        claimed += [(endpoint, cursor, lease_until) for cursor in taken]
    return _assemble(connection, claimed, targets, token) if claimed else []


def release_cursors(connection: Connection, claimed: Sequence[ClaimedCursor], now: datetime) -> None:
    """Give lines back that will not be worked off after all: they are due now, for whoever comes next."""
    for cursor in claimed:
        ours = (
            cursors.c.endpoint_key == cursor.target.key,
            cursors.c.room_key == cursor.room_key,
            cursors.c.claim_token == cursor.token,
        )
        connection.execute(update(cursors).where(*ours).values(claim_token=None, next_attempt_at=now))


def target_of(connection: Connection, name: str, *, now: datetime, vault: Vault) -> Target:
    """The endpoint of that name or public id, whatever its state.

    Raises:
        NotFoundError: there is none.
    """
    row = find_endpoint(connection, name)
    return _target(row, tuple(secrets_of(connection, [row.id], now, vault)[row.id]), vault)


def targets_of(
    connection: Connection, endpoint_rows: Sequence[Row[Any]], now: datetime, vault: Vault
) -> dict[int, Target]:
    """What the sender needs to know of endpoints, by their keys; without those that are locked."""
    opened = ((row.id, _open_target(connection, row, now, vault)) for row in endpoint_rows)
    return {key: target for key, target in opened if target is not None}


def _open_target(connection: Connection, endpoint: Row[Any], now: datetime, vault: Vault) -> Target | None:
    """An endpoint with its secrets; if they cannot be opened, that is told, and looked at again in a minute."""
    try:
        return _target(endpoint, tuple(secrets_of(connection, [endpoint.id], now, vault)[endpoint.id]), vault)
    except (BridgeError, ValueError, LookupError) as error:
        log.error("endpoint.locked", endpoint=endpoint.name, detail=str(error))  # noqa: TRY400 - the message is all
        held = update(endpoints).where(endpoints.c.id == endpoint.id).values(held_until=now + LOCKED_PAUSE)
        connection.execute(held)
        return None


def _due_endpoints(connection: Connection, now: datetime, seats: int) -> list[Row[Any]]:
    waiting = (
        select(func.min(cursors.c.next_attempt_at))
        .where(
            cursors.c.endpoint_key == endpoints.c.id,
            cursors.c.acked < cursors.c.head,
            cursors.c.next_attempt_at <= now,
        )
        .scalar_subquery()
    )
    may_be_called = and_(
        endpoints.c.state == "active", or_(endpoints.c.held_until.is_(None), endpoints.c.held_until <= now)
    )
    ready = (
        select(endpoints.c.id, waiting.label("waiting_since"))
        .where(may_be_called, waiting.is_not(None), _busy(now) < endpoints.c.max_concurrency)
        .order_by("waiting_since", endpoints.c.id)
        .limit(seats + SPARE_TURNS)
    )
    turns = {row.id: place for place, row in enumerate(connection.execute(ready))}
    if not turns:
        return []
    held = connection.execute(
        select(endpoints)
        .where(endpoints.c.id.in_(turns), may_be_called)
        .order_by(endpoints.c.id)
        .with_for_update(key_share=True)
    ).all()
    return sorted(held, key=lambda row: turns[row.id])


def _busy(now: datetime) -> ColumnElement[int]:
    """How many lines of the endpoint at hand somebody is working on; its line of redeliveries is one of them."""
    lines = (
        select(func.count())
        .select_from(cursors)
        .where(
            cursors.c.endpoint_key == endpoints.c.id,
            cursors.c.claim_token.is_not(None),
            cursors.c.next_attempt_at > now,
        )
        .correlate(endpoints)
        .scalar_subquery()
    )
    return lines + case((replays_now(now), 1), else_=0)


def replays_now(now: datetime) -> Exists:
    """Whether somebody is working off redeliveries of the endpoint at hand."""
    return exists().where(
        redeliveries.c.endpoint_key == endpoints.c.id,
        redeliveries.c.state == "owed",
        redeliveries.c.claim_token.is_not(None),
        redeliveries.c.next_attempt_at > now,
    )


def _allowance(connection: Connection, endpoint: Row[Any], now: datetime) -> int:
    """How many cursors of this endpoint may be worked on beside those that already are."""
    busy = _busy_lines(connection, endpoint, now)
    if endpoint.circuit != "closed":
        return 0 if busy else 1
    free: int = endpoint.max_concurrency - busy
    return min(free, rate_allowance(endpoint, now))


def replay_allowance(connection: Connection, endpoint: Row[Any], now: datetime) -> int:
    """How many redeliveries may be taken at once: none while live events need the last place."""
    if endpoint.state == "active":
        free: int = endpoint.max_concurrency - _busy_lines(connection, endpoint, now)
        if free <= 0 or (free == 1 and endpoint.circuit == "closed" and _owes_live(connection, endpoint, now)):
            return 0
    return min(1 if endpoint.max_concurrency == 1 else UNLIMITED, max(0, rate_allowance(endpoint, now)))


def _busy_lines(connection: Connection, endpoint: Row[Any], now: datetime) -> int:
    return connection.execute(select(_busy(now)).where(endpoints.c.id == endpoint.id)).scalar_one()


def _owes_live(connection: Connection, endpoint: Row[Any], now: datetime) -> bool:
    owed = (cursors.c.endpoint_key == endpoint.id, cursors.c.acked < cursors.c.head, cursors.c.next_attempt_at <= now)
    return connection.execute(select(cursors.c.room_key).where(*owed).limit(1)).one_or_none() is not None


def rate_allowance(endpoint: Row[Any], now: datetime) -> int:
    """How many attempts the endpoint's `rate_per_second` leaves for now."""
    if endpoint.rate_per_second <= 0:
        return UNLIMITED
    spacing = timedelta(seconds=1 / endpoint.rate_per_second)
    return int((now - _saving_since(endpoint, spacing, now)) / spacing + ROUNDING)


def spend_rate(connection: Connection, endpoint: Row[Any], count: int, now: datetime) -> None:
    """Use up some of the endpoint's rate, if it has one."""
    if endpoint.rate_per_second > 0:
        spacing = timedelta(seconds=1 / endpoint.rate_per_second)
        spent = _saving_since(endpoint, spacing, now) + count * spacing
        connection.execute(update(endpoints).where(endpoints.c.id == endpoint.id).values(rate_at=spent))


def _saving_since(endpoint: Row[Any], spacing: timedelta, now: datetime) -> datetime:
    """The moment up to which the rate is used up; what was saved up longer ago than a burst has lapsed."""
    earliest = now - max(RATE_BURST, spacing)
    return earliest if endpoint.rate_at is None else max(endpoint.rate_at, earliest)


def _take(
    connection: Connection, endpoint: Row[Any], allowance: int, now: datetime, lease_until: datetime, token: str
) -> Sequence[Row[Any, Any, Any, Any]]:
    owed = and_(
        cursors.c.endpoint_key == endpoint.id, cursors.c.acked < cursors.c.head, cursors.c.next_attempt_at <= now
    )
    taken = connection.execute(
        select(cursors.c.room_key, cursors.c.acked, cursors.c.head, rooms.c.upstream_id)
        .join(rooms, rooms.c.id == cursors.c.room_key)
        .where(owed)
        .order_by(cursors.c.next_attempt_at, cursors.c.room_key)
        .limit(allowance)
        .with_for_update(of=cursors, skip_locked=True)
    ).all()
    if taken:
        keys = [row.room_key for row in taken]
        connection.execute(
            update(cursors)
            .where(cursors.c.endpoint_key == endpoint.id, cursors.c.room_key.in_(keys))
            .values(next_attempt_at=lease_until, claim_token=token)
        )
        spend_rate(connection, endpoint, len(taken), now)
    return taken


def _next_wanted(connection: Connection, endpoint: Row[Any], cursor: Row[Any, Any, Any, Any]) -> int:
    """How far a cursor may be moved over events that do not concern its endpoint: it looks no further than 20 ahead."""
    types = [wanted.value for wanted in EventType if matches(wanted, endpoint.events)]
    is_room_wanted = cursor.upstream_id is None or matches(cursor.upstream_id, endpoint.rooms)
    beyond = select(func.min(events.c.sequence)).where(
        events.c.room_key == cursor.room_key,
        events.c.sequence > cursor.acked + WINDOW,
        events.c.sequence <= cursor.head,
        events.c.type.in_(types if is_room_wanted else []),
    )
    first = connection.execute(beyond).scalar_one()
    head: int = cursor.head
    return head if first is None else first - 1


def _assemble(
    connection: Connection,
    claimed: Sequence[tuple[Row[Any], Row[Any, Any, Any, Any], datetime]],
    targets: dict[int, Target],
    token: str,
) -> list[ClaimedCursor]:
    """Give every claimed cursor its endpoint and the events within reach."""
    within_reach = _events_within_reach(connection, [(endpoint.id, cursor.room_key) for endpoint, cursor, _ in claimed])
    assembled = []
    for endpoint, cursor, lease_until in claimed:
        reach = min(cursor.head, cursor.acked + WINDOW)
        wanted = [
            row
            for row in within_reach[endpoint.id, cursor.room_key]
            if row.spared_endpoint != endpoint.id
            and matches(row.type, endpoint.events)
            and (cursor.upstream_id is None or matches(cursor.upstream_id, endpoint.rooms))
        ]
        if not wanted and reach < cursor.head:
            reach = _next_wanted(connection, endpoint, cursor)
        owed, behind = _owed(wanted, reach), None
        if len(owed) > 1 and (endpoint.rate_per_second > 0 or endpoint.circuit != "closed"):
            owed, behind, reach = owed[:1], owed[1], owed[0].passes_to
        assembled.append(
            ClaimedCursor(
                target=targets[endpoint.id],
                room_key=cursor.room_key,
                room_id=cursor.upstream_id,
                token=token,
                acked=cursor.acked,
                reach=reach,
                lease_until=lease_until,
                events=owed,
                behind=behind,
            )
        )
    return assembled


def _events_within_reach(
    connection: Connection, places: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], list[Row[Any]]]:
    """One query for all claims: what follows `acked` in each line, up to the window."""
    rows = connection.execute(
        select(cursors.c.endpoint_key, events.c.id, events.c.room_key, events.c.public_id, events.c.sequence)
        .add_columns(events.c.type, events.c.body, events.c.spared_endpoint)
        .join(
            events,
            and_(
                events.c.room_key == cursors.c.room_key,
                events.c.sequence > cursors.c.acked,
                events.c.sequence <= cursors.c.acked + WINDOW,
                events.c.sequence <= cursors.c.head,
            ),
        )
        .where(at_places(connection, places))
        .order_by(cursors.c.endpoint_key, events.c.room_key, events.c.sequence)
    )
    within: dict[tuple[int, int], list[Row[Any]]] = defaultdict(list)
    for row in rows:
        within[row.endpoint_key, row.room_key].append(row)
    return within


def _owed(wanted: Sequence[Row[Any]], reach: int) -> tuple[OwedEvent, ...]:
    passes_to = [row.sequence - 1 for row in wanted[1:]] + [reach]
    return tuple(
        OwedEvent(
            key=row.id,
            public_id=row.public_id,
            sequence=row.sequence,
            type=row.type,
            body=bytes(row.body),
            passes_to=last,
        )
        for row, last in zip(wanted, passes_to, strict=False)
    )


def _target(endpoint: Row[Any], secrets: tuple[str, ...], vault: Vault) -> Target:
    return Target(
        key=endpoint.id,
        name=endpoint.name,
        url=endpoint.url,
        style=endpoint.style,
        signature=endpoint.signature,
        timeout=None if endpoint.timeout_seconds is None else timedelta(seconds=endpoint.timeout_seconds),
        rotated_at=endpoint.rotated_at,
        headers=json.loads(vault.open(endpoint.headers)),
        secrets=secrets,
    )

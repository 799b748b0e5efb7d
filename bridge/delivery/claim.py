"""Deliveries on the database's side: T3 claims cursors that owe something, T4 records attempts and moves them.

Order comes from the shape: a cursor is one room's line at one endpoint, and its next event is the first after `acked`
that the endpoint wants. What happens after an result is `bridge.rules.delivery`'s to say; here it is written, in
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
from sqlalchemy import Connection, Row, and_, bindparam, func, or_, select, update

from bridge.db.encryption import SecretCipher
from bridge.db.places import ByPlaces
from bridge.db.tables import cursors, endpoints, events, rooms
from bridge.delivery.endpoints import decrypt_secrets, encrypted_secrets, find_endpoint
from bridge.delivery.limits import (
    BUSY_CURSORS,
    CURSORS_AT_ONCE,
    RATE_IS_FREE,
    UNLIMITED,
    busy_cursors,
    live_allowance,
    spend_rate,
)
from bridge.errors import BridgeError
from bridge.events.types import EventType, matches

WINDOW = 20
"""How far ahead of `acked` one claim looks: enough to keep a line moving, little enough to hold in memory."""
LOCKED_PAUSE = timedelta(minutes=1)
SPARE_ENDPOINTS = 100
"""How many endpoints more than there are slots are looked at: some may turn out to be at their rate."""
LEASE_MARGIN = timedelta(seconds=10)
"""How much longer than its time-out an attempt may take to be recorded, before somebody else tries."""


log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.db")


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
    """One of those that follow `events`, if any is known; only sent if the last of them gives way to it."""

    def next_after(self, event: OwedEvent) -> OwedEvent | None:
        """An event behind one of `events`."""
        following = (*self.events, self.behind)
        return following[following.index(event) + 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    endpoint: Row[Any]
    cursor: Row[Any]
    lease_until: datetime


def claim_cursors(
    connection: Connection,
    *,
    slots: int,
    share: int = UNLIMITED,
    working_on: Mapping[int, int] = MappingProxyType({}),
    now: datetime,
    timeout: timedelta,
    token: str,
    cipher: SecretCipher,
) -> list[ClaimedCursor]:
    """Claim up to `slots` cursors that owe something, fairly: the endpoint that waits longest first.

    Each endpoint's row is held meanwhile, so `max_concurrency` and `rate_per_second` are exact over any assign_sequences of
    senders. An endpoint whose circuit is open gets one probe at a time, in the room whose turn is next.

    Args:
        connection: Of a writing transaction.
        slots: How many the caller can work on.
        share: How many of one endpoint the caller works on at most.
        working_on: How many of each endpoint's the caller has already, by its key.
        now: When this is.
        timeout: Of an attempt, at endpoints that have none of their own; the lease outlasts it.
        token: Proof of this claim.
        cipher: Opens the secrets.
    """
    due = _due_endpoints(connection, now, slots)
    if not due:
        return []
    busy = busy_cursors(connection, [endpoint.id for endpoint in due], now)
    allowed = []
    for endpoint in due:
        own_share = share - working_on.get(endpoint.id, 0)
        allowance = min(live_allowance(endpoint, busy[endpoint.id], now), own_share)
        if allowance > 0:
            allowed.append((endpoint, allowance))
    targets = targets_of(connection, [endpoint for endpoint, _ in allowed[:slots]], now, cipher)
    claimed: list[_Taken] = []
    for endpoint, allowance in allowed:
        if (target := targets.get(endpoint.id)) is None or len(claimed) >= slots:
            continue
        lease_until = now + (target.timeout or timeout) + LEASE_MARGIN
        taken = _take(connection, endpoint, min(allowance, slots - len(claimed)), now, lease_until, token)
        claimed += [_Taken(endpoint=endpoint, cursor=cursor, lease_until=lease_until) for cursor in taken]
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


def target_of(connection: Connection, name: str, *, now: datetime, cipher: SecretCipher) -> Target:
    """The endpoint of that name or public id, whatever its state.

    Raises:
        NotFoundError: there is none.
    """
    row = find_endpoint(connection, name)
    return _target(row, decrypt_secrets(encrypted_secrets(connection, [row.id], now)[row.id], cipher), cipher)


def targets_of(
    connection: Connection, endpoint_rows: Sequence[Row[Any]], now: datetime, cipher: SecretCipher
) -> dict[int, Target]:
    """What the sender needs to know of endpoints, by their keys; without those that are locked."""
    ciphertext = encrypted_secrets(connection, [row.id for row in endpoint_rows], now)
    targets: dict[int, Target] = {}
    for row in endpoint_rows:
        try:
            targets[row.id] = _target(row, decrypt_secrets(ciphertext[row.id], cipher), cipher)
        except (BridgeError, ValueError, LookupError) as error:
            log.error("endpoint.locked", endpoint=row.name, detail=str(error))  # noqa: TRY400 - the message is all
            locked = update(endpoints).where(endpoints.c.id == row.id).values(paused_until=now + LOCKED_PAUSE)
            connection.execute(locked)
    return targets


def _due_endpoints(connection: Connection, now: datetime, slots: int) -> list[Row[Any]]:
    ready = connection.execute(_READY, {"now": now, "most": slots + SPARE_ENDPOINTS})
    turns = {row.id: place for place, row in enumerate(ready)}
    if not turns:
        return []
    held = connection.execute(_LOCKED_ENDPOINTS, {"keys": list(turns), "now": now}).all()
    return sorted(held, key=lambda row: turns[row.id])


def _take(
    connection: Connection, endpoint: Row[Any], allowance: int, now: datetime, lease_until: datetime, token: str
) -> Sequence[Row[Any]]:
    taken = connection.execute(_OWED_CURSORS, {"endpoint": endpoint.id, "now": now, "most": allowance}).all()
    if taken:
        keys = [row.room_key for row in taken]
        connection.execute(_CLAIMED, {"of": endpoint.id, "keys": keys, "until": lease_until, "token": token})
        spend_rate(connection, endpoint, len(taken), now)
    return taken


def _next_wanted(connection: Connection, endpoint: Row[Any], cursor: Row[Any]) -> Row[Any] | None:
    """The first event that concerns the endpoint beyond the window, however far ahead."""
    types = [wanted.value for wanted in EventType if matches(wanted, endpoint.events)]
    is_room_wanted = cursor.upstream_id is None or matches(cursor.upstream_id, endpoint.rooms)
    place = {"room": cursor.room_key, "beyond": cursor.acked + WINDOW, "head": cursor.head}
    wanting = {"types": types if is_room_wanted else [], "endpoint": endpoint.id}
    return connection.execute(_BEYOND, {**place, **wanting}).one_or_none()


def _assemble(
    connection: Connection,
    claimed: Sequence[_Taken],
    targets: dict[int, Target],
    token: str,
) -> list[ClaimedCursor]:
    """Give every claimed cursor its endpoint and the events within reach."""
    within_reach = _events_within_reach(connection, [(one.endpoint.id, one.cursor.room_key) for one in claimed])
    assembled = []
    for one in claimed:
        endpoint, cursor = one.endpoint, one.cursor
        reach = min(cursor.head, cursor.acked + WINDOW)
        wanted = [
            row
            for row in within_reach[endpoint.id, cursor.room_key]
            if row.except_endpoint != endpoint.id
            and matches(row.type, endpoint.events)
            and (cursor.upstream_id is None or matches(cursor.upstream_id, endpoint.rooms))
        ]
        # One that fails may have to give way, and a line with nothing in reach may be moved on: how far?
        is_failing = cursor.failed_attempts > 0 or endpoint.circuit != "closed"
        beyond = None
        if reach < cursor.head and (not wanted or (len(wanted) == 1 and is_failing)):
            beyond = _next_wanted(connection, endpoint, cursor)
            reach = cursor.head if beyond is None else beyond.sequence - 1
        owed, behind = _owed(wanted, reach), None
        if wanted and beyond is not None:
            (behind,) = _owed([beyond], beyond.sequence)
        if len(owed) > 1 and (endpoint.rate_per_second > 0 or is_failing):
            turn = cursor.failed_attempts + endpoint.probes  # another one each time: the next may be poison too
            owed, behind, reach = owed[:1], owed[1 + turn % (len(owed) - 1)], owed[0].passes_to
        assembled.append(
            ClaimedCursor(
                target=targets[endpoint.id],
                room_key=cursor.room_key,
                room_id=cursor.upstream_id,
                token=token,
                acked=cursor.acked,
                reach=reach,
                lease_until=one.lease_until,
                events=owed,
                behind=behind,
            )
        )
    return assembled


def _events_within_reach(
    connection: Connection, places: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], list[Row[Any]]]:
    """One query for all claims: what follows `acked` in each line, up to the window."""
    rows = _WITHIN_REACH.rows(connection, places)
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


def _target(endpoint: Row[Any], secrets: tuple[str, ...], cipher: SecretCipher) -> Target:
    return Target(
        key=endpoint.id,
        name=endpoint.name,
        url=endpoint.url,
        style=endpoint.style,
        signature=endpoint.signature,
        timeout=None if endpoint.timeout_seconds is None else timedelta(seconds=endpoint.timeout_seconds),
        rotated_at=endpoint.rotated_at,
        headers=json.loads(cipher.open(endpoint.headers)),
        secrets=secrets,
    )


_MAY_BE_CALLED = and_(
    endpoints.c.state == "active",
    or_(endpoints.c.paused_until.is_(None), endpoints.c.paused_until <= bindparam("now")),
)
_WAITING_SINCE = (
    select(func.min(cursors.c.next_attempt_at))
    .where(
        cursors.c.endpoint_key == endpoints.c.id,
        cursors.c.acked < cursors.c.head,
        cursors.c.next_attempt_at <= bindparam("now"),
    )
    .scalar_subquery()
)
_READY = (
    select(endpoints.c.id, _WAITING_SINCE.label("waiting_since"))
    .where(_MAY_BE_CALLED, RATE_IS_FREE, _WAITING_SINCE.is_not(None), CURSORS_AT_ONCE > BUSY_CURSORS)
    .order_by("waiting_since", endpoints.c.id)
    .limit(bindparam("most"))
)
_LOCKED_ENDPOINTS = (
    select(endpoints)
    .where(endpoints.c.id.in_(bindparam("keys", expanding=True)), _MAY_BE_CALLED)
    .order_by(endpoints.c.id)
    .with_for_update(key_share=True)
)
_OWED_CURSORS = (
    select(cursors.c.room_key, cursors.c.acked, cursors.c.head)
    .add_columns(cursors.c.failed_attempts, rooms.c.upstream_id)
    .join(rooms, rooms.c.id == cursors.c.room_key)
    .where(
        cursors.c.endpoint_key == bindparam("endpoint"),
        cursors.c.acked < cursors.c.head,
        cursors.c.next_attempt_at <= bindparam("now"),
    )
    .order_by(cursors.c.next_attempt_at, cursors.c.room_key)
    .limit(bindparam("most"))
    .with_for_update(of=cursors, skip_locked=True)
)
_CLAIMED = (
    update(cursors)
    .where(cursors.c.endpoint_key == bindparam("of"), cursors.c.room_key.in_(bindparam("keys", expanding=True)))
    .values(next_attempt_at=bindparam("until"), claim_token=bindparam("token"))
)
_WITHIN_REACH = ByPlaces(
    lambda at_places: (
        select(cursors.c.endpoint_key, events.c.id, events.c.room_key, events.c.public_id, events.c.sequence)
        .add_columns(events.c.type, events.c.body, events.c.except_endpoint)
        .join(
            events,
            and_(
                events.c.room_key == cursors.c.room_key,
                events.c.sequence > cursors.c.acked,
                events.c.sequence <= cursors.c.acked + WINDOW,
                events.c.sequence <= cursors.c.head,
            ),
        )
        .where(at_places)
        .order_by(cursors.c.endpoint_key, events.c.room_key, events.c.sequence)
    )
)
_BEYOND = (
    select(events.c.id, events.c.public_id, events.c.sequence)
    .add_columns(events.c.type, events.c.body)
    .where(
        events.c.room_key == bindparam("room"),
        events.c.sequence > bindparam("beyond"),
        events.c.sequence <= bindparam("head"),
        events.c.type.in_(bindparam("types", expanding=True)),
        or_(events.c.except_endpoint.is_(None), events.c.except_endpoint != bindparam("endpoint")),
    )
    .order_by(events.c.sequence)
    .limit(1)
)

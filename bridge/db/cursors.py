"""Cursors over the event log: raised by new events, and taken over at once by a sender of the same process if it can.

Subscriptions are read in the transaction that appends the events, never from a cache that a new endpoint could miss.
A sender offers to take over cursors of endpoints that it knows. An offer is accepted for cursors that owed nothing, of
endpoints without a limit except `max_concurrency`, whose row is locked here as when cursors are claimed, so that
the limit stays exact over any number of senders. A cursor that is not taken over is due, and claimed as usual.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    Row,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    null,
    or_,
    select,
)

from bridge.db.arrays import Values, insert_many, one_of, types_of
from bridge.db.tables import cursors, endpoints, redeliveries
from bridge.events.log import NewEvent
from bridge.events.subscription import Subscription, subscription

EVENTS_AT_ONCE = 20
"""Number of sequences after `acked` that one claim covers."""
MOST_OFFERED = 100
"""Endpoints whose rows one transaction locks for an offer."""
TARGET_COLUMNS = (
    endpoints.c.name, endpoints.c.origin, endpoints.c.url, endpoints.c.style, endpoints.c.signature,
    endpoints.c.headers, endpoints.c.timeout_seconds, endpoints.c.rotated_at,
)  # fmt: skip
"""The columns that a sender needs to call an endpoint; while they and the secrets stay the same, it may keep them."""

REDELIVERING = exists().where(
    redeliveries.c.endpoint_key == endpoints.c.id,
    redeliveries.c.claim_token.is_not(None),
)
"""Whether a sender is working on redeliveries of the endpoint at hand."""
BUSY_CURSORS = (
    select(func.count())
    .select_from(cursors)
    .where(cursors.c.endpoint_key == endpoints.c.id, cursors.c.claim_token.is_not(None))
    .correlate(endpoints)
    .scalar_subquery()
) + case((REDELIVERING, 1), else_=0)
"""Number of cursors of the endpoint at hand that are worked on; its redeliveries count as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaisedCursor:
    """A cursor whose `head` moves to the sequence `last`; one that owed nothing starts just before `first`."""

    endpoint_key: int
    room_key: int
    room_id: str | None
    first: int
    last: int
    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownEndpoint:
    """An endpoint as a sender knows it: the values of `TARGET_COLUMNS`, and how many of its cursors it can take."""

    subscription: Subscription
    row: tuple[Any, ...] = field(repr=False)
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A sender of this process would take over at most `slots` cursors of endpoints that it knows, with this token."""

    token: str
    now: datetime
    slots: int
    known: Mapping[int, KnownEndpoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenCursor:
    """A cursor that was raised and claimed at once, with its events by their keys; they end at `head`."""

    key: int
    endpoint_key: int
    room_id: str
    token: str
    acked: int
    head: int
    events: Mapping[int, NewEvent]


@dataclass(frozen=True, slots=True)
class Raised:
    """Cursors that were raised, by room; those that were not taken over are to be claimed."""

    taken: Mapping[int, Sequence[TakenCursor]] = field(default_factory=dict)
    to_claim: frozenset[int] = frozenset()


def raise_cursors(
    connection: Connection,
    new: Sequence[NewEvent],
    offer: Offer | None = None,
    event_keys: Mapping[str, int] | None = None,
) -> Raised:
    """Raise the cursors of the endpoints that want the events; `event_keys` gives the events' keys by public id."""
    willing = [] if offer is None else _willing(offer, new)
    rows = connection.execute(
        _SUBSCRIPTIONS_AND_WILLING if willing else _SUBSCRIPTIONS,
        {"willing": willing, "now": offer.now} if offer is not None and willing else {},
    ).all()
    wanting = {row.id: subscription(row.id, row.events, row.rooms) for row in rows}
    raised = cursors_to_raise(wanting.values(), new)
    if not raised:
        return Raised()
    at_once = _at_once(offer, rows) if offer is not None and willing else {}
    ranks = _ranks(raised, at_once, offer) if offer is not None and at_once else {}
    if offer is None or not ranks:
        _RAISE.execute(connection, [_values(cursor) for cursor in raised])
        return Raised(to_claim=frozenset(cursor.room_key for cursor in raised))
    values = [_values(cursor) | _claim_values(cursor, ranks, at_once, offer.token) for cursor in raised]
    stored = _RAISE_AND_CLAIM.execute(connection, values).all()
    return _raised(stored, wanting, new, offer.token, event_keys or {})


def cursors_to_raise(subscriptions: Iterable[Subscription], new: Sequence[NewEvent]) -> list[RaisedCursor]:
    """The cursors that new events raise, ordered by endpoint and room: the order in which they are locked."""
    raised: dict[tuple[int, int], RaisedCursor] = {}
    for wanting in subscriptions:
        for event in new:
            if wanting.wants(event.type, event.room_id, event.audience):
                known = raised.get((wanting.endpoint_key, event.room_key))
                raised[wanting.endpoint_key, event.room_key] = RaisedCursor(
                    endpoint_key=wanting.endpoint_key,
                    room_key=event.room_key,
                    room_id=event.room_id,
                    first=event.sequence if known is None else known.first,
                    last=event.sequence,
                    due_at=event.recorded_at,
                )
    return [cursor for _, cursor in sorted(raised.items())]


def _willing(offer: Offer, new: Sequence[NewEvent]) -> list[int]:
    """Endpoints of the offer that probably want one of the events."""
    found = (
        key
        for key, one in offer.known.items()
        if one.slots > 0 and any(one.subscription.wants(event.type, event.room_id, event.audience) for event in new)
    )
    return sorted(found)[:MOST_OFFERED] if offer.slots > 0 else []


def _at_once(offer: Offer, rows: Sequence[Row[Any]]) -> dict[int, int]:
    """`max_concurrency` by endpoint, of those that are locked here and still as the sender knows them."""
    found: dict[int, int] = {}
    for row in rows:
        known = offer.known.get(row.id)
        if known is not None and row.max_concurrency is not None and tuple(row)[-len(TARGET_COLUMNS) :] == known.row:
            found[row.id] = row.max_concurrency
    return found


def _ranks(raised: Sequence[RaisedCursor], at_once: Collection[int], offer: Offer) -> dict[tuple[int, int], int]:
    """The cursors that may be taken over, numbered within their endpoint: none of the bridge's own log."""
    counts: Counter[int] = Counter()
    ranks: dict[tuple[int, int], int] = {}
    for cursor in raised:
        key = cursor.endpoint_key
        has_slot = key in at_once and counts[key] < offer.known[key].slots and len(ranks) < offer.slots
        if has_slot and cursor.room_id is not None:
            counts[key] += 1
            ranks[key, cursor.room_key] = counts[key]
    return ranks


def _raised(
    stored: Sequence[Row[Any]],
    wanting: Mapping[int, Subscription],
    new: Sequence[NewEvent],
    token: str,
    event_keys: Mapping[str, int],
) -> Raised:
    by_room: dict[int, list[NewEvent]] = defaultdict(list)
    for event in new:
        by_room[event.room_key].append(event)
    taken: dict[int, list[TakenCursor]] = {}
    to_claim: set[int] = set()
    for row in stored:
        if row.claim_token != token:
            to_claim.add(row.room_key)
            continue
        wants = wanting[row.endpoint_key].wants
        wanted = [one for one in by_room[row.room_key] if wants(one.type, one.room_id, one.audience)]
        taken.setdefault(row.room_key, []).append(
            TakenCursor(
                key=row.id,
                endpoint_key=row.endpoint_key,
                room_id=wanted[0].room_id or "",
                token=token,
                acked=row.acked,
                head=row.head,
                events={event_keys[event.public_id]: event for event in wanted},
            )
        )
    return Raised(taken, frozenset(to_claim))


def _values(cursor: RaisedCursor) -> dict[str, Any]:
    return {
        "endpoint_key": cursor.endpoint_key,
        "room_key": cursor.room_key,
        "acked": cursor.first - 1,
        "head": cursor.last,
        "next_attempt_at": cursor.due_at,
    }


def _claim_values(
    cursor: RaisedCursor, ranks: Mapping[tuple[int, int], int], at_once: Mapping[int, int], token: str
) -> dict[str, Any]:
    rank = ranks.get((cursor.endpoint_key, cursor.room_key))
    return {
        "of_endpoint": cursor.endpoint_key,
        "token": None if rank is None else token,
        "rank": rank or 0,
        "at_once": at_once.get(cursor.endpoint_key, 0),
    }


_OWES_NOTHING = cursors.c.acked >= cursors.c.head


def _new_values(new: Values) -> dict[str, Any]:
    """A new cursor; the sender's token if the endpoint has a slot for it."""
    busy = select(BUSY_CURSORS).where(endpoints.c.id == new["of_endpoint"]).scalar_subquery()
    is_allowed = busy + new["rank"] <= new["at_once"]
    claim = case((new["token"].is_(None), null()), (is_allowed, new["token"]), else_=None)
    return {name: new[name] for name in _RAISED} | {"claim_token": claim}


def _raised_values(new: Values) -> dict[str, Any]:
    """A cursor that owes nothing skips the unwanted events in between, and is due now.

    One that owes something keeps its position, its claim and its back-off.
    """
    return {
        "head": new["head"],
        "acked": case((_OWES_NOTHING, new["acked"]), else_=cursors.c.acked),
        "next_attempt_at": case((_OWES_NOTHING, new["next_attempt_at"]), else_=cursors.c.next_attempt_at),
    }


def _raised_and_claimed_values(new: Values) -> dict[str, Any]:
    may_be_taken = and_(_OWES_NOTHING, cursors.c.claim_token.is_(None))
    return _raised_values(new) | {"claim_token": case((may_be_taken, new["claim_token"]), else_=cursors.c.claim_token)}


_RAISED = ("endpoint_key", "room_key", "acked", "head", "next_attempt_at")
_KEY = (cursors.c.endpoint_key, cursors.c.room_key)
_RAISE = insert_many(
    cursors,
    lambda new: {name: new[name] for name in _RAISED},
    types_of(cursors, *_RAISED),
    key=_KEY,
    change=_raised_values,
)
_RAISE_AND_CLAIM = insert_many(
    cursors,
    _new_values,
    types_of(cursors, *_RAISED, of_endpoint=Integer(), token=Text(), rank=Integer(), at_once=Integer()),
    key=_KEY,
    change=_raised_and_claimed_values,
).returning(
    cursors.c.id,
    cursors.c.endpoint_key,
    cursors.c.room_key,
    cursors.c.acked,
    cursors.c.head,
    cursors.c.claim_token,
)
_SUBSCRIPTIONS = select(endpoints.c.id, endpoints.c.events, endpoints.c.rooms).order_by(endpoints.c.id)
_UNRESTRICTED = (
    select(endpoints.c.id, endpoints.c.max_concurrency, *TARGET_COLUMNS)
    .where(
        one_of(endpoints.c.id, "willing"),
        endpoints.c.state == "active",
        endpoints.c.circuit == "closed",
        endpoints.c.failing_since.is_(None),
        endpoints.c.rate_per_second <= 0,
        or_(endpoints.c.paused_until.is_(None), endpoints.c.paused_until <= bindparam("now")),
    )
    .with_for_update(key_share=True, skip_locked=True)
    .subquery()
)
_SUBSCRIPTIONS_AND_WILLING = _SUBSCRIPTIONS.add_columns(
    _UNRESTRICTED.c.max_concurrency, *(_UNRESTRICTED.c[column.name] for column in TARGET_COLUMNS)
).outerjoin(_UNRESTRICTED, _UNRESTRICTED.c.id == endpoints.c.id)

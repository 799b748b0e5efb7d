"""`Subscription.wants` and its SQL agree: events beyond the window of a claim, and replays."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert

from bridge.db.cursors import EVENTS_AT_ONCE
from bridge.db.event_log import append_events, append_system_events, room_log, write_log_ends
from bridge.db.tables import cursors, events, redeliveries
from bridge.delivery.replay import Range, count_wanted, find_range, request_some
from bridge.events.log import number_events
from bridge.events.samples import draft_sample
from bridge.events.subscription import NO_ENDPOINT, Subscription, all_but, only, subscription
from bridge.events.types import EventType
from tests.harness.builders import at
from tests.harness.store_driver import StoreDriver

SUBSCRIPTIONS = [
    (("*",), ("*",)),
    (("peer.left",), ("a*",)),
    (("room.snapshot", "endpoint.*"), ("*",)),
    (("room.*",), ("none",)),
]


def log_every_kind(store: StoreDriver, key: int) -> None:
    """Append events of every type for every audience, to two rooms and the bridge's own log, in long runs of a type."""
    audiences = (None, NO_ENDPOINT, only(key), only(key + 1), all_but(key), all_but(key + 1))
    drafts = [
        replace(draft_sample(event_type, at(0), store.new_id), audience=audience)
        for event_type, audience in product(EventType, audiences)
    ]

    def append(connection: Connection) -> None:
        append_system_events(connection, drafts, at(0), store.new_id)
        for name in ("a", "b"):
            log, new = number_events(room_log(store.room(name)), drafts, at(0), store.new_id)
            write_log_ends(connection, [log])
            append_events(connection, new)

    store.track("a", "b")
    store.write(append)


def wanted(store: StoreDriver, wanting: Subscription, after: int = 0) -> list[Any]:
    names = {room.id: room.upstream_id for room in store.rooms()}
    return [
        row
        for row in store.rows(events, "id")
        if row.sequence > after and wanting.wants(row.type, names[row.room_key], row.audience)
    ]


@pytest.mark.parametrize(("types", "globs"), SUBSCRIPTIONS)
def test_a_claim_finds_the_first_wanted_event_at_any_distance(
    store: StoreDriver, types: tuple[str, ...], globs: tuple[str, ...]
) -> None:
    key = store.subscribe(events=types, rooms=globs)
    log_every_kind(store, key)
    rooms = store.rooms()
    room_keys = {room.upstream_id: room.id for room in rooms}
    for acked in range(0, rooms[0].last_sequence, 9):
        place_cursors(store, key, acked)
        expected = wanted(store, subscription(key, types, globs), acked)
        for claimed in store.owed(1):
            first = min((row.sequence for row in expected if row.room_key == room_keys[claimed.room_id]), default=None)
            if first is not None and first <= acked + EVENTS_AT_ONCE:
                assert claimed.events[0].sequence == first
            else:
                assert claimed.events == ()
                assert claimed.reach == (rooms[0].last_sequence if first is None else first - 1)


def place_cursors(store: StoreDriver, key: int, acked: int) -> None:
    rows = [
        {"endpoint_key": key, "room_key": room.id, "acked": acked, "head": room.last_sequence, "next_attempt_at": at(0)}
        for room in store.rooms()
    ]

    def place(connection: Connection) -> None:
        connection.execute(delete(cursors))
        connection.execute(insert(cursors), rows)

    store.write(place)


@pytest.mark.parametrize(("types", "globs"), SUBSCRIPTIONS)
def test_a_replay_finds_the_wanted_events(store: StoreDriver, types: tuple[str, ...], globs: tuple[str, ...]) -> None:
    key = store.subscribe(events=types, rooms=globs)
    log_every_kind(store, key)
    found = store.database.read_now(find_range, key, Range())
    expected = [row.id for row in wanted(store, subscription(key, types, globs))]

    assert store.database.read_now(count_wanted, found) == len(expected)
    assert store.write(request_some, found, 0, at(1)).added == len(expected)
    assert [row.event_key for row in store.rows(redeliveries, "event_key")] == expected

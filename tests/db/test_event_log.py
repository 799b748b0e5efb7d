"""Cursors as the log raises them: who is owed what, from where on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Select, select, text

from bridge.db.event_log import append, append_system_events, assign_sequences, room_log
from bridge.db.tables import cursors, events
from bridge.delivery import snapshots
from bridge.delivery.endpoints import EndpointSpec, add_endpoint, remove_endpoint
from bridge.events.bodies import Draft, draft_source
from bridge.rules.presence import FailureKind
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import GOOD, StoreDriver, attempted, by_room, failed
from tests.harness.waiting import wait_until


def told(store: StoreDriver, seconds: float) -> None:
    """Something for the bridge's own log."""
    away = draft_source(
        available=False, source="main", condition="failing", since=at(0), detail=None, observed_at=at(seconds)
    )
    store.write(append_system_events, [away], at(seconds), store.new_id)


def test_an_endpoint_is_owed_from_the_first_event_it_wants_to_the_last(store: StoreDriver) -> None:
    store.track("a")
    key = store.subscribe(events=["peer.*"])
    store.poll(0, a=seen("p", "q"))
    store.poll(10, a=seen())

    assert store.event_types("a") == ["room.occupied", "peer.joined", "peer.joined", "peer.left", "peer.left", "room.empty"]
    row = store.cursor(key, "a")
    assert (row.acked, row.head, row.next_attempt_at) == (1, 5, at(0))


def test_an_endpoint_that_wants_nothing_of_it_gets_no_cursor(store: StoreDriver) -> None:
    store.track("a")
    types, globs = store.subscribe("types", events=["peer.left"]), store.subscribe("globs", rooms=["b*"])
    store.poll(0, a=seen("p"))

    assert (store.cursor(types, "a"), store.cursor(globs, "a")) == (None, None)


def test_a_new_endpoint_starts_at_the_head(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen("p"))
    key = store.subscribe(events=["peer.*"], seconds=5)
    assert store.owed(5) == []
    store.poll(10, a=seen("p", "q"))

    row = store.cursor(key, "a")
    assert (row.acked, row.head) == (2, 3)


def test_one_that_asks_for_snapshots_is_told_at_once_who_is_there(store: StoreDriver) -> None:
    store.track("a", "b", "c", "unknown")
    store.poll(0, a=seen(peer("p", -3, {"name": "P"}), peer("q", -5)), b=seen(), c=seen("x"))
    key = store.subscribe(events=["room.snapshot", "peer.left"], rooms=["a", "b", "unknown"], seconds=5)

    claimed = by_room(store.owed(5))

    assert set(claimed) == {"a", "b"}
    snapshot = store.log("a")[-1]
    assert (snapshot["type"], snapshot["id"]) == ("room.snapshot", claimed["a"].events[0].public_id)
    assert [one["peer_id"] for one in snapshot["data"]["peers"]] == ["q", "p"]
    assert snapshot["data"]["session_id"] == store.log("a")[0]["data"]["session_id"]
    assert snapshot["data"]["peer_count"] == 2
    assert store.log("b")[-1]["data"]["session_id"] is None
    assert store.event_types("c") == ["room.occupied", "peer.joined"]
    assert store.chain_problems() == []
    assert store.cursor(key, "a").acked == store.cursor(key, "a").head - 1


def test_however_many_rooms_there_are_each_is_told_once_whoever_is_killed_in_between(
    store: StoreDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "AT_ONCE", 3)
    names = [f"r{number}" for number in range(7)]
    store.track(*names)
    store.poll(0, **{name: seen("p") for name in names})
    spec = EndpointSpec(name="crm", url="https://crm.example.com/", events=("room.snapshot",), rooms=("r[0-5]",))
    store.write(add_endpoint, spec, store.context())
    assert store.write(snapshots.append_snapshots, at(1), store.new_id)

    store.append_snapshots(2)
    assert [store.event_types(name).count("room.snapshot") for name in names] == [1] * 6 + [0]
    assert not store.write(snapshots.append_snapshots, at(3), store.new_id)
    assert store.chain_problems() == []


def test_a_snapshot_while_a_poll_is_under_way_does_not_disturb_it(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen("p"))
    claimed = store.claim(10)
    store.subscribe(events=["*"], seconds=10)
    (recorded,) = store.record(claimed, lambda _: seen("p", "q"), 11)

    assert not recorded.fenced
    assert store.event_types("a") == ["room.occupied", "peer.joined", "room.snapshot", "peer.joined"]
    assert store.chain_problems() == []


def test_an_endpoint_that_owes_something_keeps_its_place_in_line(store: StoreDriver) -> None:
    store.track("a")
    key = store.subscribe()
    store.poll(0, a=seen("p"))
    store.poll(10, a=seen("p", "q"))

    row = store.cursor(key, "a")
    assert (row.acked, row.head, row.next_attempt_at) == (0, 3, at(0))


def test_events_that_come_during_a_claim_are_owed_after_it(store: StoreDriver) -> None:
    store.track("a")
    key = store.subscribe(events=["peer.joined"])
    store.poll(0, a=seen("p"))
    (cursor,) = store.owed(1)
    store.poll(10, a=seen("p", "q"))
    (settled,) = store.report(11, attempted(cursor, 11))

    assert settled.owes
    row = store.cursor(key, "a")
    assert (row.acked, row.head, row.next_attempt_at) == (2, 3, at(11))


def test_a_removed_endpoint_takes_its_line_along_and_leaves_the_log(store: StoreDriver) -> None:
    store.track("a")
    store.subscribe("gone")
    key = store.subscribe("stays")
    store.poll(0, a=seen("p"))
    store.write(remove_endpoint, "gone")
    store.poll(10, a=seen())

    assert {row.endpoint_key for row in store.rows(cursors, "endpoint_key")} == {key}
    assert len(store.rows(events, "id")) == 4


def test_the_bridges_own_events_reach_endpoints_whatever_rooms_they_ask_for(store: StoreDriver) -> None:
    store.track("a")
    narrow = store.subscribe("narrow", events=["source.*"], rooms=["z*"])
    other = store.subscribe("other", events=["peer.*"])
    store.record(store.claim(0), lambda _: failed(FailureKind.UNAUTHORIZED), 1)

    (cursor,) = store.owed(1)
    assert (cursor.room_id, [event.type for event in cursor.events]) == (None, ["source.unavailable"])
    assert store.cursor(narrow, None) is not None
    assert store.cursor(other, None) is None


def test_one_that_is_passed_over_is_not_told_later_either(store: StoreDriver) -> None:
    key = store.subscribe(events=["*"])
    told(store, 0)
    store.deliver(0)
    away = draft_source(available=False, source="x", condition="c", since=at(0), detail=None, observed_at=at(1))
    store.write(append_system_events, [away], at(1), store.new_id, except_endpoint=key)
    assert store.owed(1) == []
    told(store, 2)

    (cursor,) = store.owed(2)

    assert [event.sequence for event in cursor.events] == [3]


def test_what_lies_behind_many_unwanted_events_is_found_by_the_first_claim(store: StoreDriver) -> None:
    """The endpoint was up to date before: nothing between concerns it, so nothing between costs a transaction."""
    store.track("a")
    store.subscribe(events=["room.empty"])
    store.poll(0, a=seen("p"))
    store.poll(10, a=seen())
    store.deliver(10)
    for turn in range(30):
        store.poll(20 + 10 * turn, a=seen(peer("p", 0, {"turn": turn})))
    store.poll(20 + 10 * 30, a=seen())

    (cursor,) = store.owed(1000)

    assert [event.type for event in cursor.events] == ["room.empty"]


def test_the_first_of_the_bridges_own_events_come_from_two_writers(postgresql_store: StoreDriver) -> None:
    store = postgresql_store
    with store.database._writing.begin() as first:
        append_system_events(first, [unavailable("one")], at(0), store.new_id)
        second = in_thread(lambda: store.write(append_system_events, [unavailable("two")], at(0), store.new_id))
        second.join(0.5)  # it either waits for the first, or is done by itself
    second.join(10)

    own = [room for room in store.rooms() if room.upstream_id is None]
    assert [(room.source, room.last_sequence) for room in own] == [(None, 2)]


def test_cursors_are_locked_in_one_order_by_those_who_raise_and_those_who_settle(postgresql_store: StoreDriver) -> None:
    """`settle` locks by endpoint, then room: whoever raises cursors in another order meets it in a deadlock."""
    store = postgresql_store
    store.track("a", "b")
    one, two = store.subscribe("one"), store.subscribe("two")
    store.poll(0, a=seen("p"), b=seen("p"))
    store.deliver(0)
    rows = {room.upstream_id: room for room in store.rooms()}
    with store.database._writing.begin() as settling:
        settling.execute(lock_cursor(one, rows["b"].id))
        polling = in_thread(lambda: raise_both(store))
        wait_until(lambda: store.database.read_now(somebody_waits), what="the poll to wait for the settlement")

        settling.execute(lock_cursor(two, rows["a"].id, nowait=True))
    polling.join(10)
    assert not polling.is_alive()


def raise_both(store: StoreDriver) -> None:
    def write(connection: Connection) -> None:
        entries = []
        for row in store.rooms():
            _, numbered = assign_sequences(room_log(row), [unavailable("x")], store.new_id)
            entries += numbered
        append(connection, entries, at(1))

    store.write(write)


def unavailable(name: str) -> Draft:
    return draft_source(available=False, source=name, condition="failing", since=at(0), detail=None, observed_at=at(0))


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def lock_cursor(endpoint: int, room: int, *, nowait: bool = False) -> Select[Any]:
    place = (cursors.c.endpoint_key == endpoint, cursors.c.room_key == room)
    return select(cursors).where(*place).with_for_update(nowait=nowait)


def somebody_waits(connection: Connection) -> bool:
    query = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    return bool(connection.execute(query).scalar_one())


@pytest.mark.parametrize("wanted", [["peer.joined"], ["peer.left"], ["room.*"], ["*"], ["peer.updated"]])
def test_an_endpoint_gets_exactly_what_it_wants_in_order(store: StoreDriver, wanted: list[str]) -> None:
    store.track("a")
    store.subscribe(events=wanted)
    for turn in range(12):
        store.poll(10 * turn, a=seen(*(peer(name, 0, {"t": turn // 3}) for name in "pqrs"[: turn % 5])))
        if turn % 4 == 3:
            store.deliver(10 * turn, lambda *_: GOOD)
    sent = [attempt.event_key for attempt in store.attempts()]
    store.deliver(1000)
    sent = [attempt.event_key for attempt in store.attempts()]

    prefix = wanted[0].removesuffix("*")
    assert sent == [
        row.id
        for row in store.rows(events, "sequence")
        if row.type == wanted[0] or (wanted[0].endswith("*") and row.type.startswith(prefix))
    ]

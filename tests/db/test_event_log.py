"""The event log and the cursors that it raises."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Select, select

from bridge.db.event_log import append_events, append_system_events, is_in_audience, room_log
from bridge.db.tables import cursors, events
from bridge.delivery import snapshots
from bridge.delivery.endpoints import EndpointSpec, add_endpoint, remove_endpoint
from bridge.delivery.plan import Moved
from bridge.events.bodies import Draft, draft_source
from bridge.events.log import number_events
from bridge.events.subscription import NO_ENDPOINT, all_but, includes, only
from bridge.rules.presence import FailureKind
from tests.harness.builders import at, peer, seen
from tests.harness.deadlocks import any_waits_for_a_lock
from tests.harness.store_driver import GOOD, StoreDriver, attempted, by_room, failed
from tests.harness.waiting import wait_until


def append_notice(store: StoreDriver, seconds: float, audience: int | None = None) -> None:
    """Append to the bridge's own log."""
    notice = replace(unavailable("main"), audience=audience)
    store.write(append_system_events, [notice], at(seconds), store.new_id)


def test_a_cursor_reaches_from_the_first_wanted_event_to_the_last(store: StoreDriver) -> None:
    store.track("a")
    key = store.subscribe(events=["peer.*"])
    store.poll(0, a=seen("p", "q"))
    store.poll(10, a=seen())

    assert store.event_types("a") == [
        "room.occupied",
        "peer.joined",
        "peer.joined",
        "peer.left",
        "peer.left",
        "room.empty",
    ]
    row = store.cursor(key, "a")
    assert (row.acked, row.head, row.next_attempt_at) == (1, 5, at(0))


def test_an_endpoint_that_wants_none_of_the_events_gets_no_cursor(store: StoreDriver) -> None:
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


def test_an_endpoint_that_wants_snapshots_gets_one_of_each_of_its_rooms(store: StoreDriver) -> None:
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


def test_a_snapshot_goes_only_to_the_endpoint_that_asked_for_it(store: StoreDriver) -> None:
    store.track("a")
    other = store.subscribe("other", events=["*"])
    store.poll(0, a=seen("p"))
    store.deliver(0)
    before = store.cursor(other, "a")
    key = store.subscribe("crm", events=["room.snapshot"], seconds=5)

    assert store.cursor(other, "a") == before
    assert store.deliver(5) == [store.log("a")[-1]["id"]]
    store.poll(10, a=seen("p", "q"))
    store.deliver(10)
    sent = {(row.endpoint_key, row.event_key) for row in store.attempts()}
    (snapshot,) = [row.id for row in store.rows(events) if row.type == "room.snapshot"]
    assert {endpoint for endpoint, event in sent if event == snapshot} == {key}
    assert len([event for endpoint, event in sent if endpoint == other]) == 3


def test_snapshots_of_many_rooms_are_appended_in_steps_each_once(
    store: StoreDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "ROOMS_AT_ONCE", 3)
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


def test_a_snapshot_while_a_poll_is_under_way_does_not_fence_it(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen("p"))
    claimed = store.claim(10)
    store.subscribe(events=["*"], seconds=10)
    (recorded,) = store.record(claimed, lambda _: seen("p", "q"), 11)

    assert not recorded.fenced
    assert store.event_types("a") == ["room.occupied", "peer.joined", "room.snapshot", "peer.joined"]
    assert store.chain_problems() == []


def test_a_cursor_that_owes_something_keeps_its_position_and_due_time(store: StoreDriver) -> None:
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
    (recorded,) = store.report(11, attempted(cursor, 11))

    assert recorded == Moved(keeps_claim=False, owes_more=True)
    row = store.cursor(key, "a")
    assert (row.acked, row.head, row.next_attempt_at) == (2, 3, at(11))


def test_a_removed_endpoint_loses_its_cursors_but_the_log_stays(store: StoreDriver) -> None:
    store.track("a")
    store.subscribe("gone")
    key = store.subscribe("stays")
    store.poll(0, a=seen("p"))
    store.write(remove_endpoint, "gone")
    store.poll(10, a=seen())

    assert {row.endpoint_key for row in store.rows(cursors, "endpoint_key")} == {key}
    assert len(store.rows(events, "id")) == 4


def test_the_bridges_own_events_reach_endpoints_of_any_rooms(store: StoreDriver) -> None:
    store.track("a")
    narrow = store.subscribe("narrow", events=["source.*"], rooms=["z*"])
    other = store.subscribe("other", events=["peer.*"])
    store.record(store.claim(0), lambda _: failed(FailureKind.UNAUTHORIZED), 1)

    (cursor,) = store.owed(1)
    assert (cursor.room_id, [event.type for event in cursor.events]) == (None, ["source.unavailable"])
    assert store.cursor(narrow, None) is not None
    assert store.cursor(other, None) is None


def test_an_event_for_all_but_one_endpoint_is_skipped_by_that_one(store: StoreDriver) -> None:
    key = store.subscribe(events=["*"])
    append_notice(store, 0)
    store.deliver(0)
    append_notice(store, 1, audience=all_but(key))
    assert store.owed(1) == []
    append_notice(store, 2)

    (cursor,) = store.owed(2)

    assert [event.sequence for event in cursor.events] == [3]


def test_audiences_are_the_same_in_sql(store: StoreDriver) -> None:
    audiences = [None, NO_ENDPOINT, only(7), only(8), all_but(7), all_but(8)]
    for audience in audiences:
        append_notice(store, 0, audience)

    for endpoint_key in (7, 8, 9):
        found = select(events.c.audience).where(is_in_audience(events.c.audience, endpoint_key)).order_by(events.c.id)
        with store.database._reading.connect() as connection:
            in_sql = connection.execute(found).scalars().all()
        assert in_sql == [audience for audience in audiences if includes(audience, endpoint_key)]


def test_a_wanted_event_behind_many_unwanted_ones_is_found_by_the_first_claim(store: StoreDriver) -> None:
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


def test_two_writers_may_append_the_first_of_the_bridges_own_events_at_once(postgresql_store: StoreDriver) -> None:
    store = postgresql_store
    with store.database._writing.begin() as first:
        append_system_events(first, [unavailable("one")], at(0), store.new_id)
        second = in_thread(lambda: store.write(append_system_events, [unavailable("two")], at(0), store.new_id))
        second.join(0.5)  # it either waits for the first, or is done by itself
    second.join(10)

    own = [room for room in store.rooms() if room.upstream_id is None]
    assert [(room.source, room.last_sequence) for room in own] == [(None, 2)]


def test_cursors_are_raised_in_the_order_in_which_attempts_lock_them(postgresql_store: StoreDriver) -> None:
    """`record_attempts` locks them by endpoint, then room: any other order could deadlock."""
    store = postgresql_store
    store.track("a", "b")
    one, two = store.subscribe("one"), store.subscribe("two")
    store.poll(0, a=seen("p"), b=seen("p"))
    store.deliver(0)
    rows = {room.upstream_id: room for room in store.rooms()}
    with store.database._writing.begin() as recording:
        recording.execute(lock_cursor(one, rows["b"].id))
        polling = in_thread(lambda: raise_both(store))
        wait_until(lambda: any_waits_for_a_lock(store.database), what="the poll to wait")

        recording.execute(lock_cursor(two, rows["a"].id, nowait=True))
    polling.join(10)
    assert not polling.is_alive()


def raise_both(store: StoreDriver) -> None:
    def write(connection: Connection) -> None:
        for_each = [number_events(room_log(row), [unavailable("x")], at(1), store.new_id) for row in store.rooms()]
        append_events(connection, [event for _, events in for_each for event in events])

    store.write(write)


def unavailable(name: str) -> Draft:
    return draft_source(available=False, source=name, condition="failing", since=at(0), detail=None, observed_at=at(0))


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def lock_cursor(endpoint: int, room: int, *, nowait: bool = False) -> Select[Any]:
    at_room = (cursors.c.endpoint_key == endpoint, cursors.c.room_key == room)
    return select(cursors).where(*at_room).with_for_update(nowait=nowait)


@pytest.mark.parametrize("wanted", [["peer.joined"], ["peer.left"], ["room.*"], ["*"], ["peer.updated"]])
def test_an_endpoint_gets_exactly_the_events_that_it_wants_in_order(store: StoreDriver, wanted: list[str]) -> None:
    store.track("a")
    store.subscribe(events=wanted)
    for turn in range(12):
        store.poll(10 * turn, a=seen(*(peer(name, 0, {"t": turn // 3}) for name in "pqrs"[: turn % 5])))
        if turn % 4 == 3:
            store.deliver(10 * turn, lambda *_: GOOD)
    store.deliver(1000)
    sent = [attempt.event_key for attempt in store.attempts()]

    prefix = wanted[0].removesuffix("*")
    assert sent == [
        row.id
        for row in store.rows(events, "sequence")
        if row.type == wanted[0] or (wanted[0].endswith("*") and row.type.startswith(prefix))
    ]

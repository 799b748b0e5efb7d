"""Cursors as the log raises them: who is owed what, from where on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Select, select, text

from bridge.events.bodies import Draft, draft_source
from bridge.presence import FailureKind
from bridge.store import snapshots
from bridge.store.endpoints import EndpointSpec, add_endpoint, remove_endpoint
from bridge.store.log import append, append_own, number, room_log
from bridge.store.tables import cursors, events
from tests.harness.waiting import wait_until
from tests.store.stage import GOOD, Stage, at, by_room, failed, peer, seen, tried


def told(stage: Stage, seconds: float) -> None:
    """Something for the bridge's own log."""
    away = draft_source(
        available=False, source="main", condition="failing", since=at(0), detail=None, observed_at=at(seconds)
    )
    stage.write(append_own, [away], at(seconds), stage.new_id)


def test_an_endpoint_is_owed_from_the_first_event_it_wants_to_the_last(stage: Stage) -> None:
    stage.track("a")
    key = stage.subscribe(events=["peer.*"])
    stage.poll(0, a=seen("p", "q"))
    stage.poll(10, a=seen())

    assert stage.told("a") == ["room.occupied", "peer.joined", "peer.joined", "peer.left", "peer.left", "room.empty"]
    row = stage.cursor(key, "a")
    assert (row.acked, row.head, row.next_attempt_at) == (1, 5, at(0))


def test_an_endpoint_that_wants_nothing_of_it_gets_no_cursor(stage: Stage) -> None:
    stage.track("a")
    types, globs = stage.subscribe("types", events=["peer.left"]), stage.subscribe("globs", rooms=["b*"])
    stage.poll(0, a=seen("p"))

    assert (stage.cursor(types, "a"), stage.cursor(globs, "a")) == (None, None)


def test_a_new_endpoint_starts_at_the_head(stage: Stage) -> None:
    stage.track("a")
    stage.poll(0, a=seen("p"))
    key = stage.subscribe(events=["peer.*"], seconds=5)
    assert stage.owed(5) == []
    stage.poll(10, a=seen("p", "q"))

    row = stage.cursor(key, "a")
    assert (row.acked, row.head) == (2, 3)


def test_one_that_asks_for_snapshots_is_told_at_once_who_is_there(stage: Stage) -> None:
    stage.track("a", "b", "c", "unknown")
    stage.poll(0, a=seen(peer("p", -3, {"name": "P"}), peer("q", -5)), b=seen(), c=seen("x"))
    key = stage.subscribe(events=["room.snapshot", "peer.left"], rooms=["a", "b", "unknown"], seconds=5)

    claimed = by_room(stage.owed(5))

    assert set(claimed) == {"a", "b"}
    snapshot = stage.log("a")[-1]
    assert (snapshot["type"], snapshot["id"]) == ("room.snapshot", claimed["a"].events[0].public_id)
    assert [one["peer_id"] for one in snapshot["data"]["peers"]] == ["q", "p"]
    assert snapshot["data"]["session_id"] == stage.log("a")[0]["data"]["session_id"]
    assert snapshot["data"]["peer_count"] == 2
    assert stage.log("b")[-1]["data"]["session_id"] is None
    assert stage.told("c") == ["room.occupied", "peer.joined"]
    assert stage.chain_problems() == []
    assert stage.cursor(key, "a").acked == stage.cursor(key, "a").head - 1


def test_however_many_rooms_there_are_each_is_told_once_whoever_is_killed_in_between(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "AT_ONCE", 3)
    names = [f"r{number}" for number in range(7)]
    stage.track(*names)
    stage.poll(0, **{name: seen("p") for name in names})
    spec = EndpointSpec(name="crm", url="https://crm.example.com/", events=("room.snapshot",), rooms=("r[0-5]",))
    stage.write(add_endpoint, spec, stage.desk())
    assert stage.write(snapshots.tell_snapshots, at(1), stage.new_id)

    stage.tell_snapshots(2)
    assert [stage.told(name).count("room.snapshot") for name in names] == [1] * 6 + [0]
    assert not stage.write(snapshots.tell_snapshots, at(3), stage.new_id)
    assert stage.chain_problems() == []


def test_a_snapshot_while_a_poll_is_under_way_does_not_disturb_it(stage: Stage) -> None:
    stage.track("a")
    stage.poll(0, a=seen("p"))
    claimed = stage.claim(10)
    stage.subscribe(events=["*"], seconds=10)
    (recorded,) = stage.record(claimed, lambda _: seen("p", "q"), 11)

    assert not recorded.fenced
    assert stage.told("a") == ["room.occupied", "peer.joined", "room.snapshot", "peer.joined"]
    assert stage.chain_problems() == []


def test_an_endpoint_that_owes_something_keeps_its_place_in_line(stage: Stage) -> None:
    stage.track("a")
    key = stage.subscribe()
    stage.poll(0, a=seen("p"))
    stage.poll(10, a=seen("p", "q"))

    row = stage.cursor(key, "a")
    assert (row.acked, row.head, row.next_attempt_at) == (0, 3, at(0))


def test_events_that_come_during_a_claim_are_owed_after_it(stage: Stage) -> None:
    stage.track("a")
    key = stage.subscribe(events=["peer.joined"])
    stage.poll(0, a=seen("p"))
    (cursor,) = stage.owed(1)
    stage.poll(10, a=seen("p", "q"))
    (settled,) = stage.settle(11, tried(cursor, 11))

    assert settled.owes
    row = stage.cursor(key, "a")
    assert (row.acked, row.head, row.next_attempt_at) == (2, 3, at(11))


def test_a_removed_endpoint_takes_its_line_along_and_leaves_the_log(stage: Stage) -> None:
    stage.track("a")
    stage.subscribe("gone")
    key = stage.subscribe("stays")
    stage.poll(0, a=seen("p"))
    stage.write(remove_endpoint, "gone")
    stage.poll(10, a=seen())

    assert {row.endpoint_key for row in stage.rows(cursors, "endpoint_key")} == {key}
    assert len(stage.rows(events, "id")) == 4


def test_the_bridges_own_events_reach_endpoints_whatever_rooms_they_ask_for(stage: Stage) -> None:
    stage.track("a")
    narrow = stage.subscribe("narrow", events=["source.*"], rooms=["z*"])
    other = stage.subscribe("other", events=["peer.*"])
    stage.record(stage.claim(0), lambda _: failed(FailureKind.UNAUTHORIZED), 1)

    (cursor,) = stage.owed(1)
    assert (cursor.room_id, [event.type for event in cursor.events]) == (None, ["source.unavailable"])
    assert stage.cursor(narrow, None) is not None
    assert stage.cursor(other, None) is None


def test_one_that_is_passed_over_is_not_told_later_either(stage: Stage) -> None:
    key = stage.subscribe(events=["*"])
    told(stage, 0)
    stage.deliver(0)
    away = draft_source(available=False, source="x", condition="c", since=at(0), detail=None, observed_at=at(1))
    stage.write(append_own, [away], at(1), stage.new_id, passing_over=key)
    assert stage.owed(1) == []
    told(stage, 2)

    (cursor,) = stage.owed(2)

    assert [event.sequence for event in cursor.events] == [3]


def test_what_lies_behind_many_unwanted_events_is_found_by_the_first_claim(stage: Stage) -> None:
    """The endpoint was up to date before: nothing between concerns it, so nothing between costs a transaction."""
    stage.track("a")
    stage.subscribe(events=["room.empty"])
    stage.poll(0, a=seen("p"))
    stage.poll(10, a=seen())
    stage.deliver(10)
    for turn in range(30):
        stage.poll(20 + 10 * turn, a=seen(peer("p", 0, {"turn": turn})))
    stage.poll(20 + 10 * 30, a=seen())

    (cursor,) = stage.owed(1000)

    assert [event.type for event in cursor.events] == ["room.empty"]


def test_the_first_of_the_bridges_own_events_come_from_two_writers(postgresql_stage: Stage) -> None:
    stage = postgresql_stage
    with stage.database._writing.begin() as first:
        append_own(first, [unavailable("one")], at(0), stage.new_id)
        second = in_thread(lambda: stage.write(append_own, [unavailable("two")], at(0), stage.new_id))
        second.join(0.5)  # it either waits for the first, or is done by itself
    second.join(10)

    own = [room for room in stage.rooms() if room.upstream_id is None]
    assert [(room.source, room.last_sequence) for room in own] == [(None, 2)]


def test_cursors_are_locked_in_one_order_by_those_who_raise_and_those_who_settle(postgresql_stage: Stage) -> None:
    """`settle` locks by endpoint, then room: whoever raises cursors in another order meets it in a deadlock."""
    stage = postgresql_stage
    stage.track("a", "b")
    one, two = stage.subscribe("one"), stage.subscribe("two")
    stage.poll(0, a=seen("p"), b=seen("p"))
    stage.deliver(0)
    rows = {room.upstream_id: room for room in stage.rooms()}
    with stage.database._writing.begin() as settling:
        settling.execute(lock_cursor(one, rows["b"].id))
        polling = in_thread(lambda: raise_both(stage))
        wait_until(lambda: stage.database.read_now(somebody_waits), what="the poll to wait for the settlement")

        settling.execute(lock_cursor(two, rows["a"].id, nowait=True))
    polling.join(10)
    assert not polling.is_alive()


def raise_both(stage: Stage) -> None:
    def write(connection: Connection) -> None:
        entries = []
        for row in stage.rooms():
            _, numbered = number(room_log(row), [unavailable("x")], stage.new_id)
            entries += numbered
        append(connection, entries, at(1))

    stage.write(write)


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
def test_an_endpoint_gets_exactly_what_it_wants_in_order(stage: Stage, wanted: list[str]) -> None:
    stage.track("a")
    stage.subscribe(events=wanted)
    for turn in range(12):
        stage.poll(10 * turn, a=seen(*(peer(name, 0, {"t": turn // 3}) for name in "pqrs"[: turn % 5])))
        if turn % 4 == 3:
            stage.deliver(10 * turn, lambda *_: GOOD)
    sent = [attempt.event_key for attempt in stage.attempts()]
    stage.deliver(1000)
    sent = [attempt.event_key for attempt in stage.attempts()]

    prefix = wanted[0].removesuffix("*")
    assert sent == [
        row.id
        for row in stage.rows(events, "sequence")
        if row.type == wanted[0] or (wanted[0].endswith("*") and row.type.startswith(prefix))
    ]

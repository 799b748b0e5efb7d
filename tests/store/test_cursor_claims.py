"""T3: which lines are handed out, to whom, and how many."""

from __future__ import annotations

import sqlite3
import threading
from datetime import timedelta
from typing import cast

import pytest
from sqlalchemy import Connection, text, update

from bridge.store import deliveries
from bridge.store.deliveries import WINDOW, ClaimedCursor, claim_cursors
from bridge.store.tables import cursors, endpoints, events, rooms
from tests.harness.waiting import wait_until
from tests.store.stage import GONE, GOOD, SECRET, TROUBLE, Stage, at, busy, by_room, peer, seen, tried


def joined(stage: Stage, seconds: float, *names: str) -> None:
    """Somebody new in each of these rooms."""
    stage.poll(seconds, **{name: seen(peer(f"at{seconds}", seconds)) for name in names})


def lines(claimed: list[ClaimedCursor]) -> list[tuple[str, str | None]]:
    return [(cursor.target.name, cursor.room_id) for cursor in claimed]


def test_a_claim_brings_the_events_in_order_and_what_is_needed_to_send_them(stage: Stage) -> None:
    stage.track("a")
    stage.subscribe(
        url="https://crm.example.com/x", headers={"X-Auth": "yes"}, timeout=timedelta(seconds=3), events=["peer.*"]
    )
    stage.poll(0, a=seen("p", "q"))
    (cursor,) = stage.owed(1, token="mine")

    assert (cursor.token, cursor.acked, cursor.reach, cursor.room_id) == ("mine", 1, 3, "a")
    assert [event.sequence for event in cursor.events] == [2, 3]
    assert [event.passes_to for event in cursor.events] == [2, 3]
    assert [event.body for event in cursor.events] == [
        bytes(row.body) for row in stage.rows(events, "sequence") if row.type == "peer.joined"
    ]
    target = cursor.target
    assert (target.url, target.headers, target.secrets) == ("https://crm.example.com/x", {"X-Auth": "yes"}, (SECRET,))
    assert cursor.lease_until == at(1) + timedelta(seconds=3 + 10)
    assert SECRET not in repr(cursor)
    assert "X-Auth" not in repr(cursor)


def test_a_claimed_line_is_not_claimed_again_until_its_lease_ends(stage: Stage) -> None:
    stage.track("a")
    stage.subscribe()
    stage.poll(0, a=seen("p"))
    (cursor,) = stage.owed(1)

    assert stage.owed(2) == []
    assert stage.owed((cursor.lease_until - at(0)).total_seconds() - 0.01) == []
    assert lines(stage.owed((cursor.lease_until - at(0)).total_seconds())) == [("crm", "a")]


def test_unwanted_events_are_passed_over_with_the_one_before(stage: Stage) -> None:
    stage.track("a")
    stage.subscribe(events=["peer.left", "room.empty"])
    stage.poll(0, a=seen("p", "q"))
    stage.poll(10, a=seen("q"))
    stage.poll(20, a=seen("q", "r"))
    stage.poll(30, a=seen())
    (cursor,) = stage.owed(30)

    assert stage.told("a")[3:] == ["peer.left", "peer.joined", "peer.left", "peer.left", "room.empty"]
    assert [(event.sequence, event.passes_to) for event in cursor.events] == [(4, 5), (6, 6), (7, 7), (8, 8)]
    assert (cursor.acked, cursor.reach) == (3, 8)


def test_a_claim_looks_no_further_than_its_window(stage: Stage) -> None:
    stage.track("a")
    stage.subscribe()
    stage.poll(0, a=seen(*(f"p{number:03}" for number in range(3 * WINDOW))))
    (cursor,) = stage.owed(1)

    assert [event.sequence for event in cursor.events] == list(range(1, WINDOW + 1))
    assert cursor.reach == WINDOW
    assert len(stage.deliver(1 + 100)) == 3 * WINDOW + 1


def test_the_endpoint_that_waits_longest_comes_first(stage: Stage) -> None:
    stage.track("a", "b")
    stage.subscribe("late", rooms=["b"])
    stage.subscribe("early", rooms=["a"])
    joined(stage, 0, "a")
    joined(stage, 5, "b")

    assert lines(stage.owed(10, seats=1)) == [("early", "a")]
    assert lines(stage.owed(10, seats=1)) == [("late", "b")]


def test_an_endpoint_gets_no_more_lines_than_it_can_take(stage: Stage) -> None:
    stage.track("a", "b", "c", "d")
    stage.subscribe(max_concurrency=2)
    joined(stage, 0, "a", "b", "c", "d")

    first = stage.owed(1)
    assert len(first) == 2
    assert stage.owed(1) == []
    stage.settle(2, tried(first[0], 2, place=0))
    assert len(stage.owed(2)) == 1


def test_max_concurrency_is_exact_over_two_senders(postgresql_stage: Stage) -> None:
    stage = postgresql_stage
    names = [f"r{number}" for number in range(30)]
    stage.track(*names)
    stage.subscribe("one", max_concurrency=3)
    stage.subscribe("two", max_concurrency=5)
    joined(stage, 0, *names)
    claimed: list[ClaimedCursor] = []
    threads = [threading.Thread(target=lambda: claimed.extend(stage.owed(1, seats=4))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    claimed += stage.owed(1)

    assert len(set(lines(claimed))) == len(claimed) == 8
    assert sum(name == "one" for name, _ in lines(claimed)) == 3


def test_a_saturated_endpoint_does_not_take_the_seats_of_others(stage: Stage) -> None:
    stage.track("a", "b", "c")
    stage.subscribe("full", rooms=["a", "b"], max_concurrency=1)
    stage.subscribe("free", rooms=["c"])
    joined(stage, 0, "a", "b")
    assert len(stage.owed(1)) == 1
    joined(stage, 5, "c")

    assert lines(stage.owed(6, seats=1)) == [("free", "c")]


@pytest.mark.parametrize("rate", [2, 10, 40])
def test_the_rate_is_exact_over_two_senders(stage: Stage, rate: float) -> None:
    names = [f"r{number}" for number in range(100)]
    stage.track(*names)
    stage.subscribe(rate_per_second=rate, max_concurrency=1000)
    joined(stage, 0, *names)
    sent = 0
    for tick in range(21):
        for _ in ("one sender", "the other"):
            claimed = stage.owed(60 + tick * 0.1)
            assert all(len(cursor.events) == 1 for cursor in claimed)
            sent += len(claimed)

    burst = max(1, int(0.25 * rate))
    assert int(2 * rate) <= sent <= int(2 * rate) + burst


def test_lines_take_turns_under_a_rate(stage: Stage) -> None:
    stage.track("a", "b", "c")
    stage.subscribe(rate_per_second=1)
    stage.poll(0, **dict.fromkeys("abc", seen(peer("p", 0))))
    asked = []
    for second in range(1, 7):
        (cursor,) = stage.owed(second)
        asked.append((cursor.room_id, cursor.events[0].sequence))
        stage.settle(second, tried(cursor, second))

    assert asked == [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("c", 2)]


def test_the_next_attempt_is_allowed_when_the_rate_says_so(stage: Stage) -> None:
    stage.track("a", "b")
    stage.subscribe(rate_per_second=0.5)
    joined(stage, 0, "a", "b")
    assert len(stage.owed(10)) == 1
    assert stage.rows(endpoints)[0].rate_at == at(12)
    assert stage.owed(11.999) == []
    assert len(stage.owed(12)) == 1


def test_an_endpoint_at_its_rate_takes_no_turn(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "SPARE_TURNS", 0)
    stage.track("a", "b", "c")
    stage.subscribe("slow", rooms=["a", "b"], rate_per_second=0.1)
    stage.subscribe("free", rooms=["c"])
    joined(stage, 0, "a", "b")
    joined(stage, 5, "c")
    assert lines(stage.owed(6, seats=1)) == [("slow", "a")]

    assert lines(stage.owed(7, seats=1)) == [("free", "c")]


def test_an_open_circuit_whose_probe_is_under_way_takes_no_turn(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "SPARE_TURNS", 0)
    names = [f"r{number}" for number in range(5)]
    stage.track(*names, "other")
    stage.subscribe("down", rooms=names)
    stage.subscribe("live", rooms=["other"])
    joined(stage, 0, *names)
    open_circuit(stage, names, 1)
    now = (stage.rows(endpoints, "id")[0].held_until - at(0)).total_seconds()
    assert [cursor.target.name for cursor in stage.owed(now, seats=1)] == ["down"]
    joined(stage, now + 1, "other")

    assert lines(stage.owed(now + 2, seats=1)) == [("live", "other")]


def test_one_event_at_a_time_under_a_rate_passes_over_what_follows(stage: Stage) -> None:
    stage.track("a")
    key = stage.subscribe(rate_per_second=5, events=["peer.joined", "room.empty"])
    stage.poll(0, a=seen("p"))
    stage.poll(10, a=seen())
    (cursor,) = stage.owed(10)

    assert [(event.sequence, event.passes_to) for event in cursor.events] == [(2, 3)]
    stage.settle(10, tried(cursor, 10))
    assert stage.cursor(key, "a").acked == 3


def test_a_disabled_endpoint_gets_nothing_and_keeps_its_backlog(stage: Stage) -> None:
    stage.track("a")
    key = stage.subscribe()
    stage.poll(0, a=seen("p"))
    (cursor,) = stage.owed(0)
    stage.settle(0, tried(cursor, 0, GONE))
    stage.poll(10, a=seen("p", "q"))

    assert stage.owed(100) == []
    assert (stage.cursor(key, "a").acked, stage.cursor(key, "a").head) == (0, 3)
    stage.write(lambda connection: connection.execute(update(endpoints).values(state="active")))
    assert len(stage.deliver(200)) == 3


def test_a_held_endpoint_is_left_alone_until_then(stage: Stage) -> None:
    stage.track("a", "b")
    stage.subscribe()
    joined(stage, 0, "a", "b")
    first = by_room(stage.owed(0, seats=1))
    stage.settle(1, tried(next(iter(first.values())), 1, busy(60)))

    assert stage.owed(60.9) == []
    assert len(stage.owed(61)) == 2


def open_circuit(stage: Stage, names: list[str], seconds: float) -> None:
    claimed = stage.owed(seconds)
    assert len(claimed) == len(names)
    stage.settle(seconds, *(tried(cursor, seconds, TROUBLE) for cursor in claimed))


def test_an_open_circuit_gets_one_probe_at_a_time_and_the_rooms_take_turns(stage: Stage) -> None:
    names = [f"r{number}" for number in range(6)]
    stage.track(*names)
    key = stage.subscribe()
    joined(stage, 0, *names)
    open_circuit(stage, names, 1)
    (row,) = stage.rows(endpoints, "id")
    assert row.circuit == "open"
    asked = []
    for _ in range(6):
        now = (stage.rows(endpoints, "id")[0].held_until - at(0)).total_seconds()
        assert stage.owed(now - 0.01) == []
        (probe,) = stage.owed(now)
        assert stage.owed(now) == []
        assert len(probe.events) == 1
        asked.append(probe.room_id)
        stage.settle(now + 1, tried(probe, now + 1, TROUBLE))

    assert sorted(one or "" for one in asked) == names
    assert all(stage.cursor(key, name).acked == 0 for name in names)


def test_the_first_success_closes_the_circuit_and_all_is_due(stage: Stage) -> None:
    names = [f"r{number}" for number in range(6)]
    stage.track(*names)
    stage.subscribe()
    joined(stage, 0, *names)
    open_circuit(stage, names, 1)
    now = (stage.rows(endpoints, "id")[0].held_until - at(0)).total_seconds()
    (probe,) = stage.owed(now)
    (settled,) = stage.settle(now + 1, tried(probe, now + 1))

    assert settled.released
    assert len(stage.owed(now + 1)) == 6


def test_a_backlog_behind_a_dead_endpoint_costs_claims_nothing(stage: Stage) -> None:
    stage.track("dead", "live")
    key = stage.subscribe("dead", rooms=["dead"])
    stage.subscribe("live", rooms=["live"])
    joined(stage, 0, "dead")
    fill(stage, "dead", 10_000)
    (cursor,) = stage.owed(0)
    stage.settle(0, tried(cursor, 0, TROUBLE))
    joined(stage, 1, "live")

    assert lines(stage.owed(1)) == [("live", "live")]
    again = by_room(stage.owed(100))["dead"]
    assert len(again.events) == 1, "it may have to give way, to the one that is known behind it"
    assert again.behind is not None
    stage.settle(101, tried(again, 101))
    assert len(by_room(stage.owed(102))["dead"].events) == WINDOW
    assert stage.cursor(key, "dead").head > 10_000


def fill(stage: Stage, name: str, count: int) -> None:
    """A long log in one statement: what stands in it does not matter here."""
    room = stage.room(name)

    def write(connection: Connection) -> None:
        rows = [
            {
                "public_id": f"evt_{name}_{number}",
                "room_key": room.id,
                "sequence": room.last_sequence + number,
                "type": "peer.joined",
                "recorded_at": at(0),
                "body": b"{}",
                "hash": b"",
            }
            for number in range(1, count + 1)
        ]
        connection.execute(events.insert(), rows)
        last = room.last_sequence + count
        connection.execute(update(rooms).where(rooms.c.id == room.id).values(last_sequence=last))
        connection.execute(update(cursors).where(cursors.c.room_key == room.id).values(head=last))

    stage.write(write)


def test_claims_find_what_is_owed_by_the_index(sqlite_stage: Stage) -> None:
    stage = sqlite_stage
    plans: list[str] = []
    stage.track("a")
    stage.subscribe()
    stage.poll(0, a=seen("p"))

    def explain(connection: Connection) -> None:
        raw = cast("sqlite3.Connection", connection.connection.driver_connection)
        statements: list[str] = []
        raw.set_trace_callback(statements.append)
        claim_cursors(
            connection,
            seats=10,
            now=at(1),
            timeout=stage.policy.timeout,
            token="t",
            vault=stage.vault,
        )
        raw.set_trace_callback(None)
        for statement in statements:
            if "cursors" in statement:
                plans.extend(row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}"))

    stage.write(explain)

    assert [plan for plan in plans if plan.startswith("SCAN cursors")] == []
    assert any("ix_cursors_owed" in plan for plan in plans)


def test_an_endpoint_that_was_disabled_while_a_claim_waited_gets_nothing(postgresql_stage: Stage) -> None:
    stage = postgresql_stage
    stage.track("a")
    stage.subscribe()
    stage.poll(0, a=seen("p"))
    claimed: list[ClaimedCursor] = []
    with stage.database._writing.begin() as settling:
        settling.execute(update(endpoints).values(state="disabled"))
        claiming = threading.Thread(target=lambda: claimed.extend(stage.owed(1)), daemon=True)
        claiming.start()
        query = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        wait_until(
            lambda: stage.database.read_now(lambda connection: connection.execute(query).scalar_one()),
            what="the claim to wait for the endpoint",
        )
    claiming.join(10)

    assert lines(claimed) == []


def test_two_senders_never_get_the_same_line(postgresql_stage: Stage) -> None:
    stage = postgresql_stage
    names = [f"r{number}" for number in range(40)]
    stage.track(*names)
    stage.subscribe(max_concurrency=1000)
    joined(stage, 0, *names)
    claimed: list[ClaimedCursor] = []

    def take() -> None:
        while some := stage.owed(1, seats=5):
            claimed.extend(some)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(lines(claimed))) == len(claimed) == 40
    assert stage.settle(2, *(tried(cursor, 2, GOOD) for cursor in claimed))

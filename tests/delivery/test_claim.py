"""T3: the cursors that a claim gets."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, select, update

from bridge.db.cursors import EVENTS_AT_ONCE
from bridge.db.tables import endpoints, events
from bridge.delivery import claim as claim_module
from bridge.delivery.claim import ClaimedCursor
from bridge.delivery.endpoints import EndpointSpec, add_endpoint
from bridge.delivery.limits import RATE_ALLOWS
from bridge.rules.rate import BURST, Rate
from tests.harness.builders import at, seen
from tests.harness.deadlocks import any_waits_for_a_lock
from tests.harness.store_driver import GOOD, RETRYABLE, SECRET, StoreDriver, attempted, busy, by_room
from tests.harness.waiting import wait_until


def cursor_names(claimed: list[ClaimedCursor]) -> list[tuple[str, str | None]]:
    return [(cursor.target.name, cursor.room_id) for cursor in claimed]


def test_a_claim_has_the_events_in_order_and_the_target(store: StoreDriver) -> None:
    store.track("a")
    store.subscribe(
        url="https://crm.example.com/x", headers={"X-Auth": "yes"}, timeout=timedelta(seconds=3), events=["peer.*"]
    )
    store.poll(0, a=seen("p", "q"))
    (cursor,) = store.owed(1, token="mine")

    assert (cursor.token, cursor.acked, cursor.reach, cursor.room_id) == ("mine", 1, 3, "a")
    assert [event.sequence for event in cursor.events] == [2, 3]
    assert [event.acks_to for event in cursor.events] == [2, 3]
    assert [event.body for event in cursor.events] == [
        bytes(row.body) for row in store.rows(events, "sequence") if row.type == "peer.joined"
    ]
    target = cursor.target
    assert (target.url, target.headers, target.secrets) == ("https://crm.example.com/x", {"X-Auth": "yes"}, (SECRET,))
    assert SECRET not in repr(cursor)
    assert "X-Auth" not in repr(cursor)


def test_a_claimed_cursor_is_claimed_again_once_its_claim_is_freed(store: StoreDriver) -> None:
    store.subscribe()
    store.record_joins(0, "a")
    assert len(store.owed(1)) == 1

    assert store.owed(3600) == []
    store.lose_claims()
    assert cursor_names(store.owed(1)) == [("crm", "a")]


def test_unwanted_events_are_acknowledged_with_the_wanted_one_before(store: StoreDriver) -> None:
    store.track("a")
    store.subscribe(events=["peer.left", "room.empty"])
    store.poll(0, a=seen("p", "q"))
    store.poll(10, a=seen("q"))
    store.poll(20, a=seen("q", "r"))
    store.poll(30, a=seen())
    (cursor,) = store.owed(30)

    assert store.event_types("a")[3:] == ["peer.left", "peer.joined", "peer.left", "peer.left", "room.empty"]
    assert [(event.sequence, event.acks_to) for event in cursor.events] == [(4, 5), (6, 6), (7, 7), (8, 8)]
    assert (cursor.acked, cursor.reach) == (3, 8)


def test_a_claim_reads_no_further_than_its_window(store: StoreDriver) -> None:
    store.subscribe()
    store.record_joins(0, "a", people=3 * EVENTS_AT_ONCE)
    (cursor,) = store.owed(1)

    assert [event.sequence for event in cursor.events] == list(range(1, EVENTS_AT_ONCE + 1))
    assert cursor.reach == EVENTS_AT_ONCE
    store.lose_claims()
    assert len(store.deliver(1 + 100)) == 3 * EVENTS_AT_ONCE + 1


def test_the_endpoint_that_has_waited_longest_comes_first(store: StoreDriver) -> None:
    store.subscribe("late", rooms=["b"])
    store.subscribe("early", rooms=["a"])
    store.record_joins(0, "a")
    store.record_joins(5, "b")

    assert cursor_names(store.owed(10, slots=1)) == [("early", "a")]
    assert cursor_names(store.owed(10, slots=1)) == [("late", "b")]


def test_max_concurrency_limits_the_cursors_of_an_endpoint(store: StoreDriver) -> None:
    store.subscribe(max_concurrency=2)
    store.record_joins(0, "a", "b", "c", "d")

    first = store.owed(1)
    assert len(first) == 2
    assert store.owed(1) == []
    store.report(2, attempted(first[0], 2, index=0))
    assert len(store.owed(2)) == 1


def test_max_concurrency_is_exact_over_two_senders(postgresql_store: StoreDriver) -> None:
    store = postgresql_store
    names = [f"r{number}" for number in range(30)]
    store.subscribe("one", max_concurrency=3)
    store.subscribe("two", max_concurrency=5)
    store.record_joins(0, *names)
    claimed: list[ClaimedCursor] = []
    threads = [threading.Thread(target=lambda: claimed.extend(store.owed(1, slots=4))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    claimed += store.owed(1)

    assert len(set(cursor_names(claimed))) == len(claimed) == 8
    assert sum(name == "one" for name, _ in cursor_names(claimed)) == 3


@pytest.mark.parametrize("rate", [2, 10, 40])
def test_two_senders_share_one_rate(store: StoreDriver, rate: float) -> None:
    names = [f"r{number}" for number in range(100)]
    store.subscribe(rate_per_second=rate, max_concurrency=1000)
    store.record_joins(0, *names)
    sent = 0
    for tick in range(21):
        for _ in ("one sender", "the other"):
            claimed = store.owed(60 + tick * 0.1)
            assert all(len(cursor.events) == 1 for cursor in claimed)
            sent += len(claimed)

    burst = max(1, int(0.25 * rate))
    assert int(2 * rate) <= sent <= int(2 * rate) + burst


def test_rooms_take_turns_under_a_rate(store: StoreDriver) -> None:
    store.subscribe(rate_per_second=1)
    store.record_joins(0, "a", "b", "c", people=1)
    sent = []
    for second in range(1, 7):
        (cursor,) = store.owed(second)
        sent.append((cursor.room_id, cursor.events[0].sequence))
        store.report(second, attempted(cursor, second))

    assert sent == [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("c", 2)]


@pytest.mark.parametrize("limit", [{"max_concurrency": 1}, {"rate_per_second": 0.1}], ids=["cursors", "rate"])
def test_an_endpoint_at_its_limit_takes_no_slot(
    store: StoreDriver, limit: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_module, "EXTRA_ENDPOINTS", 0)
    store.subscribe("full", rooms=["a", "b"], **limit)
    store.subscribe("free", rooms=["c"])
    store.record_joins(0, "a", "b")
    store.record_joins(5, "c")
    assert cursor_names(store.owed(6, slots=1)) == [("full", "a")]

    assert cursor_names(store.owed(7, slots=1)) == [("free", "c")]


def test_an_open_circuit_whose_probe_is_under_way_takes_no_slot(
    store: StoreDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_module, "EXTRA_ENDPOINTS", 0)
    names = [f"r{number}" for number in range(5)]
    store.subscribe("down", rooms=names)
    store.subscribe("live", rooms=["other"])
    store.record_joins(0, *names)
    open_circuit(store, names, 1)
    now = (store.rows(endpoints, "id")[0].paused_until - at(0)).total_seconds()
    assert [cursor.target.name for cursor in store.owed(now, slots=1)] == ["down"]
    store.record_joins(now + 1, "other")

    assert cursor_names(store.owed(now + 2, slots=1)) == [("live", "other")]


def test_one_event_at_a_time_under_a_rate_acknowledges_unwanted_ones_behind_it(store: StoreDriver) -> None:
    store.track("a")
    key = store.subscribe(rate_per_second=5, events=["peer.joined", "room.empty"])
    store.poll(0, a=seen("p"))
    store.poll(10, a=seen())
    (cursor,) = store.owed(10)

    assert [(event.sequence, event.acks_to) for event in cursor.events] == [(2, 3)]
    store.report(10, attempted(cursor, 10))
    assert store.cursor(key, "a").acked == 3


@given(
    rate=st.sampled_from([0, 0.5, 1, 4, 20, 100]),
    next_at=st.none() | st.timedeltas(timedelta(seconds=-2), timedelta(seconds=2)),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_rate_condition_in_sql_agrees_with_the_rule(
    store: StoreDriver, rate: float, next_at: timedelta | None
) -> None:
    rule = Rate(rate)
    next_delivery_at = None if next_at is None else at(100) + min(next_at, rule.spacing + BURST)

    def allows(connection: Connection) -> bool:
        connection.execute(delete(endpoints))
        spec = EndpointSpec(name="crm", url="https://crm.example.com/", rate_per_second=rate)
        add_endpoint(connection, spec, store.context())
        connection.execute(update(endpoints).values(next_delivery_at=next_delivery_at))
        allowed = connection.execute(select(endpoints.c.id).where(RATE_ALLOWS), {"now": at(100)})
        return allowed.one_or_none() is not None

    assert store.write(allows) == (rule.available(next_delivery_at, at(100)) > 0)


def test_after_a_failure_one_event_is_claimed_until_it_succeeds(store: StoreDriver) -> None:
    store.subscribe()
    store.record_joins(0, "a")
    (cursor,) = store.owed(0)
    store.report(0, attempted(cursor, 0, RETRYABLE))
    (again,) = store.owed(100)
    assert [event.sequence for event in again.events] == [1]
    store.report(101, attempted(again, 101))

    assert [event.sequence for event in store.owed(102)[0].events] == [2, 3]


def test_a_paused_endpoint_gets_nothing_until_the_end_of_its_pause(store: StoreDriver) -> None:
    store.subscribe()
    store.record_joins(0, "a", "b")
    first = by_room(store.owed(0, slots=1))
    store.report(1, attempted(next(iter(first.values())), 1, busy(60)))

    assert store.owed(60.9) == []
    assert len(store.owed(61)) == 2


def open_circuit(store: StoreDriver, names: list[str], seconds: float) -> None:
    claimed = store.owed(seconds)
    assert len(claimed) == len(names)
    store.report(seconds, *(attempted(cursor, seconds, RETRYABLE) for cursor in claimed))


def test_an_open_circuit_gets_one_probe_at_a_time_and_the_rooms_take_turns(store: StoreDriver) -> None:
    names = [f"r{number}" for number in range(6)]
    key = store.subscribe()
    store.record_joins(0, *names)
    open_circuit(store, names, 1)
    (row,) = store.rows(endpoints, "id")
    assert row.circuit == "open"
    probed = []
    for _ in range(6):
        now = (store.rows(endpoints, "id")[0].paused_until - at(0)).total_seconds()
        assert store.owed(now - 0.01) == []
        (probe,) = store.owed(now)
        assert store.owed(now) == []
        assert len(probe.events) == 1
        probed.append(probe.room_id)
        store.report(now + 1, attempted(probe, now + 1, RETRYABLE))

    assert sorted(one or "" for one in probed) == names
    assert all(store.cursor(key, name).acked == 0 for name in names)


def test_an_endpoint_that_was_disabled_while_a_claim_waited_gets_nothing(postgresql_store: StoreDriver) -> None:
    store = postgresql_store
    store.subscribe()
    store.record_joins(0, "a")
    claimed: list[ClaimedCursor] = []
    with store.database._writing.begin() as disabling:
        disabling.execute(update(endpoints).values(state="disabled"))
        claiming = threading.Thread(target=lambda: claimed.extend(store.owed(1)), daemon=True)
        claiming.start()
        wait_until(lambda: any_waits_for_a_lock(store.database), what="the claim to wait for the endpoint")
    claiming.join(10)

    assert cursor_names(claimed) == []


def test_two_senders_never_claim_the_same_cursor(postgresql_store: StoreDriver) -> None:
    store = postgresql_store
    names = [f"r{number}" for number in range(40)]
    store.subscribe(max_concurrency=1000)
    store.record_joins(0, *names)
    claimed: list[ClaimedCursor] = []

    def take() -> None:
        while some := store.owed(1, slots=5):
            claimed.extend(some)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(cursor_names(claimed))) == len(claimed) == 40
    assert store.report(2, *(attempted(cursor, 2, GOOD) for cursor in claimed))

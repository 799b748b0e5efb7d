"""A clock that was put back: nothing waits until it has caught up."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Table, update

from bridge.admin.clock import (
    clock_lag,
    longest_wait,
    make_everything_due,
    make_impossible_due,
    waits_impossibly,
)
from bridge.admin.due import find_due_work
from bridge.db.tables import cursors, endpoints, jobs, redeliveries, rooms, sources
from bridge.delivery.replay import Range, find_range, request_some
from bridge.polling.discovery import configure_discovery
from bridge.rules.delivery import DeliveryPolicy
from bridge.rules.presence import FailureKind
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import RETRYABLE, StoreDriver, attempted, busy, failed

HOUR = 3600
DAY = 24 * HOUR


def with_backlog(store: StoreDriver) -> int:
    store.track("a")
    key = store.subscribe()
    store.poll(0, a=seen(peer("p", 0)))
    return key


def set_times(store: StoreDriver, table: Table, **times: object) -> None:
    store.write(lambda connection: connection.execute(update(table).values(**times)))


def test_rooms_are_due(store: StoreDriver) -> None:
    with_backlog(store)
    assert store.claim(-HOUR) == []
    store.write(make_everything_due, at(-HOUR))
    assert [room.upstream_id for room in store.claim(-HOUR)] == ["a"]


def test_lists_of_live_rooms_are_due(store: StoreDriver) -> None:
    store.write(configure_discovery, {"main"}, at(0))
    assert not store.database.read_now(find_due_work, at(-HOUR)).lists
    store.write(make_everything_due, at(-HOUR))
    assert store.database.read_now(find_due_work, at(-HOUR)).lists


def test_cursors_that_wait_for_a_retry_are_due(store: StoreDriver) -> None:
    with_backlog(store)
    (cursor,) = store.owed(1)
    store.report(1, attempted(cursor, 1, RETRYABLE))
    assert store.owed(-HOUR) == []
    store.write(make_everything_due, at(-HOUR))
    assert len(store.owed(-HOUR)) == 1


def test_claims_stay(store: StoreDriver) -> None:
    with_backlog(store)
    assert len(store.owed(1)) == 1
    store.write(make_everything_due, at(-HOUR))
    assert store.owed(-HOUR) == []


def test_redeliveries_are_due(store: StoreDriver) -> None:
    key = with_backlog(store)
    wanted = store.database.read_now(find_range, key, Range())
    store.write(request_some, wanted, 0, at(1))
    store.write(make_everything_due, at(-HOUR))

    assert {row.next_attempt_at for row in store.rows(redeliveries)} == {at(-HOUR)}


def test_unavailable_sources_and_open_circuits_are_probed(store: StoreDriver) -> None:
    store.track(*"abcde")
    store.subscribe()
    store.poll(0, **{name: seen(peer("p", 0)) for name in "abcde"})
    store.report(1, *(attempted(cursor, 1, RETRYABLE) for cursor in store.owed(1)))
    store.record(store.claim(10), lambda _: failed(FailureKind.UNAUTHORIZED), 10)
    assert [row.circuit for row in store.rows(endpoints)] == ["open"]
    store.write(make_everything_due, at(-HOUR))

    assert (len(store.claim(-HOUR)), len(store.owed(-HOUR))) == (1, 1)


def test_the_retry_after_of_an_endpoint_stays(store: StoreDriver) -> None:
    with_backlog(store)
    (cursor,) = store.owed(1)
    store.report(1, attempted(cursor, 1, busy(60)))
    store.write(make_everything_due, at(-HOUR))

    assert store.owed(-HOUR) == []
    assert len(store.owed(61)) == 1


@pytest.mark.parametrize(("now", "ends"), [(2 * HOUR - DAY, HOUR), (-365 * DAY, -365 * DAY)])
def test_pauses_that_others_asked_for_stay_unless_none_is_so_long(store: StoreDriver, now: float, ends: float) -> None:
    with_backlog(store)
    set_times(store, endpoints, paused_until=at(HOUR), redeliveries_paused_until=at(HOUR))
    set_times(store, sources, paused_until=at(HOUR), condition="rate_limited")
    store.write(make_everything_due, at(now))

    (endpoint,), (source,) = store.rows(endpoints), store.rows(sources)
    assert {endpoint.paused_until, endpoint.redeliveries_paused_until, source.paused_until} == {at(ends)}


def test_spent_rates_are_available_again(store: StoreDriver) -> None:
    store.track("a", "b")
    store.subscribe(rate_per_second=1)
    store.poll(0, a=seen("p"), b=seen("p"))
    assert (len(store.claim(10, rate=20)), len(store.owed(10))) == (2, 1)
    store.write(make_everything_due, at(-HOUR))

    assert [row.next_delivery_at for row in store.rows(endpoints)] == [at(-HOUR)]
    assert [row.next_request_at for row in store.rows(sources)] == [at(-HOUR)]
    assert len(store.owed(-HOUR)) == 1


def test_only_times_beyond_every_rule_are_due(store: StoreDriver) -> None:
    key = with_backlog(store)
    set_times(store, cursors, next_attempt_at=at(DAY))
    longest = longest_wait(timedelta(seconds=10), DeliveryPolicy())
    store.write(configure_discovery, {"main"}, at(0))
    for late in (rooms.c.next_poll_at, cursors.c.next_attempt_at, endpoints.c.paused_until, jobs.c.next_run_at):
        set_times(store, late.table, **{late.name: at(2 * DAY)})
        assert store.database.read_now(waits_impossibly, at(0) + longest)
        store.write(make_impossible_due, at(0), longest)
        assert {getattr(row, late.name) for row in store.rows(late.table)} == {at(0)}
        assert not store.database.read_now(waits_impossibly, at(0) + longest)

    set_times(store, rooms, next_poll_at=at(2 * DAY), interval_seconds=2.0 * DAY)
    set_times(store, endpoints, paused_until=at(DAY - 1), id=key)
    store.write(make_impossible_due, at(0), longest)
    assert ({row.next_poll_at for row in store.rows(rooms)}, store.rows(endpoints)[0].paused_until) == (
        {at(2 * DAY)},
        at(DAY - 1),
    )


def test_the_lag_of_a_clock_is_seen_in_what_was_recorded(store: StoreDriver) -> None:
    assert store.database.read_now(clock_lag, at(0)) == timedelta()
    with_backlog(store)

    assert store.database.read_now(clock_lag, at(-5)) == timedelta()
    assert store.database.read_now(clock_lag, at(-HOUR)) == timedelta(hours=1)

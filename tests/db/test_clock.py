"""A clock that is put back: nothing waits until it has caught up."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Table, update

from bridge.db.clock import forgive_clock
from bridge.db.tables import endpoints, redeliveries, sources
from bridge.delivery.replay import Range, find_range, request_some
from bridge.rules.delivery import RETRY_AFTER_CAP
from bridge.rules.polling import RETRY_AFTER_LIMIT
from bridge.rules.presence import FailureKind
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import RETRYABLE, StoreDriver, busy, failed, tried

HOUR = 3600
DAY = 24 * HOUR


def owing(store: StoreDriver) -> int:
    store.track("a")
    key = store.subscribe()
    store.poll(0, a=seen(peer("p", 0)))
    return key


def test_rooms_are_polled_at_once(store: StoreDriver) -> None:
    owing(store)
    assert store.claim(-HOUR) == []
    store.write(forgive_clock, at(-HOUR))
    assert [room.upstream_id for room in store.claim(-HOUR)] == ["a"]


def test_what_was_to_be_retried_is_retried_at_once(store: StoreDriver) -> None:
    owing(store)
    (cursor,) = store.owed(1)
    store.settle(1, tried(cursor, 1, RETRYABLE))
    assert store.owed(-HOUR) == []
    store.write(forgive_clock, at(-HOUR))
    assert len(store.owed(-HOUR)) == 1


def test_what_an_endpoint_asked_for_stands(store: StoreDriver) -> None:
    owing(store)
    (cursor,) = store.owed(1)
    store.settle(1, tried(cursor, 1, busy(60)))
    store.write(forgive_clock, at(-HOUR))
    assert store.owed(-HOUR) == []
    assert len(store.owed(61)) == 1


def test_what_somebody_is_working_on_stays_theirs(store: StoreDriver) -> None:
    owing(store)
    assert len(store.owed(1)) == 1
    store.write(forgive_clock, at(-HOUR))
    assert store.owed(-HOUR) == []


def set_times(store: StoreDriver, table: Table, **times: object) -> None:
    store.write(lambda connection: connection.execute(update(table).values(**times)))


def test_what_was_asked_for_ends_at_the_latest_as_if_it_had_been_asked_for_now(store: StoreDriver) -> None:
    """A clock that was put back by a year would else make a pause of an hour one of a year."""
    owing(store)
    set_times(store, endpoints, paused_until=at(HOUR), redeliveries_paused_until=at(HOUR))
    set_times(store, sources, paused_until=at(HOUR), condition="rate_limited")
    store.write(forgive_clock, at(-365 * DAY))

    (endpoint,), (source,) = store.rows(endpoints), store.rows(sources)
    assert endpoint.paused_until == endpoint.redeliveries_paused_until == at(-365 * DAY) + RETRY_AFTER_CAP
    assert source.paused_until == at(-365 * DAY) + RETRY_AFTER_LIMIT
    assert RETRY_AFTER_CAP == RETRY_AFTER_LIMIT == timedelta(hours=24)


def test_what_was_asked_for_within_a_day_stands_to_the_second(store: StoreDriver) -> None:
    owing(store)
    set_times(store, endpoints, paused_until=at(HOUR), redeliveries_paused_until=at(HOUR))
    set_times(store, sources, paused_until=at(HOUR), condition="rate_limited")
    store.write(forgive_clock, at(2 * HOUR - DAY))

    (endpoint,), (source,) = store.rows(endpoints), store.rows(sources)
    assert endpoint.paused_until == endpoint.redeliveries_paused_until == source.paused_until == at(HOUR)


def test_what_was_spent_of_a_rate_is_forgiven(store: StoreDriver) -> None:
    store.track("a", "b")
    store.subscribe(rate_per_second=1)
    store.poll(0, a=seen("p"), b=seen("p"))
    assert (len(store.claim(10, rate=20)), len(store.owed(10))) == (2, 1)
    store.write(forgive_clock, at(-HOUR))

    assert [row.rate_at for row in store.rows(endpoints)] == [at(-HOUR)]
    assert [row.budget_at for row in store.rows(sources)] == [at(-HOUR)]
    assert len(store.owed(-HOUR)) == 1


def test_what_is_to_be_sent_again_is_due_at_once(store: StoreDriver) -> None:
    key = owing(store)
    wanted = store.database.read_now(find_range, key, Range())
    store.write(request_some, wanted, 0, at(1))
    store.write(forgive_clock, at(-HOUR))

    assert {row.next_attempt_at for row in store.rows(redeliveries)} == {at(-HOUR)}


def test_sources_and_endpoints_in_trouble_are_probed_at_once(store: StoreDriver) -> None:
    store.track(*"abcde")
    store.subscribe()
    store.poll(0, **{name: seen(peer("p", 0)) for name in "abcde"})
    store.settle(1, *(tried(cursor, 1, RETRYABLE) for cursor in store.owed(1)))
    store.record(store.claim(10), lambda _: failed(FailureKind.UNAUTHORIZED), 10)
    assert [row.circuit for row in store.rows(endpoints)] == ["open"]
    store.write(forgive_clock, at(-HOUR))

    assert (len(store.claim(-HOUR)), len(store.owed(-HOUR))) == (1, 1)

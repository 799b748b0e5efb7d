"""Due work and the next due time: no more than a claim would find, and nothing of it late."""

from __future__ import annotations

from sqlalchemy import update

from bridge.admin.due import DueWork, find_due_work
from bridge.db.tables import sources
from bridge.delivery.claim import claim_redeliveries
from bridge.delivery.endpoints import disable_endpoint, enable_endpoint
from bridge.delivery.replay import request_events
from bridge.rules.presence import FailureKind
from tests.harness.builders import at, seen
from tests.harness.store_driver import RETRYABLE, StoreDriver, failed

MAIN = frozenset({"main"})
NOTHING = DueWork()


def due(store: StoreDriver, seconds: float, *, polls: bool = True, deliveries: bool = True) -> DueWork:
    return store.database.look_now(find_due_work, at(seconds), polls=polls, deliveries=deliveries)


def test_a_room_is_due_at_its_time_which_is_known_before(store: StoreDriver) -> None:
    store.track("a", "b")
    assert due(store, 0) == DueWork(sources=MAIN, next_at=at(0))
    store.claim(0, limit=1)
    assert due(store, 0).sources == MAIN
    store.claim(0)
    assert due(store, 0) == NOTHING
    store.lose_claims()
    store.poll(0, a=seen("p"), b=seen())

    assert due(store, 5) == NOTHING
    assert due(store, 9.5) == DueWork(next_at=at(10))
    assert due(store, 10) == DueWork(sources=MAIN, next_at=at(10))
    assert due(store, 10, polls=False) == NOTHING


def test_each_source_has_its_own_time(store: StoreDriver) -> None:
    store.track("a")
    store.track("b", source="second", seconds=0.5)

    assert due(store, 0) == DueWork(sources=MAIN, next_at=at(0))
    assert due(store, 0.5).sources == {"main", "second"}


def test_a_paused_source_is_due_at_the_end_of_the_pause_and_has_one_probe(store: StoreDriver) -> None:
    store.track("a", "b")
    (room,) = store.claim(0, limit=1)
    store.record([room], lambda _: failed(FailureKind.RATE_LIMITED, retry_after=30), 0)

    assert due(store, 29.5) == DueWork(next_at=at(30))
    assert due(store, 30).sources == MAIN
    assert len(store.claim(30)) == 1
    assert due(store, 30) == NOTHING


def test_a_spent_budget_shows_when_the_next_request_is_allowed(store: StoreDriver) -> None:
    store.track("a", "b")
    assert len(store.claim(0, rate=1)) == 1

    assert due(store, 0.2) == DueWork(next_at=at(1))
    assert due(store, 1).sources == MAIN
    far = update(sources).values(next_request_at=at(3600))
    store.write(lambda connection: connection.execute(far))
    assert due(store, 1).sources == MAIN, "another clock set it"


def test_an_event_is_due_for_an_active_endpoint_and_a_retry_at_its_time(store: StoreDriver) -> None:
    key = store.subscribe()
    store.track("a")
    store.poll(0, a=seen("p"))
    assert due(store, 0) == DueWork(deliveries=True, next_at=at(0))
    assert due(store, 0, deliveries=False) == NOTHING
    store.write(disable_endpoint, "crm")
    assert due(store, 0) == NOTHING
    store.write(enable_endpoint, "crm", at(0))
    store.deliver(0, lambda *_: RETRYABLE)
    retry_at = store.cursor(key, "a").next_attempt_at

    seconds = (retry_at - at(0)).total_seconds()
    assert due(store, seconds - 0.1) == DueWork(next_at=retry_at)
    assert due(store, seconds).deliveries


def test_limits_of_an_endpoint_count(store: StoreDriver) -> None:
    store.subscribe(max_concurrency=1)
    store.track("a", "b")
    store.poll(0, a=seen("p"), b=seen("q"))
    (cursor,) = store.owed(0)
    assert due(store, 0) == NOTHING
    store.deliver_cursor(cursor, 0, lambda *_: RETRYABLE)
    assert due(store, 0) == DueWork(deliveries=True, next_at=at(0))


def test_a_spent_rate_shows_when_the_next_attempt_is_allowed(store: StoreDriver) -> None:
    store.subscribe(rate_per_second=2)
    store.track("a", "b")
    store.poll(0, a=seen("p"), b=seen("q"))
    assert len(store.owed(0)) == 1

    assert due(store, 0.1) == DueWork(next_at=at(0.5))
    assert due(store, 0.5).deliveries


def test_a_redelivery_is_due_until_a_sender_works_on_those_of_its_endpoint(store: StoreDriver) -> None:
    key = store.subscribe()
    store.track("a")
    store.poll(0, a=seen("p"))
    first, second = store.deliver(0)
    store.write(request_events, key, [first], at(5))
    assert due(store, 5) == DueWork(redeliveries=True, next_at=at(5))
    store.write(disable_endpoint, "crm")
    assert due(store, 5).redeliveries, "that is how a disabled endpoint is tried out"
    store.write(claim_redeliveries, store.terms(5))
    store.write(request_events, key, [second], at(5))
    assert due(store, 5) == NOTHING

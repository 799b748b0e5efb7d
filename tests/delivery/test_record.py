"""T4: the changes of cursors and endpoints after attempts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from bridge.db.tables import endpoints
from bridge.delivery.plan import Disabled, Fenced, Moved, Waiting
from bridge.delivery.record import record_attempts
from bridge.errors import DatabaseError
from bridge.rules.delivery import Cause, DeadLetterReason, DeliveryPolicy, DisableReason, Outcome, PostResult
from tests.harness.builders import at
from tests.harness.statements import executed_statements
from tests.harness.store_driver import GONE, GOOD, REJECTED, RETRYABLE, StoreDriver, attempted, busy


def with_backlog(store: StoreDriver, *names: str, people: int = 2, **spec: Any) -> int:  # noqa: ANN401 - fields of EndpointSpec
    """An endpoint that is owed `people` joins in each of these rooms (and one event more)."""
    key = store.subscribe(**spec)
    store.record_joins(0, *names, people=people)
    return key


def test_a_success_acknowledges_and_keeps_the_claim_for_the_next_event_or_releases_it(store: StoreDriver) -> None:
    key = with_backlog(store, "a")
    (cursor,) = store.owed(1, token="mine")

    assert store.report(2, attempted(cursor, 2, wants_next=True)) == [Moved(keeps_claim=True, owes_more=False)]
    row = store.cursor(key, "a")
    assert (row.acked, row.claim_token, store.owed(3)) == (1, "mine", [])
    last = attempted(cursor, 3, index=1, acked=1)
    assert store.report(3, last) == [Moved(keeps_claim=False, owes_more=True)]
    row = store.cursor(key, "a")
    assert (row.acked, row.claim_token) == (2, None)
    assert [event.sequence for event in store.owed(3)[0].events] == [3]


def test_an_attempt_is_stored_with_its_result(store: StoreDriver) -> None:
    key = with_backlog(store, "a")
    (cursor,) = store.owed(1)
    result = PostResult(
        outcome=Outcome.RETRYABLE,
        duration=timedelta(seconds=1.5),
        status=503,
        cause=Cause.STATUS,
        detail="status 503\x00",
        response=b"\x00\xff" + b"x" * 5000,
    )
    store.report(2, attempted(cursor, 2, result))

    (row,) = store.attempts()
    assert (row.endpoint_key, row.event_key, row.started_at) == (key, cursor.events[0].key, at(2))
    assert (row.outcome, row.status, row.cause, row.duration_seconds) == ("retryable", 503, "status", 1.5)
    assert "\x00" not in row.detail + row.response
    assert len(row.response) == 1024


def test_a_rejected_event_becomes_a_dead_letter_and_the_room_goes_on(store: StoreDriver) -> None:
    key = with_backlog(store, "a")
    now = 1.0
    for wait in (5, 300):
        (cursor,) = store.owed(now)
        (recorded,) = store.report(now, attempted(cursor, now, REJECTED))
        assert recorded == Waiting(retry_at=at(now + wait))
        now += wait
    (cursor,) = store.owed(now)
    (recorded,) = store.report(now, attempted(cursor, now, REJECTED, wants_next=True))

    assert recorded == Moved(keeps_claim=True, owes_more=False, dead_letter=DeadLetterReason.REJECTED)
    (dead,) = store.dead_letters()
    assert (dead.endpoint_key, dead.event_key, dead.reason, dead.tries) == (key, cursor.events[0].key, "rejected", 3)
    row = store.cursor(key, "a")
    assert (row.acked, row.rejections, row.failed_attempts) == (1, 0, 0)


def test_gone_disables_at_once_and_keeps_the_backlog(store: StoreDriver) -> None:
    key = with_backlog(store, "a", "b")
    other = store.subscribe("other", events=["endpoint.*"])
    first, second = store.owed(1)
    (recorded,) = store.report(2, attempted(first, 2, GONE, wants_next=True))

    assert recorded == Disabled(reason=DisableReason.GONE)
    row = next(row for row in store.rows(endpoints, "id") if row.id == key)
    assert (row.state, row.state_reason) == ("disabled", "gone")
    assert store.cursor(key, "a").acked == 0
    assert store.event_types(None) == ["endpoint.disabled"]
    assert store.cursor(other, None).head == 1
    assert store.cursor(key, None) is None, "not announced to the endpoint itself"
    store.report(3, attempted(second, 3, GONE))
    assert store.event_types(None) == ["endpoint.disabled"]


def test_nothing_is_written_for_a_claim_that_was_lost(store: StoreDriver) -> None:
    key = with_backlog(store, "a")
    (stale,) = store.owed(1)
    store.lose_claims()
    (current,) = store.owed(2)
    (recorded,) = store.report(3, attempted(stale, 3, wants_next=True))

    assert recorded == Fenced()
    row = store.cursor(key, "a")
    assert (row.acked, row.claim_token) == (0, current.token)
    assert store.attempts() == []


def test_an_attempt_at_a_removed_endpoint_is_fenced(store: StoreDriver) -> None:
    key = with_backlog(store, "a")
    (cursor,) = store.owed(1)
    store.write(lambda connection: connection.execute(endpoints.delete().where(endpoints.c.id == key)))
    (recorded,) = store.report(2, attempted(cursor, 2))

    assert recorded == Fenced()


def test_a_batch_is_written_whole_or_not_at_all(store: StoreDriver) -> None:
    key = with_backlog(store, "a", "b")
    store.subscribe("other", events=["endpoint.*"])
    first, second = store.owed(1)
    taken = store.log("a")[0]["id"]

    with pytest.raises(DatabaseError):
        store.write(
            record_attempts,
            [attempted(first, 2), attempted(second, 2, GONE)],
            policy=store.policy,
            new_id=lambda _: taken,
        )

    assert store.attempts() == []
    assert [store.cursor(key, name).acked for name in ("a", "b")] == [0, 0]
    assert {row.state for row in store.rows(endpoints, "id")} == {"active"}


@pytest.mark.parametrize(
    ("result", "wants_next"),
    [(GOOD, True), (GOOD, False), (RETRYABLE, False), (REJECTED, True), (GONE, False), (busy(60), False)],
    ids=["good, wants the next", "good", "retryable", "dead letter", "gone", "busy"],
)
def test_a_batch_of_a_hundred_cursors_executes_as_many_statements_as_one_of_two(
    store: StoreDriver, result: PostResult, *, wants_next: bool
) -> None:
    store.policy = DeliveryPolicy(refused_schedule=())
    store.subscribe("other", events=["endpoint.*"], rooms=["none"])
    _, few, many = (statements_of_batch(store, size, result, wants_next=wants_next) for size in (1, 2, 100))

    assert few == many <= 14, "the first one begins the bridge's own log"
    assert [letter.tries for letter in store.dead_letters()] == ([1] * 103 if result is REJECTED else [])


def statements_of_batch(store: StoreDriver, size: int, result: PostResult, *, wants_next: bool = False) -> int:
    """The number of statements that record an attempt at each of so many cursors, with an open circuit."""
    names = [f"{size}-{number}" for number in range(size)]
    with_backlog(store, *names, name=f"crm{size}", rooms=[f"{size}-*"], max_concurrency=1000)
    claimed = [cursor for cursor in store.owed(1) if cursor.room_id in names]
    store.write(lambda connection: connection.execute(update(endpoints).values(circuit="open", failing_since=at(0))))
    with executed_statements(store.database) as statements:
        store.report(2, *(attempted(cursor, 2, result, wants_next=wants_next) for cursor in claimed))
    assert len(store.attempts()) >= size
    return len(statements)


def test_a_recovery_is_announced_to_other_endpoints_and_makes_the_backlog_due(store: StoreDriver) -> None:
    names = [f"r{number}" for number in range(5)]
    key = with_backlog(store, *names)
    store.subscribe("other", events=["endpoint.*"], rooms=["none"])
    store.report(2, *(attempted(cursor, 2, RETRYABLE) for cursor in store.owed(1)))
    (probe,) = [one for one in store.owed(3600) if one.target.key == key]
    (recorded,) = store.report(3601, attempted(probe, 3601))

    assert isinstance(recorded, Moved)
    assert store.event_types(None) == ["endpoint.recovered"]
    assert store.log(None)[0]["data"]["since"] == "2026-11-23T09:00:02.000Z"
    assert {store.cursor(key, name).failed_attempts for name in names} <= {0, 1}
    assert len([one for one in store.owed(3601) if one.target.key == key]) == 5

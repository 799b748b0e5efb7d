"""A clock that is put back: nothing waits until it has caught up."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Table, update

from bridge.pacing import RETRY_AFTER_LIMIT
from bridge.presence import FailureKind
from bridge.store.clock import forgive_clock
from bridge.store.replays import Range, find_range, request_some
from bridge.store.tables import endpoints, redeliveries, sources
from bridge.webhooks.delivery import RETRY_AFTER_CAP
from tests.store.stage import TROUBLE, Stage, at, busy, failed, peer, seen, tried

HOUR = 3600
DAY = 24 * HOUR


def owing(stage: Stage) -> int:
    stage.track("a")
    key = stage.subscribe()
    stage.poll(0, a=seen(peer("p", 0)))
    return key


def test_rooms_are_polled_at_once(stage: Stage) -> None:
    owing(stage)
    assert stage.claim(-HOUR) == []
    stage.write(forgive_clock, at(-HOUR))
    assert [room.upstream_id for room in stage.claim(-HOUR)] == ["a"]


def test_what_was_to_be_retried_is_retried_at_once(stage: Stage) -> None:
    owing(stage)
    (cursor,) = stage.owed(1)
    stage.settle(1, tried(cursor, 1, TROUBLE))
    assert stage.owed(-HOUR) == []
    stage.write(forgive_clock, at(-HOUR))
    assert len(stage.owed(-HOUR)) == 1


def test_what_an_endpoint_asked_for_stands(stage: Stage) -> None:
    owing(stage)
    (cursor,) = stage.owed(1)
    stage.settle(1, tried(cursor, 1, busy(60)))
    stage.write(forgive_clock, at(-HOUR))
    assert stage.owed(-HOUR) == []
    assert len(stage.owed(61)) == 1


def test_what_somebody_is_working_on_stays_theirs(stage: Stage) -> None:
    owing(stage)
    assert len(stage.owed(1)) == 1
    stage.write(forgive_clock, at(-HOUR))
    assert stage.owed(-HOUR) == []


def set_times(stage: Stage, table: Table, **times: object) -> None:
    stage.write(lambda connection: connection.execute(update(table).values(**times)))


def test_what_was_asked_for_ends_at_the_latest_as_if_it_had_been_asked_for_now(stage: Stage) -> None:
    """A clock that was put back by a year would else make a pause of an hour one of a year."""
    owing(stage)
    set_times(stage, endpoints, held_until=at(HOUR), replays_held_until=at(HOUR))
    set_times(stage, sources, held_until=at(HOUR), condition="rate_limited")
    stage.write(forgive_clock, at(-365 * DAY))

    (endpoint,), (source,) = stage.rows(endpoints), stage.rows(sources)
    assert endpoint.held_until == endpoint.replays_held_until == at(-365 * DAY) + RETRY_AFTER_CAP
    assert source.held_until == at(-365 * DAY) + RETRY_AFTER_LIMIT
    assert RETRY_AFTER_CAP == RETRY_AFTER_LIMIT == timedelta(hours=24)


def test_what_was_asked_for_within_a_day_stands_to_the_second(stage: Stage) -> None:
    owing(stage)
    set_times(stage, endpoints, held_until=at(HOUR), replays_held_until=at(HOUR))
    set_times(stage, sources, held_until=at(HOUR), condition="rate_limited")
    stage.write(forgive_clock, at(2 * HOUR - DAY))

    (endpoint,), (source,) = stage.rows(endpoints), stage.rows(sources)
    assert endpoint.held_until == endpoint.replays_held_until == source.held_until == at(HOUR)


def test_what_was_spent_of_a_rate_is_forgiven(stage: Stage) -> None:
    stage.track("a", "b")
    stage.subscribe(rate_per_second=1)
    stage.poll(0, a=seen("p"), b=seen("p"))
    assert (len(stage.claim(10, rate=20)), len(stage.owed(10))) == (2, 1)
    stage.write(forgive_clock, at(-HOUR))

    assert [row.rate_at for row in stage.rows(endpoints)] == [at(-HOUR)]
    assert [row.budget_at for row in stage.rows(sources)] == [at(-HOUR)]
    assert len(stage.owed(-HOUR)) == 1


def test_what_is_to_be_sent_again_is_due_at_once(stage: Stage) -> None:
    key = owing(stage)
    wanted = stage.database.read_now(find_range, key, Range())
    stage.write(request_some, wanted, 0, at(1))
    stage.write(forgive_clock, at(-HOUR))

    assert {row.next_attempt_at for row in stage.rows(redeliveries)} == {at(-HOUR)}


def test_sources_and_endpoints_in_trouble_are_probed_at_once(stage: Stage) -> None:
    stage.track(*"abcde")
    stage.subscribe()
    stage.poll(0, **{name: seen(peer("p", 0)) for name in "abcde"})
    stage.settle(1, *(tried(cursor, 1, TROUBLE) for cursor in stage.owed(1)))
    stage.record(stage.claim(10), lambda _: failed(FailureKind.UNAUTHORIZED), 10)
    assert [row.circuit for row in stage.rows(endpoints)] == ["open"]
    stage.write(forgive_clock, at(-HOUR))

    assert (len(stage.claim(-HOUR)), len(stage.owed(-HOUR))) == (1, 1)

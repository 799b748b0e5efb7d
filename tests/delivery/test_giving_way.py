"""An event that may be poison gives way to another one of its line: when, to which one, and when not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import update

from bridge.db.tables import endpoints
from bridge.delivery.claim import WINDOW, ClaimedCursor, OwedEvent
from bridge.delivery.endpoint_state import disable_endpoint
from bridge.delivery.record import Settled, Settlement, Tried, Turn
from bridge.rules.delivery import JITTER, DeliveryPolicy, PostResult
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import GONE, GOOD, RETRYABLE, StoreDriver, busy, tried

SHORT = timedelta(seconds=5), timedelta(seconds=30)
LONG = timedelta(seconds=5), timedelta(hours=1)


def lined_up(
    store: StoreDriver, *, people: int = 3, schedule: tuple[timedelta, ...] = SHORT, rate: float = 0, wanted: str = "*"
) -> int:
    """One room, in which `people` have joined."""
    store.policy = DeliveryPolicy(retry_schedule=schedule)
    store.track("a")
    key = store.subscribe(events=wanted.split(), rate_per_second=rate)
    store.poll(0, a=seen(*(peer(f"p{assign_sequences:03}", 0) for assign_sequences in range(people))))
    return key


def fail(store: StoreDriver, seconds: float, result: PostResult = RETRYABLE) -> tuple[ClaimedCursor, Settled]:
    (cursor,) = store.owed(seconds)
    (settled,) = store.settle(seconds, tried(cursor, seconds, result))
    return cursor, settled


def fail_until_it_gives_way(store: StoreDriver, seconds: float) -> tuple[float, ClaimedCursor, Settled]:
    """Whenever it is due; answers when it was, too."""
    for _ in range(100):
        cursor, settled = fail(store, seconds)
        if settled.gives_way:
            return seconds, cursor, settled
        seconds = seconds_of(settled.retry_at)
    raise AssertionError("it never gives way")


def seconds_of(moment: datetime | None) -> float:
    assert moment is not None
    return (moment - at(0)).total_seconds()


def out_of_turn(
    cursor: ClaimedCursor, seconds: float, event: OwedEvent | None, turn: Turn, result: PostResult
) -> Settlement:
    assert event is not None
    attempt = Tried(event=event, result=result, started_at=at(seconds))
    return replace(tried(cursor, seconds), tried=attempt, turn=turn, retry_at=at(seconds + 30))


def test_an_event_gives_way_after_its_whole_schedule(store: StoreDriver) -> None:
    key = lined_up(store)
    now, cursor, settled = fail_until_it_gives_way(store, 1)

    assert (now, len(store.attempts())) == (1 + 5 + 30, 3)
    assert settled.keeps_claim
    row = store.cursor(key, "a")
    assert (row.acked, row.claim_token) == (0, cursor.token), "nothing is done with, and nobody else has the line"


def test_however_often_an_event_was_tried_the_time_of_its_schedule_must_be_over(store: StoreDriver) -> None:
    lined_up(store, schedule=LONG)
    now, _, _ = fail_until_it_gives_way(store, 1)

    assert len(store.attempts()) > len(LONG) + 1, "an endpoint that may be down is asked more often"
    assert timedelta(seconds=now - 1) >= sum(LONG, timedelta()) * (1 - JITTER)


def test_however_long_an_event_has_waited_it_must_have_been_tried_as_often(store: StoreDriver) -> None:
    lined_up(store)
    _, held = fail(store, 1, busy(3600))
    _, second = fail(store, seconds_of(held.retry_at))
    assert not second.gives_way
    _, third = fail(store, seconds_of(second.retry_at))

    assert third.gives_way


def test_it_gives_way_to_another_one_each_time(store: StoreDriver) -> None:
    """The next one may be poison too."""
    lined_up(store, people=4)
    now, behind = 1.0, []
    for _ in range(4):
        now, cursor, settled = fail_until_it_gives_way(store, now)
        behind.append(cursor.behind)
        (settled,) = store.settle(now, out_of_turn(cursor, now, cursor.behind, Turn.BEHIND, RETRYABLE))
        now = seconds_of(settled.retry_at)

    assert sorted(event.sequence for event in behind if event) == [2, 3, 4, 5]


def test_it_gives_way_to_one_that_is_far_behind(store: StoreDriver) -> None:
    """Between them is nothing that the endpoint wants, and more than a claim looks at."""
    key = lined_up(store, people=2 * WINDOW, wanted="room.*")
    store.poll(10, a=seen())
    now, cursor, _ = fail_until_it_gives_way(store, 11)
    last = store.room("a").last_sequence
    (head,), behind = cursor.events, cursor.behind
    assert behind is not None
    assert (head.sequence, head.passes_to, behind.sequence, behind.passes_to) == (1, last - 1, last, last)

    (accepted,) = store.settle(now, out_of_turn(cursor, now, behind, Turn.BEHIND, GOOD))
    assert accepted.has_last_word
    at_last = out_of_turn(cursor, now, replace(head, passes_to=last), Turn.LAST, RETRYABLE)
    (parked,) = store.settle(now, at_last)
    assert parked.dead_letter
    assert [(dead.event_key, dead.reason, dead.tries) for dead in store.dead_letters()] == [(head.key, "exhausted", 4)]
    assert (store.cursor(key, "a").acked, store.owed(now + 3600)) == (last, [])


def test_an_event_that_is_accepted_at_last_is_no_poison(store: StoreDriver) -> None:
    key = lined_up(store)
    now, cursor, _ = fail_until_it_gives_way(store, 1)
    store.settle(now, out_of_turn(cursor, now, cursor.behind, Turn.BEHIND, GOOD))
    store.settle(now, out_of_turn(cursor, now, cursor.events[0], Turn.LAST, GOOD))

    assert (store.dead_letters(), store.cursor(key, "a").acked) == ([], 1)


def set_fields(**fields: object) -> Callable[[StoreDriver], object]:
    return lambda store: store.write(lambda connection: connection.execute(update(endpoints).values(**fields)))


CHANGES = {
    "disabled": lambda store: store.write(disable_endpoint, "crm"),
    "asked for quiet": set_fields(paused_until=at(7200)),
    "signs with another secret": set_fields(rotated_at=at(10)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_does_not_give_way_at_an_endpoint_that_is_not_as_it_was_claimed(store: StoreDriver, change: str) -> None:
    key = lined_up(store)
    _, first = fail(store, 1)
    _, second = fail(store, seconds_of(first.retry_at))
    now = seconds_of(second.retry_at)
    (cursor,) = store.owed(now)
    CHANGES[change](store)
    (settled,) = store.settle(now, tried(cursor, now, RETRYABLE))

    assert (settled.gives_way, settled.keeps_claim) == (False, False)
    assert (store.cursor(key, "a").acked, store.cursor(key, "a").claim_token) == (0, None)


@pytest.mark.parametrize("change", CHANGES)
def test_it_has_no_last_word_at_an_endpoint_that_is_not_as_it_was_claimed(store: StoreDriver, change: str) -> None:
    key = lined_up(store)
    now, cursor, _ = fail_until_it_gives_way(store, 1)
    CHANGES[change](store)
    (settled,) = store.settle(now, out_of_turn(cursor, now, cursor.behind, Turn.BEHIND, GOOD))

    assert (settled.has_last_word, settled.keeps_claim) == (False, False)
    assert (store.cursor(key, "a").acked, store.dead_letters()) == (0, [])


@pytest.mark.parametrize("result", [GOOD, RETRYABLE, GONE], ids=["good", "retryable", "gone"])
def test_what_an_old_address_says_of_the_one_behind_means_nothing(store: StoreDriver, result: PostResult) -> None:
    key = lined_up(store)
    now, cursor, _ = fail_until_it_gives_way(store, 1)
    set_fields(url="https://new.example.com/")(store)
    (settled,) = store.settle(now, out_of_turn(cursor, now, cursor.behind, Turn.BEHIND, result))

    assert (settled.has_last_word, settled.keeps_claim, settled.owes) == (False, False, True)
    assert (store.cursor(key, "a").acked, store.rows(endpoints)[0].state) == (0, "active")
    assert [event.sequence for event in store.owed(now)[0].events] == [1], "due at once, at the new address"


def test_requests_out_of_turn_use_up_rate(store: StoreDriver) -> None:
    lined_up(store, rate=1)
    now, cursor, _ = fail_until_it_gives_way(store, 1)
    assert store.rows(endpoints)[0].rate_at == at(now + 2)
    store.settle(now, out_of_turn(cursor, now, cursor.behind, Turn.BEHIND, GOOD))
    assert store.rows(endpoints)[0].rate_at == at(now + 3)

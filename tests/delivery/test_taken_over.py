"""Cursors that a sender of the same process takes over as polls raise them: limits and the order of claims are kept."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from bridge.db.cursors import EVENTS_AT_ONCE, Offer
from bridge.db.tables import endpoints
from bridge.delivery.claim import ClaimedCursor, claim_cursors, claimed_at_once, release_cursors
from bridge.delivery.endpoints import EndpointSpec, configure_endpoints
from bridge.delivery.plan import Moved
from bridge.delivery.targets import TargetCache
from bridge.polling.plan import RecordedPoll
from bridge.rules.delivery import PostResult
from tests.harness.builders import at, seen
from tests.harness.store_driver import GOOD, RETRYABLE, SECRET, StoreDriver, attempted

NEW_SECRET = "whsec_" + "bmV3IHNlY3JldCBuZXcgc2VjcmV0IG5ldyBzZWNyZXQ="


class OneSender:
    """The endpoints that a sender has called."""

    def __init__(self, store: StoreDriver) -> None:
        self.store = store
        self.targets = TargetCache(store.cipher)

    def deliver(self, seconds: float, result: PostResult = GOOD) -> None:
        """Claim what is due and report that it was sent, which is how the sender gets to know an endpoint."""
        claimed = self.store.write(claim_cursors, self.store.terms(seconds, targets=self.targets)).items
        for cursor in claimed:
            self.store.deliver_cursor(cursor, seconds, lambda *_: result)

    def offer(self, seconds: float, **limits: Any) -> Offer:  # noqa: ANN401 - arguments of TargetCache.offer
        return self.targets.offer(token=self.store.token(), now=at(seconds), **{"slots": 100} | limits)

    def claimed(self, recorded: RecordedPoll) -> list[ClaimedCursor]:
        found = [(one, self.targets.get(one.endpoint_key)) for one in recorded.taken]
        return [claimed_at_once(one, target) for one, target in found if target is not None]


@pytest.fixture
def sender(store: StoreDriver) -> OneSender:
    """A sender that has called the endpoint `crm` once; rooms `a` and `b` are due at 20."""
    store.track("a", "b")
    store.subscribe("crm", events=("peer.*",))
    sender = OneSender(store)
    store.poll(0, a=seen("p"), b=seen("p"))
    sender.deliver(1)
    return sender


def test_a_raised_cursor_is_claimed_at_once_with_its_events(sender: OneSender) -> None:
    store = sender.store
    recorded = store.poll(20, sender.offer(20), a=seen("q"), b=seen("p"))
    (cursor,) = sender.claimed(recorded["a"])

    assert not recorded["a"].wakes_senders
    assert recorded["b"].taken == ()
    assert store.owed(20) == [], "no other sender gets it"
    assert (cursor.room_id, cursor.target.name, cursor.acked) == ("a", "crm", 2)
    stored = [(event["id"], event["sequence"], event["type"]) for event in map(_facts, store.log("a")[2:])]
    assert [(event.public_id, event.sequence, event.type) for event in cursor.events] == stored
    assert len(store.deliver_cursor(cursor, 20, lambda *_: GOOD)) == 2
    row = store.cursor(cursor.target.key, "a")
    assert (row.acked, row.claim_token) == (row.head, None)
    assert {attempt.event_key for attempt in store.attempts()} >= {event.key for event in cursor.events}


def test_an_event_is_the_same_whether_its_cursor_was_taken_over_or_claimed(sender: OneSender) -> None:
    store = sender.store
    (cursor,) = sender.claimed(store.poll(20, sender.offer(20), a=seen("p", "q", "r"))["a"])
    store.write(release_cursors, [cursor])
    (claimed,) = store.owed(20)

    assert claimed.events == cursor.events, "with the proof of the chain, too"
    assert {len(event.chain.headers) for event in cursor.events if event.chain is not None} == {2}


def _facts(event: dict[str, Any]) -> dict[str, Any]:
    return {"id": event["id"], "type": event["type"], "sequence": event["data"]["sequence"]}


def test_events_that_the_endpoint_does_not_want_are_acknowledged_with_the_one_before(sender: OneSender) -> None:
    store = sender.store
    (cursor,) = sender.claimed(store.poll(20, sender.offer(20), a=seen("p", "q"))["a"])
    (recorded,) = store.report(20, attempted(cursor, 20, wants_next=False))

    assert recorded == Moved(keeps_claim=False, owes_more=False)
    (cursor,) = sender.claimed(store.poll(30, sender.offer(30), a=seen())["a"])
    assert [event.type for event in cursor.events] == ["peer.left", "peer.left"]
    assert cursor.reach == cursor.events[-1].sequence, "no endpoint wants room.empty, which comes last"


def test_more_events_than_one_claim_covers_are_left_to_the_next_claim(sender: OneSender) -> None:
    store = sender.store
    crowd = seen("p", *(f"p{number:03}" for number in range(2 * EVENTS_AT_ONCE)))
    (cursor,) = sender.claimed(store.poll(20, sender.offer(20), a=crowd)["a"])
    assert len(cursor.events) == EVENTS_AT_ONCE
    store.deliver_cursor(cursor, 20, lambda *_: GOOD)

    assert len(store.deliver(20)) == EVENTS_AT_ONCE
    row = store.cursor(cursor.target.key, "a")
    assert row.acked == row.head


def test_a_cursor_that_owes_something_keeps_its_place(sender: OneSender) -> None:
    store = sender.store
    store.poll(20, a=seen("q"))
    recorded = store.poll(40, sender.offer(40), a=seen("r"), b=seen("q"))

    assert (recorded["a"].taken, recorded["a"].wakes_senders) == ((), True)
    assert len(recorded["b"].taken) == 1
    (owed,) = store.owed(40)
    assert [event.sequence for event in owed.events] == [3, 4, 5, 6]


@pytest.mark.parametrize(
    "change",
    [
        {"state": "disabled"},
        {"circuit": "open"},
        {"paused_until": at(60)},
        {"failing_since": at(10)},
        {"rate_per_second": 5.0},
        {"url": "https://new.example.com/"},
        {"headers": "other"},
        {"rotated_at": at(15)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_endpoint_that_something_restricts_or_that_has_changed_is_left_to_the_next_claim(
    sender: OneSender, change: dict[str, Any]
) -> None:
    store = sender.store
    store.write(lambda connection: connection.execute(update(endpoints).values(**change)))
    recorded = store.poll(20, sender.offer(20), a=seen("q"))

    assert (recorded["a"].taken, recorded["a"].wakes_senders) == ((), True)


def test_max_concurrency_is_kept_over_offers_and_claims_of_several_senders(sender: OneSender) -> None:
    store = sender.store
    store.write(lambda connection: connection.execute(update(endpoints).values(max_concurrency=1)))
    store.track("c", seconds=15)
    store.poll(15, c=seen("p"))
    (other,) = store.owed(15)
    recorded = store.poll(20, sender.offer(20), a=seen("q"))
    assert recorded["a"].taken == (), "another sender uses the only slot"

    store.deliver_cursor(other, 20, lambda *_: GOOD)
    store.deliver(20)
    recorded = store.poll(40, sender.offer(40), a=seen("r"), b=seen("q"))
    assert {room: len(one.taken) for room, one in recorded.items()} == {"a": 1, "b": 0}
    assert store.owed(40) == []


@pytest.mark.parametrize("limits", [{"slots": 1}, {"per_endpoint": 1}, {"per_endpoint": 9, "under_way": {1: 8}}])
def test_no_more_is_taken_over_than_the_sender_has_slots(sender: OneSender, limits: dict[str, Any]) -> None:
    recorded = sender.store.poll(20, sender.offer(20, **limits), a=seen("q"), b=seen("q"))

    assert sorted(len(one.taken) for one in recorded.values()) == [0, 1]


def test_a_previous_secret_that_expires_is_not_used_any_more(sender: OneSender) -> None:
    store = sender.store
    crm = EndpointSpec(name="crm", url="https://crm.example.com/", secret=NEW_SECRET, events=("peer.*",))
    store.write(configure_endpoints, [crm], store.context(10))
    store.poll(20, a=seen("q"))
    sender.deliver(20)
    grace = 24 * 3600
    (cursor,) = sender.claimed(store.poll(40, sender.offer(40), a=seen("r"))["a"])
    assert cursor.target.secrets == (NEW_SECRET, SECRET)
    store.deliver_cursor(cursor, 40, lambda *_: GOOD)

    assert store.poll(grace + 60, sender.offer(grace + 60), a=seen("s"))["a"].taken == ()
    sender.deliver(grace + 60)
    (cursor,) = sender.claimed(store.poll(grace + 80, sender.offer(grace + 80), a=seen("t"))["a"])
    assert cursor.target.secrets == (NEW_SECRET,)


def test_a_failure_of_what_was_taken_over_backs_off_like_any_other(sender: OneSender) -> None:
    store = sender.store
    (cursor,) = sender.claimed(store.poll(20, sender.offer(20), a=seen("q"))["a"])
    store.deliver_cursor(cursor, 20, lambda *_: RETRYABLE)

    assert store.owed(20) == []
    assert store.poll(40, sender.offer(40), b=seen("q"))["b"].taken == (), "a failing endpoint"
    assert {owed.room_id for owed in store.owed(40)} == {"a", "b"}

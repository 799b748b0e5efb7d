"""Redeliveries in the database: requests, claims and records."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Connection, update
from structlog.testing import capture_logs

from bridge.db.encryption import SecretCipher
from bridge.db.tables import cursors, endpoints, events, redeliveries
from bridge.delivery import claim as claim_module
from bridge.delivery import replay
from bridge.delivery.claim import REDELIVERY_BATCH, ClaimedRedeliveries, claim_redeliveries
from bridge.delivery.endpoints import disable_endpoint, remove_endpoint
from bridge.delivery.plan import Attempt
from bridge.delivery.redeliver import Redelivered, record_redelivery, release_redeliveries
from bridge.delivery.replay import Range, count_wanted, find_range, request_events, request_some
from bridge.errors import NotFoundError
from bridge.rules.delivery import PostResult
from tests.harness.builders import at, seen
from tests.harness.deadlocks import meeting
from tests.harness.store_driver import GONE, GOOD, REJECTED, RETRYABLE, StoreDriver, attempted, busy


def claim(store: StoreDriver, seconds: float, *, slots: int = 10) -> list[ClaimedRedeliveries]:
    return list(store.write(claim_redeliveries, store.terms(seconds, slots=slots)).items)


def record(
    store: StoreDriver,
    claimed: ClaimedRedeliveries,
    seconds: float,
    result: PostResult = GOOD,
    *,
    index: int = 0,
    retry_at: datetime | None = None,
) -> bool:
    redelivery = claimed.redeliveries[index]
    done = Redelivered(
        claimed=claimed,
        redelivery=redelivery,
        attempt=Attempt(event=redelivery.event, result=result, started_at=at(seconds)),
        retry_at=retry_at,
    )
    return store.write(record_redelivery, done)


def request(
    store: StoreDriver,
    key: int,
    seconds: float = 100,
    *,
    since: float | None = None,
    until: float | None = None,
    failed: bool = False,
) -> int:
    wanted = store.database.read_now(find_range, key, range_of(since=since, until=until, failed=failed))
    added, after = 0, 0
    while True:
        progress = store.write(request_some, wanted, after, at(seconds))
        added += progress.added
        if progress.after is None:
            return added
        after = progress.after


def requested(
    store: StoreDriver,
    *rooms: str,
    people: int = 2,
    seconds: float = 100,
    delivered: bool = False,
    **spec: Any,  # noqa: ANN401 - fields of EndpointSpec
) -> int:
    """The key of an endpoint for which the events of these rooms are requested, beside the live ones."""
    key = store.subscribe(**spec)
    store.record_joins(0, *(rooms or "a"), people=people)
    if delivered:
        store.deliver(1)
    request(store, key, seconds)
    return key


def count_range(store: StoreDriver, key: int, wanted: Range) -> int:
    return store.database.read_now(count_wanted, store.database.read_now(find_range, key, wanted))


def range_of(*, since: float | None = None, until: float | None = None, failed: bool = False) -> Range:
    return Range(
        since=None if since is None else at(since), until=None if until is None else at(until), only_failed=failed
    )


def states(store: StoreDriver) -> list[str]:
    """The states of the requested redeliveries, in the order of the log."""
    return [row.state for row in store.rows(redeliveries, "event_key")]


def test_a_range_has_the_events_recorded_in_it_without_its_end(store: StoreDriver) -> None:
    key = store.subscribe()
    store.record_joins(10, "a")
    store.record_joins(20, "b")
    store.record_joins(30, "c")
    counts = [
        count_range(store, key, range_of(since=since, until=until))
        for since, until in [(None, None), (20, None), (None, 20), (20, 30), (20.001, 30), (40, None)]
    ]
    assert counts == [9, 6, 3, 3, 0, 0]
    assert request(store, key, since=20, until=30) == 3
    (claimed,) = claim(store, 101)
    assert [(one.room_id, one.event.sequence) for one in claimed.redeliveries] == [("b", 1), ("b", 2), ("b", 3)]


def test_a_long_range_is_requested_in_steps_each_event_once(
    store: StoreDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "EVENTS_AT_ONCE", 4)
    key = store.subscribe(events=["peer.*"], rooms=["a", "b"])
    store.record_joins(10, "a", "b", "c", people=5)
    wanted = store.database.read_now(find_range, key, Range())
    first = store.write(request_some, wanted, 0, at(20))
    assert first.after is not None
    assert first.added <= 4
    store.record_joins(30, "d", people=5)

    assert first.added + request(store, key, 40) == count_range(store, key, Range()) == 10
    assert request(store, key, 50) == 0


def test_a_range_has_only_events_that_the_endpoint_wants_delivered_or_not(store: StoreDriver) -> None:
    store.record_joins(10, "a", "b")
    key = store.subscribe(events=["peer.*"], rooms=["b"])
    assert request(store, key) == 2, "from before it was added, too"
    (claimed,) = claim(store, 101)
    assert [(one.room_id, one.event.type) for one in claimed.redeliveries] == [("b", "peer.joined")] * 2


def test_single_events_are_sent_even_if_the_endpoint_does_not_want_them(store: StoreDriver) -> None:
    key = store.subscribe(events=["room.empty"])
    store.record_joins(10, "a")
    first, second, _ = (event["id"] for event in store.log("a"))
    assert store.write(request_events, key, [second, first, second], at(20)) == 2
    (claimed,) = claim(store, 20)
    assert [one.event.public_id for one in claimed.redeliveries] == [first, second]
    assert [one.event.body for one in claimed.redeliveries] == [bytes(row.body) for row in store.rows(events, "id")[:2]]


def test_an_unknown_event_id_requests_nothing(store: StoreDriver) -> None:
    key = store.subscribe()
    store.record_joins(10, "a")
    known = store.log("a")[0]["id"]
    with pytest.raises(NotFoundError, match="evt_nope"):
        store.write(request_events, key, [known, "evt_nope"], at(20))
    assert states(store) == []


def test_an_event_that_is_already_requested_is_not_requested_again(store: StoreDriver) -> None:
    key, other = store.subscribe("crm"), store.subscribe("other")
    store.record_joins(10, "a")
    assert (request(store, key), request(store, key), request(store, other)) == (3, 0, 3)
    (claimed, _) = claim(store, 101)
    assert request(store, key) == 0, "it is under way"
    for index in range(3):
        record(store, claimed, 102, index=index)
    assert request(store, key) == 3, "it has ended, and may be requested again"


def test_only_failed_requests_the_dead_letters_of_the_endpoint(store: StoreDriver) -> None:
    key = store.subscribe("crm", events=["peer.*"])
    other = store.subscribe("other")
    store.record_joins(0, "a", "b")
    store.reject_all(lambda cursor, _: REJECTED if cursor.target.key == key else GOOD)
    assert len(store.dead_letters()) == 2, "the first of each room"
    assert count_range(store, other, range_of(failed=True)) == 0
    store.write(lambda connection: connection.execute(update(endpoints).values(events=["room.empty"])))
    assert request(store, key, failed=True) == 2, "though the endpoint wants them no longer"


def test_redeliveries_of_an_endpoint_are_claimed_one_batch_at_a_time(store: StoreDriver) -> None:
    names = ["crm", "erp"]
    keys = [store.subscribe(name) for name in names]
    store.record_joins(0, "a", people=REDELIVERY_BATCH + 9)
    for key in keys:
        request(store, key)
    batches = claim(store, 101)
    assert {batch.target.name for batch in batches} == set(names)
    assert {len(batch.redeliveries) for batch in batches} == {REDELIVERY_BATCH}
    assert claim(store, 102) == [], "each has its one batch"
    for index in range(REDELIVERY_BATCH):
        assert record(store, batches[0], 103, index=index)
    (rest,) = claim(store, 104)
    assert rest.target.key == batches[0].target.key
    assert [one.event.sequence for one in rest.redeliveries] == list(range(REDELIVERY_BATCH + 1, REDELIVERY_BATCH + 11))


def test_redeliveries_of_a_crashed_sender_are_due_again(store: StoreDriver) -> None:
    requested(store, people=4)
    (claimed,) = claim(store, 100)
    record(store, claimed, 110)
    assert claim(store, 3600) == []
    store.lose_claims()
    (again,) = claim(store, 135)
    assert [one.event.sequence for one in again.redeliveries] == [2, 3, 4, 5], "the first has ended"
    assert not record(store, claimed, 136, index=1), "the claim was lost"
    assert record(store, again, 136)
    assert len(store.attempts()) == 2, "the fenced attempt is not stored"


def test_a_redelivery_that_waits_for_a_retry_does_not_delay_others(store: StoreDriver) -> None:
    requested(store)
    (claimed,) = claim(store, 101)
    record(store, claimed, 102, RETRYABLE, retry_at=at(200))
    store.write(release_redeliveries, [claimed])
    (rest,) = claim(store, 103)
    assert [one.event.sequence for one in rest.redeliveries] == [2, 3]
    for index in (0, 1):
        record(store, rest, 104, index=index)
    assert claim(store, 199.9) == []
    (last,) = claim(store, 200)
    assert [(one.event.sequence, one.tries) for one in last.redeliveries] == [(1, 1)]


def test_a_successful_redelivery_removes_the_dead_letter(store: StoreDriver) -> None:
    key = store.subscribe(events=["peer.*"])
    store.record_joins(0, "a", "b", people=1)
    store.reject_all()
    request(store, key, failed=True)
    (claimed,) = claim(store, 400)
    record(store, claimed, 401, REJECTED)
    record(store, claimed, 401, GOOD, index=1)
    (left,) = store.dead_letters()
    assert left.event_key == claimed.redeliveries[0].event.key
    assert states(store) == ["failed", "done"]


@pytest.mark.parametrize("result", [GOOD, RETRYABLE, REJECTED, GONE])
def test_redeliveries_change_neither_health_nor_cursors(result: PostResult, store: StoreDriver) -> None:
    key = store.subscribe()
    store.record_joins(0, "a")
    before = (store.rows(endpoints, "id"), store.cursor(key, "a"))
    request(store, key)
    (claimed,) = claim(store, 101)
    record(store, claimed, 102, result)
    assert (store.rows(endpoints, "id"), store.cursor(key, "a")) == before
    (attempt,) = store.attempts()
    assert (attempt.kind, attempt.outcome, attempt.started_at) == ("redelivery", result.outcome, at(102))


def test_the_redeliveries_of_a_removed_endpoint_are_removed(store: StoreDriver) -> None:
    requested(store)
    (claimed,) = claim(store, 101)
    store.write(remove_endpoint, "crm")
    assert not record(store, claimed, 102)
    assert states(store) == []


def test_redeliveries_share_the_rate_with_live_events(store: StoreDriver) -> None:
    requested(store, people=1, rate_per_second=1)
    assert len(store.owed(100)) == 1
    assert claim(store, 100.5) == []
    (claimed,) = claim(store, 101)
    assert len(claimed.redeliveries) == 1


def test_a_clock_that_is_behind_claims_nothing_beyond_the_rate(store: StoreDriver) -> None:
    """Another machine, whose clock is a second ahead, has used the rate of the next second here."""
    requested(store, people=40, seconds=90, rate_per_second=20)
    (first,) = claim(store, 100)
    for index in range(len(first.redeliveries)):
        record(store, first, 90, index=index)
    assert claim(store, 99) == []


@pytest.mark.parametrize("disabled", [True, False])
def test_a_retry_after_pauses_every_redelivery_of_the_endpoint(store: StoreDriver, disabled: bool) -> None:  # noqa: FBT001 - a table's column
    requested(store, people=40, delivered=True)
    if disabled:
        store.write(disable_endpoint, "crm")
    (claimed,) = claim(store, 101)
    assert not record(store, claimed, 102, busy(60), retry_at=at(170))

    assert claim(store, 161) == []
    (rest,) = claim(store, 163)
    assert [one.event.sequence for one in rest.redeliveries] == list(range(2, 22)), "the first waits for its own retry"


def test_a_retry_after_of_a_live_event_ends_a_claim_of_redeliveries(store: StoreDriver) -> None:
    requested(store, "a", "b", delivered=True)
    (claimed,) = claim(store, 101)
    store.poll(102, b=seen("p0"))
    store.report(103, *(attempted(cursor, 103, busy(60)) for cursor in store.owed(102)))

    assert not record(store, claimed, 104)
    assert claim(store, 162) == []
    assert len(claim(store, 163)) == 1


def test_redeliveries_count_as_one_of_the_cursors_at_once(store: StoreDriver) -> None:
    requested(store, "a", "b", "c", seconds=1, max_concurrency=2)
    assert len(claim(store, 1)) == 1
    assert len(store.owed(1)) == 1
    assert store.owed(2) == []


def test_the_last_slot_belongs_to_live_events(store: StoreDriver) -> None:
    requested(store, seconds=1, max_concurrency=1)
    assert claim(store, 1) == []
    (cursor,) = store.owed(1)
    assert claim(store, 1) == [], "two at once would be one too many"
    store.deliver_cursor(cursor, 2, lambda *_: GOOD)
    (claimed,) = claim(store, 3)
    assert len(claimed.redeliveries) == 1, "live events must not wait behind twenty"
    store.poll(10, a=seen("p0"))
    assert store.owed(10) == []
    record(store, claimed, 11)
    assert (claim(store, 12), len(store.owed(12))) == ([], 1)


def test_a_replay_leaves_out_notices_about_the_endpoint_itself(store: StoreDriver) -> None:
    crm, erp = store.subscribe("crm", events=["*"]), store.subscribe("erp", events=["*"])
    store.record_joins(0, "a")
    store.deliver(1, lambda cursor, _: GONE if cursor.target.key == crm else GOOD)
    assert store.event_types(None) == ["endpoint.disabled"]
    assert (request(store, crm), request(store, erp)) == (3, 4)


def test_two_senders_never_claim_redeliveries_of_one_endpoint(postgresql_store: StoreDriver) -> None:
    """The second one waits for the lock of the endpoint, and must read it again."""
    store = postgresql_store
    requested(store, people=2 * REDELIVERY_BATCH)
    with meeting(store.database, lambda: claim(store, 101)) as (first, second):
        assert len(claim_redeliveries(first, store.terms(101, slots=10)).items) == 1

    assert second.result() == []


@pytest.mark.parametrize("by_id", [True, False])
def test_two_requests_for_the_same_events_at_once_add_them_once(postgresql_store: StoreDriver, by_id: bool) -> None:  # noqa: FBT001 - a table's column
    store = postgresql_store
    key = store.subscribe()
    store.record_joins(0, "a")
    ids = [event["id"] for event in store.log("a")]
    wanted = store.database.read_now(find_range, key, Range())

    def request(connection: Connection) -> int:
        if by_id:
            return request_events(connection, key, ids, at(100))
        return request_some(connection, wanted, 0, at(100)).added

    with meeting(store.database, lambda: store.write(request)) as (first, second):
        assert request(first) == 3

    assert second.result() == 0
    assert states(store) == ["owed"] * 3


def test_the_endpoint_that_has_waited_longest_is_claimed_first(store: StoreDriver) -> None:
    crm, erp, hr = (store.subscribe(name) for name in ("crm", "erp", "hr"))
    store.record_joins(0, "a")
    for key, seconds in ((crm, 95), (erp, 90), (hr, 85)):
        request(store, key, seconds)

    claims = [[claimed.target.key for claimed in claim(store, 100, slots=1)] for _ in range(3)]
    assert claims == [[hr], [erp], [crm]]


def test_an_endpoint_at_its_rate_takes_no_slot(store: StoreDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_module, "EXTRA_ENDPOINTS", 0)
    slow, free = store.subscribe("slow", rate_per_second=0.1), store.subscribe("free")
    store.record_joins(0, "a")
    request(store, slow, 90)
    request(store, free, 95)
    (claimed,) = claim(store, 100, slots=1)
    record(store, claimed, 101)

    assert [claimed.target.key for claimed in claim(store, 102, slots=1)] == [free]


@pytest.mark.parametrize("disabled", [True, False])
def test_an_endpoint_with_an_unreadable_secret_is_paused_for_a_minute(store: StoreDriver, disabled: bool) -> None:  # noqa: FBT001 - a table's column
    store.cipher = SecretCipher(["right"])
    requested(store)
    if disabled:
        store.write(disable_endpoint, "crm")
    store.cipher = SecretCipher(["wrong"])
    with capture_logs() as logs:
        assert [claim(store, seconds) for seconds in (101, 101.2, 110, 160.9, 161, 161.2)] == [[]] * 6
    logged = [(line["event"], line["endpoint"]) for line in logs]
    assert logged == [("endpoint.secret_unreadable", "crm")] * 2

    store.cipher = SecretCipher(["right"])
    assert claim(store, 220.9) == []
    assert len(claim(store, 221)) == 1, "the right key came back"


def open_circuit(store: StoreDriver, seconds: float) -> float:
    """Let five rooms fail; returns the time of the first probe."""
    store.report(seconds, *(attempted(cursor, seconds, RETRYABLE) for cursor in store.owed(seconds)))
    (row,) = store.rows(endpoints)
    assert row.circuit == "open"
    return float((row.paused_until - at(0)).total_seconds())


def test_redeliveries_leave_the_one_slot_of_an_open_circuit_to_the_probe(store: StoreDriver) -> None:
    requested(store, *"abcde", seconds=1)
    (claimed,) = claim(store, 1)
    probed_at = open_circuit(store, 2)

    assert not record(store, claimed, probed_at), "the probe needs the slot"
    assert claim(store, probed_at) == []
    (probe,) = store.owed(probed_at)
    store.report(probed_at + 1, attempted(probe, probed_at + 1))
    (rest,) = claim(store, probed_at + 1)
    assert rest.redeliveries == claimed.redeliveries[1:], "those not sent were released"


def test_redeliveries_continue_while_no_probe_is_due(store: StoreDriver) -> None:
    requested(store, *"abcde", seconds=1)
    (claimed,) = claim(store, 1)
    probed_at = open_circuit(store, 2)
    store.write(lambda connection: connection.execute(update(cursors).values(next_attempt_at=at(3600))))

    assert record(store, claimed, probed_at)


CHANGES: dict[str, dict[str, Any]] = {"url": {"url": "https://new.example.com/"}, "secret": {"rotated_at": at(101)}}


@pytest.mark.parametrize("disabled", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_claim_of_redeliveries_ends_if_the_endpoint_changed(
    store: StoreDriver,
    change: str,
    disabled: bool,  # noqa: FBT001 - a table's column
) -> None:
    requested(store)
    if disabled:
        store.write(disable_endpoint, "crm")
    (claimed,) = claim(store, 101)
    store.write(lambda connection: connection.execute(update(endpoints).values(**CHANGES[change])))

    assert not record(store, claimed, 102)
    (rest,) = claim(store, 102)
    assert rest.redeliveries == claimed.redeliveries[1:]
    assert (rest.target.url, rest.target.rotated_at) != (claimed.target.url, claimed.target.rotated_at)

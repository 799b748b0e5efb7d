"""Redeliveries in the database: what a request finds, who works it off, and what becomes of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, update
from structlog.testing import capture_logs

from bridge.db.encryption import SecretCipher
from bridge.db.tables import cursors, endpoints, events, redeliveries
from bridge.delivery import redeliver as redeliveries_module
from bridge.delivery import replay as replays
from bridge.delivery.endpoints import disable_endpoint, remove_endpoint
from bridge.delivery.record import Tried
from bridge.delivery.redeliver import (
    LINE,
    ClaimedRedeliveries,
    Redelivered,
    claim_redeliveries,
    record_redelivery,
    release_redeliveries,
)
from bridge.delivery.replay import Range, count_wanted, find_range, request_events, request_some
from bridge.errors import NotFoundError
from bridge.rules.delivery import PostResult
from tests.harness.builders import at, peer, seen
from tests.harness.deadlocks import meeting
from tests.harness.store_driver import GONE, GOOD, REJECTED, RETRYABLE, StoreDriver, busy, tried

TIMEOUT = timedelta(seconds=15)
LEASE = timedelta(seconds=25)


def claim(store: StoreDriver, seconds: float, *, lines: int = 10) -> list[ClaimedRedeliveries]:
    return store.write(claim_redeliveries, **claiming(store, seconds, lines=lines))


def claiming(store: StoreDriver, seconds: float, *, lines: int = 10) -> dict[str, Any]:
    """What a claim needs to know."""
    now, token = at(seconds), store.token()
    return {"lines": lines, "now": now, "timeout": TIMEOUT, "token": token, "cipher": store.cipher}


def record(
    store: StoreDriver,
    line: ClaimedRedeliveries,
    seconds: float,
    result: PostResult = GOOD,
    *,
    place: int = 0,
    retry_at: datetime | None = None,
) -> bool:
    redelivery = line.redeliveries[place]
    done = Redelivered(
        line=line,
        redelivery=redelivery,
        tried=Tried(event=redelivery.event, result=result, started_at=at(seconds)),
        retry_at=retry_at,
        lease_until=at(seconds) + LEASE,
    )
    return store.write(record_redelivery, done)


def happened(store: StoreDriver, seconds: float, *rooms: str, people: int = 2) -> None:
    """An occupied room and `people` joins in each."""
    store.track(*rooms, seconds=seconds)
    store.poll(
        seconds,
        **{room: seen(*(peer(f"p{number}", 0) for number in range(people))) for room in rooms},
    )


def ask(
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


def count_range(store: StoreDriver, key: int, asked: Range) -> int:
    return store.database.read_now(count_wanted, store.database.read_now(find_range, key, asked))


def range_of(*, since: float | None = None, until: float | None = None, failed: bool = False) -> Range:
    return Range(
        since=None if since is None else at(since), until=None if until is None else at(until), only_failed=failed
    )


def asked(store: StoreDriver) -> list[str]:
    """The states of all that was asked for, in the order of the log."""
    return [row.state for row in store.rows(redeliveries, "event_key")]


def test_a_range_takes_what_was_recorded_in_it_and_nothing_at_its_end(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 10, "a")
    happened(store, 20, "b")
    happened(store, 30, "c")
    counts = [
        count_range(store, key, range_of(since=since, until=until))
        for since, until in [(None, None), (20, None), (None, 20), (20, 30), (20.001, 30), (40, None)]
    ]
    assert counts == [9, 6, 3, 3, 0, 0]
    assert ask(store, key, since=20, until=30) == 3
    (line,) = claim(store, 101)
    assert [(one.room_id, one.event.sequence) for one in line.redeliveries] == [("b", 1), ("b", 2), ("b", 3)]


def test_a_long_range_is_asked_for_in_steps_and_nothing_twice(
    store: StoreDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "AT_ONCE", 4)
    key = store.subscribe(events=["peer.*"], rooms=["a", "b"])
    happened(store, 10, "a", "b", "c", people=5)
    wanted = store.database.read_now(find_range, key, Range())
    first = store.write(request_some, wanted, 0, at(20))
    assert first.after is not None
    assert first.added <= 4
    happened(store, 30, "d", people=5)

    assert first.added + ask(store, key, 40) == count_range(store, key, Range()) == 10
    assert ask(store, key, 50) == 0


def test_a_range_takes_only_what_the_endpoint_wants_had_or_not(store: StoreDriver) -> None:
    happened(store, 10, "a", "b")
    key = store.subscribe(events=["peer.*"], rooms=["b"])
    assert ask(store, key) == 2, "from before it was added, too"
    (line,) = claim(store, 101)
    assert [(one.room_id, one.event.type) for one in line.redeliveries] == [("b", "peer.joined")] * 2


def test_single_events_are_sent_whatever_the_endpoint_wants(store: StoreDriver) -> None:
    key = store.subscribe(events=["room.empty"])
    happened(store, 10, "a")
    first, second, _ = (event["id"] for event in store.log("a"))
    assert store.write(request_events, key, [second, first, second], at(20)) == 2
    (line,) = claim(store, 20)
    assert [one.event.public_id for one in line.redeliveries] == [first, second]
    assert [one.event.body for one in line.redeliveries] == [bytes(row.body) for row in store.rows(events, "id")[:2]]


def test_an_event_that_does_not_exist_asks_for_nothing(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 10, "a")
    known = store.log("a")[0]["id"]
    with pytest.raises(NotFoundError, match="evt_nope"):
        store.write(request_events, key, [known, "evt_nope"], at(20))
    assert asked(store) == []


def test_what_is_being_sent_again_already_is_not_sent_twice(store: StoreDriver) -> None:
    key, other = store.subscribe("crm"), store.subscribe("other")
    happened(store, 10, "a")
    assert (ask(store, key), ask(store, key), ask(store, other)) == (3, 0, 3)
    (line, _) = claim(store, 101)
    assert ask(store, key) == 0, "under way is not done"
    for place in range(3):
        record(store, line, 102, place=place)
    assert ask(store, key) == 3, "done with: a person may ask for it again"


def test_only_failed_means_dead_letters_of_this_endpoint(store: StoreDriver) -> None:
    key = store.subscribe("crm", events=["peer.*"])
    other = store.subscribe("other")
    happened(store, 0, "a", "b")
    for seconds in (1, 6, 306):
        store.deliver(seconds, lambda cursor, _: REJECTED if cursor.target.key == key else GOOD)
    dead = len(store.dead_letters())
    assert dead == 2, "the first of each room"
    assert count_range(store, other, range_of(failed=True)) == 0
    assert ask(store, key, failed=True) == dead


def test_one_line_at_a_time_for_each_endpoint(store: StoreDriver) -> None:
    names = ["crm", "erp"]
    keys = [store.subscribe(name) for name in names]
    happened(store, 0, "a", people=LINE + 9)
    for key in keys:
        ask(store, key)
    lines = claim(store, 101)
    assert {line.target.name for line in lines} == set(names)
    assert {len(line.redeliveries) for line in lines} == {LINE}
    assert claim(store, 102) == [], "each has its one line"
    for place in range(LINE):
        assert record(store, lines[0], 103, place=place)
    (rest,) = claim(store, 104)
    assert rest.target.key == lines[0].target.key
    assert [one.event.sequence for one in rest.redeliveries] == list(range(LINE + 1, LINE + 11))


def test_a_claim_has_no_more_lines_than_asked_for(store: StoreDriver) -> None:
    for name in ("crm", "erp", "hr"):
        store.subscribe(name)
    happened(store, 0, "a")
    for row in (1, 2, 3):
        ask(store, row)
    assert [len(claim(store, 101, lines=2)), len(claim(store, 101, lines=2))] == [2, 1]


def test_what_a_dead_sender_had_claimed_is_due_again_when_its_lease_ends(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, "a", people=4)
    ask(store, key, 100)
    (line,) = claim(store, 100)
    assert line.lease_until == at(100) + LEASE
    record(store, line, 110)
    assert claim(store, 134.9) == [], "each record renews the lease of the rest"
    (again,) = claim(store, 135)
    assert [one.event.sequence for one in again.redeliveries] == [2, 3, 4, 5], "the first is done with"
    assert not record(store, line, 136, place=1), "it is not theirs any more"
    assert record(store, again, 136)
    assert len(store.attempts()) == 2, "what was fenced off is not written"


def test_a_line_that_is_given_back_is_due_at_once(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, "a")
    ask(store, key)
    (line,) = claim(store, 101)
    record(store, line, 102)
    store.write(release_redeliveries, [line], at(103))
    (again,) = claim(store, 103)
    assert [one.event.sequence for one in again.redeliveries] == [2, 3]


def test_what_waits_for_another_try_lets_the_others_pass(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, "a")
    ask(store, key)
    (line,) = claim(store, 101)
    record(store, line, 102, RETRYABLE, retry_at=at(200))
    store.write(release_redeliveries, [line], at(103))
    (rest,) = claim(store, 103)
    assert [one.event.sequence for one in rest.redeliveries] == [2, 3]
    for place in (0, 1):
        record(store, rest, 104, place=place)
    assert claim(store, 199.9) == []
    (last,) = claim(store, 200)
    assert [(one.event.sequence, one.tries) for one in last.redeliveries] == [(1, 1)]


def test_success_ends_a_dead_letter_and_failure_leaves_it(store: StoreDriver) -> None:
    key = store.subscribe(events=["peer.*"])
    happened(store, 0, "a", "b", people=1)
    for seconds in (1, 6, 306):
        store.deliver(seconds, lambda *_: REJECTED)
    ask(store, key, failed=True)
    (line,) = claim(store, 400)
    record(store, line, 401, REJECTED)
    record(store, line, 401, GOOD, place=1)
    (left,) = store.dead_letters()
    assert left.event_key == line.redeliveries[0].event.key
    assert asked(store) == ["failed", "done"]


@pytest.mark.parametrize("result", [GOOD, RETRYABLE, REJECTED, GONE])
def test_nobodys_health_depends_on_it(result: PostResult, store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, "a")
    before = (store.rows(endpoints, "id"), store.cursor(key, "a"))
    ask(store, key)
    (line,) = claim(store, 101)
    record(store, line, 102, result)
    assert (store.rows(endpoints, "id"), store.cursor(key, "a")) == before
    (attempt,) = store.attempts()
    assert (attempt.kind, attempt.outcome, attempt.started_at) == ("redelivery", result.outcome, at(102))


def test_a_disabled_endpoint_gets_them(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, "a")
    store.write(disable_endpoint, "crm")
    ask(store, key)
    assert [len(line.redeliveries) for line in claim(store, 101)] == [3]
    assert store.owed(101) == []


def test_a_removed_endpoint_takes_its_redeliveries_along(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, "a")
    ask(store, key)
    (line,) = claim(store, 101)
    store.write(remove_endpoint, "crm")
    assert not record(store, line, 102)
    assert asked(store) == []


def test_a_rate_is_shared_with_live_deliveries(store: StoreDriver) -> None:
    key = store.subscribe(rate_per_second=1)
    happened(store, 0, "a", people=1)
    ask(store, key)
    assert len(store.owed(100)) == 1
    assert claim(store, 100.5) == []
    (line,) = claim(store, 101)
    assert len(line.redeliveries) == 1


def test_a_clock_that_is_behind_claims_nothing_beyond_the_rate(store: StoreDriver) -> None:
    """Another machine's clock may be a second ahead: it has spent of what is still to come here."""
    key = store.subscribe(rate_per_second=20)
    happened(store, 0, "a", people=40)
    ask(store, key, 90)
    (first,) = claim(store, 100)
    for place in range(len(first.redeliveries)):
        record(store, first, 90, place=place)
    assert claim(store, 99) == []


def test_quiet_that_was_asked_for_holds_unless_the_endpoint_is_disabled(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, "a")
    (cursor,) = store.owed(1)
    store.settle(2, tried(cursor, 2, busy(60)))
    ask(store, key, 3)
    assert claim(store, 61.9) == []
    assert len(claim(store, 62)) == 1


@pytest.mark.parametrize("disabled", [True, False])
def test_retry_after_holds_every_redelivery_of_the_endpoint(store: StoreDriver, disabled: bool) -> None:  # noqa: FBT001 - a table's column
    key = store.subscribe()
    happened(store, 0, "a", people=40)
    store.deliver(1)
    ask(store, key)
    if disabled:
        store.write(disable_endpoint, "crm")
    (line,) = claim(store, 101)
    assert not record(store, line, 102, busy(60), retry_at=at(170))

    assert claim(store, 161) == []
    (rest,) = claim(store, 163)
    assert [one.event.sequence for one in rest.redeliveries] == list(range(2, 22)), "the first waits for its own time"


def test_quiet_that_a_live_event_was_asked_for_ends_a_line_of_redeliveries(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, "a", "b")
    store.deliver(1)
    ask(store, key)
    (line,) = claim(store, 101)
    store.poll(102, b=seen("p0"))
    store.settle(103, *(tried(cursor, 103, busy(60)) for cursor in store.owed(102)))

    assert not record(store, line, 104)
    assert claim(store, 162) == []
    assert len(claim(store, 163)) == 1


def test_redeliveries_count_as_one_of_the_endpoints_lines(store: StoreDriver) -> None:
    key = store.subscribe(max_concurrency=2)
    happened(store, 0, "a", "b", "c")
    ask(store, key, 1)
    assert len(claim(store, 1)) == 1
    assert len(store.owed(1)) == 1
    assert store.owed(2) == []


def test_the_last_place_belongs_to_live_events(store: StoreDriver) -> None:
    key = store.subscribe(max_concurrency=1)
    happened(store, 0, "a")
    ask(store, key, 1)
    assert claim(store, 1) == []
    (cursor,) = store.owed(1)
    assert claim(store, 1) == [], "two at once would be one too many"
    store.work_off(cursor, 2, lambda *_: GOOD)
    (line,) = claim(store, 3)
    assert len(line.redeliveries) == 1, "live events must not wait behind twenty"
    store.poll(10, a=seen("p0"))
    assert store.owed(10) == []
    record(store, line, 11)
    assert (claim(store, 12), len(store.owed(12))) == ([], 1)


def test_after_a_crash_they_go_on_in_the_order_of_the_log(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, "a", people=40)
    store.deliver(1)
    ask(store, key)
    claim(store, 101)
    (again,) = claim(store, 101 + LEASE.total_seconds())
    assert [one.event.sequence for one in again.redeliveries] == list(range(1, LINE + 1))


def test_all_dead_letters_means_all_whatever_the_endpoint_wants_now(store: StoreDriver) -> None:
    key = store.subscribe(events=["peer.*"])
    happened(store, 0, "a", people=1)
    for seconds in (1, 6, 306):
        store.deliver(seconds, lambda *_: REJECTED)
    store.write(lambda connection: connection.execute(update(endpoints).values(events=["room.empty"])))
    assert ask(store, key, failed=True) == 1


def test_nobody_is_told_of_themselves_by_a_replay_either(store: StoreDriver) -> None:
    crm, erp = store.subscribe("crm", events=["*"]), store.subscribe("erp", events=["*"])
    happened(store, 0, "a")
    store.deliver(1, lambda cursor, _: GONE if cursor.target.key == crm else GOOD)
    assert store.event_types(None) == ["endpoint.disabled"]
    assert (ask(store, crm), ask(store, erp)) == (3, 4)


def test_two_senders_never_have_a_line_of_one_endpoint_each(postgresql_store: StoreDriver) -> None:
    """The second one waits for the endpoint, and what it has read of it before is no longer true."""
    store = postgresql_store
    key = store.subscribe()
    happened(store, 0, "a", people=2 * LINE)
    ask(store, key)
    with meeting(store.database, lambda: claim(store, 101)) as (first, second):
        assert len(claim_redeliveries(first, **claiming(store, 101))) == 1

    assert second.result() == []


@pytest.mark.parametrize("by_id", [True, False])
def test_two_who_ask_for_the_same_at_once_get_it_once(postgresql_store: StoreDriver, by_id: bool) -> None:  # noqa: FBT001 - a table's column
    store = postgresql_store
    key = store.subscribe()
    happened(store, 0, "a")
    ids = [event["id"] for event in store.log("a")]
    wanted = store.database.read_now(find_range, key, Range())

    def request(connection: Connection) -> int:
        if by_id:
            return request_events(connection, key, ids, at(100))
        return request_some(connection, wanted, 0, at(100)).added

    with meeting(store.database, lambda: store.write(request)) as (first, second):
        assert request(first) == 3

    assert second.result() == 0
    assert asked(store) == ["owed"] * 3


def test_the_endpoint_that_waits_longest_is_replayed_to_first(store: StoreDriver) -> None:
    crm, erp, hr = (store.subscribe(name) for name in ("crm", "erp", "hr"))
    happened(store, 0, "a")
    for key, seconds in ((crm, 95), (erp, 90), (hr, 85)):
        ask(store, key, seconds)

    assert [line.target.key for _ in range(3) for line in claim(store, 100, lines=1)] == [hr, erp, crm]


def test_an_endpoint_at_its_rate_takes_no_turn_of_the_others(
    store: StoreDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redeliveries_module, "SPARE_ENDPOINTS", 0)
    slow, free = store.subscribe("slow", rate_per_second=0.1), store.subscribe("free")
    happened(store, 0, "a")
    ask(store, slow, 90)
    ask(store, free, 95)
    (line,) = claim(store, 100, lines=1)
    record(store, line, 101)

    assert [line.target.key for line in claim(store, 102, lines=1)] == [free]


@pytest.mark.parametrize("disabled", [True, False])
def test_an_endpoint_that_is_locked_is_looked_at_once_a_minute(store: StoreDriver, disabled: bool) -> None:  # noqa: FBT001 - a table's column
    store.cipher = SecretCipher(["right"])
    key = store.subscribe()
    happened(store, 0, "a")
    ask(store, key)
    if disabled:
        store.write(disable_endpoint, "crm")
    store.cipher = SecretCipher(["wrong"])
    with capture_logs() as logs:
        assert [claim(store, seconds) for seconds in (101, 101.2, 110, 160.9, 161, 161.2)] == [[]] * 6
    said = [(line["event"], line["endpoint"]) for line in logs]
    assert said == [("endpoint.locked", "crm")] * 2

    store.cipher = SecretCipher(["right"])
    assert claim(store, 220.9) == []
    assert len(claim(store, 221)) == 1, "the right key came back"


def open_circuit(store: StoreDriver, seconds: float) -> float:
    """Five rooms in trouble; answers from when on a probe may be sent."""
    store.settle(seconds, *(tried(cursor, seconds, RETRYABLE) for cursor in store.owed(seconds)))
    (row,) = store.rows(endpoints)
    assert row.circuit == "open"
    return float((row.paused_until - at(0)).total_seconds())


def test_a_replay_leaves_the_one_place_of_an_open_circuit_to_a_probe(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, *"abcde")
    ask(store, key, 1)
    (line,) = claim(store, 1)
    probed_at = open_circuit(store, 2)

    assert not record(store, line, probed_at), "a probe waits for it"
    assert claim(store, probed_at) == []
    (probe,) = store.owed(probed_at)
    store.settle(probed_at + 1, tried(probe, probed_at + 1))
    (rest,) = claim(store, probed_at + 1)
    assert rest.redeliveries == line.redeliveries[1:], "what was not sent has been given back"


def test_a_replay_goes_on_while_no_probe_waits(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, *"abcde")
    ask(store, key, 1)
    (line,) = claim(store, 1)
    probed_at = open_circuit(store, 2)
    store.write(lambda connection: connection.execute(update(cursors).values(next_attempt_at=at(3600))))

    assert record(store, line, probed_at)


CHANGES: dict[str, dict[str, Any]] = {"url": {"url": "https://new.example.com/"}, "secret": {"rotated_at": at(101)}}


@pytest.mark.parametrize("disabled", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_replay_goes_nowhere_but_where_it_was_to_go_when_it_was_claimed(
    store: StoreDriver,
    change: str,
    disabled: bool,  # noqa: FBT001 - a table's column
) -> None:
    key = store.subscribe()
    happened(store, 0, "a")
    ask(store, key)
    if disabled:
        store.write(disable_endpoint, "crm")
    (line,) = claim(store, 101)
    store.write(lambda connection: connection.execute(update(endpoints).values(**CHANGES[change])))

    assert not record(store, line, 102)
    (rest,) = claim(store, 102)
    assert rest.redeliveries == line.redeliveries[1:]
    assert (rest.target.url, rest.target.rotated_at) != (line.target.url, line.target.rotated_at)

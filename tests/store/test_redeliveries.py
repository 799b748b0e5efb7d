"""Redeliveries in the database: what a request finds, who works it off, and what becomes of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, update
from structlog.testing import capture_logs

from bridge.errors import NotFoundError
from bridge.store import redeliveries as redeliveries_module
from bridge.store import replays
from bridge.store.endpoint_state import disable_endpoint
from bridge.store.endpoints import remove_endpoint
from bridge.store.redeliveries import (
    LINE,
    ClaimedLine,
    Redelivered,
    claim_redeliveries,
    record_redelivery,
    release_lines,
)
from bridge.store.replays import Range, count_wanted, find_range, request_events, request_some
from bridge.store.settlements import Tried
from bridge.store.tables import cursors, endpoints, events, redeliveries
from bridge.store.vault import Vault
from bridge.webhooks.delivery import Outcome
from tests.store.duels import meeting
from tests.store.stage import GONE, GOOD, REFUSED, TROUBLE, Stage, at, busy, peer, seen, tried

TIMEOUT = timedelta(seconds=15)
LEASE = timedelta(seconds=25)


def claim(stage: Stage, seconds: float, *, lines: int = 10) -> list[ClaimedLine]:
    return stage.write(claim_redeliveries, **claiming(stage, seconds, lines=lines))


def claiming(stage: Stage, seconds: float, *, lines: int = 10) -> dict[str, Any]:
    """What a claim needs to know."""
    now, token = at(seconds), stage.token()
    return {"lines": lines, "now": now, "timeout": TIMEOUT, "token": token, "vault": stage.vault}


def record(
    stage: Stage,
    line: ClaimedLine,
    seconds: float,
    outcome: Outcome = GOOD,
    *,
    place: int = 0,
    retry_at: datetime | None = None,
) -> bool:
    redelivery = line.redeliveries[place]
    done = Redelivered(
        line=line,
        redelivery=redelivery,
        tried=Tried(event=redelivery.event, outcome=outcome, started_at=at(seconds)),
        retry_at=retry_at,
        lease_until=at(seconds) + LEASE,
    )
    return stage.write(record_redelivery, done)


def happened(stage: Stage, seconds: float, *rooms: str, people: int = 2) -> None:
    """An occupied room and `people` joins in each."""
    stage.track(*rooms, seconds=seconds)
    stage.poll(seconds, **{room: seen(*(peer(f"p{number}", 0) for number in range(people))) for room in rooms})


def ask(
    stage: Stage,
    key: int,
    seconds: float = 100,
    *,
    since: float | None = None,
    until: float | None = None,
    failed: bool = False,
) -> int:
    wanted = stage.database.read_now(find_range, key, range_of(since=since, until=until, failed=failed))
    added, after = 0, 0
    while True:
        progress = stage.write(request_some, wanted, after, at(seconds))
        added += progress.added
        if progress.after is None:
            return added
        after = progress.after


def count_range(stage: Stage, key: int, asked: Range) -> int:
    return stage.database.read_now(count_wanted, stage.database.read_now(find_range, key, asked))


def range_of(*, since: float | None = None, until: float | None = None, failed: bool = False) -> Range:
    return Range(
        since=None if since is None else at(since), until=None if until is None else at(until), only_failed=failed
    )


def asked(stage: Stage) -> list[str]:
    """The states of all that was asked for, in the order of the log."""
    return [row.state for row in stage.rows(redeliveries, "event_key")]


def test_a_range_takes_what_was_recorded_in_it_and_nothing_at_its_end(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 10, "a")
    happened(stage, 20, "b")
    happened(stage, 30, "c")
    counts = [
        count_range(stage, key, range_of(since=since, until=until))
        for since, until in [(None, None), (20, None), (None, 20), (20, 30), (20.001, 30), (40, None)]
    ]
    assert counts == [9, 6, 3, 3, 0, 0]
    assert ask(stage, key, since=20, until=30) == 3
    (line,) = claim(stage, 101)
    assert [(one.room_id, one.event.sequence) for one in line.redeliveries] == [("b", 1), ("b", 2), ("b", 3)]


def test_a_long_range_is_asked_for_in_steps_and_nothing_twice(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "AT_ONCE", 4)
    key = stage.subscribe(events=["peer.*"], rooms=["a", "b"])
    happened(stage, 10, "a", "b", "c", people=5)
    wanted = stage.database.read_now(find_range, key, Range())
    first = stage.write(request_some, wanted, 0, at(20))
    assert first.after is not None
    assert first.added <= 4
    happened(stage, 30, "d", people=5)

    assert first.added + ask(stage, key, 40) == count_range(stage, key, Range()) == 10
    assert ask(stage, key, 50) == 0


def test_a_range_takes_only_what_the_endpoint_wants_had_or_not(stage: Stage) -> None:
    happened(stage, 10, "a", "b")
    key = stage.subscribe(events=["peer.*"], rooms=["b"])
    assert ask(stage, key) == 2, "from before it was added, too"
    (line,) = claim(stage, 101)
    assert [(one.room_id, one.event.type) for one in line.redeliveries] == [("b", "peer.joined")] * 2


def test_single_events_are_sent_whatever_the_endpoint_wants(stage: Stage) -> None:
    key = stage.subscribe(events=["room.empty"])
    happened(stage, 10, "a")
    first, second, _ = (event["id"] for event in stage.log("a"))
    assert stage.write(request_events, key, [second, first, second], at(20)) == 2
    (line,) = claim(stage, 20)
    assert [one.event.public_id for one in line.redeliveries] == [first, second]
    assert [one.event.body for one in line.redeliveries] == [bytes(row.body) for row in stage.rows(events, "id")[:2]]


def test_an_event_that_does_not_exist_asks_for_nothing(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 10, "a")
    known = stage.log("a")[0]["id"]
    with pytest.raises(NotFoundError, match="evt_nope"):
        stage.write(request_events, key, [known, "evt_nope"], at(20))
    assert asked(stage) == []


def test_what_is_being_sent_again_already_is_not_sent_twice(stage: Stage) -> None:
    key, other = stage.subscribe("crm"), stage.subscribe("other")
    happened(stage, 10, "a")
    assert (ask(stage, key), ask(stage, key), ask(stage, other)) == (3, 0, 3)
    (line, _) = claim(stage, 101)
    assert ask(stage, key) == 0, "under way is not done"
    for place in range(3):
        record(stage, line, 102, place=place)
    assert ask(stage, key) == 3, "done with: a person may ask for it again"


def test_only_failed_means_dead_letters_of_this_endpoint(stage: Stage) -> None:
    key = stage.subscribe("crm", events=["peer.*"])
    other = stage.subscribe("other")
    happened(stage, 0, "a", "b")
    for seconds in (1, 6, 306):
        stage.deliver(seconds, lambda cursor, _: REFUSED if cursor.target.key == key else GOOD)
    dead = len(stage.dead_letters())
    assert dead == 2, "the first of each room"
    assert count_range(stage, other, range_of(failed=True)) == 0
    assert ask(stage, key, failed=True) == dead


def test_one_line_at_a_time_for_each_endpoint(stage: Stage) -> None:
    names = ["crm", "erp"]
    keys = [stage.subscribe(name) for name in names]
    happened(stage, 0, "a", people=LINE + 9)
    for key in keys:
        ask(stage, key)
    lines = claim(stage, 101)
    assert {line.target.name for line in lines} == set(names)
    assert {len(line.redeliveries) for line in lines} == {LINE}
    assert claim(stage, 102) == [], "each has its one line"
    for place in range(LINE):
        assert record(stage, lines[0], 103, place=place)
    (rest,) = claim(stage, 104)
    assert rest.target.key == lines[0].target.key
    assert [one.event.sequence for one in rest.redeliveries] == list(range(LINE + 1, LINE + 11))


def test_a_claim_has_no_more_lines_than_asked_for(stage: Stage) -> None:
    for name in ("crm", "erp", "hr"):
        stage.subscribe(name)
    happened(stage, 0, "a")
    for row in (1, 2, 3):
        ask(stage, row)
    assert [len(claim(stage, 101, lines=2)), len(claim(stage, 101, lines=2))] == [2, 1]


def test_what_a_dead_sender_had_claimed_is_due_again_when_its_lease_ends(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, "a", people=4)
    ask(stage, key, 100)
    (line,) = claim(stage, 100)
    assert line.lease_until == at(100) + LEASE
    record(stage, line, 110)
    assert claim(stage, 134.9) == [], "each record renews the lease of the rest"
    (again,) = claim(stage, 135)
    assert [one.event.sequence for one in again.redeliveries] == [2, 3, 4, 5], "the first is done with"
    assert not record(stage, line, 136, place=1), "it is not theirs any more"
    assert record(stage, again, 136)
    assert len(stage.attempts()) == 2, "what was fenced off is not written"


def test_a_line_that_is_given_back_is_due_at_once(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, "a")
    ask(stage, key)
    (line,) = claim(stage, 101)
    record(stage, line, 102)
    stage.write(release_lines, [line], at(103))
    (again,) = claim(stage, 103)
    assert [one.event.sequence for one in again.redeliveries] == [2, 3]


def test_what_waits_for_another_try_lets_the_others_pass(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, "a")
    ask(stage, key)
    (line,) = claim(stage, 101)
    record(stage, line, 102, TROUBLE, retry_at=at(200))
    stage.write(release_lines, [line], at(103))
    (rest,) = claim(stage, 103)
    assert [one.event.sequence for one in rest.redeliveries] == [2, 3]
    for place in (0, 1):
        record(stage, rest, 104, place=place)
    assert claim(stage, 199.9) == []
    (last,) = claim(stage, 200)
    assert [(one.event.sequence, one.tries) for one in last.redeliveries] == [(1, 1)]


def test_success_ends_a_dead_letter_and_failure_leaves_it(stage: Stage) -> None:
    key = stage.subscribe(events=["peer.*"])
    happened(stage, 0, "a", "b", people=1)
    for seconds in (1, 6, 306):
        stage.deliver(seconds, lambda *_: REFUSED)
    ask(stage, key, failed=True)
    (line,) = claim(stage, 400)
    record(stage, line, 401, REFUSED)
    record(stage, line, 401, GOOD, place=1)
    (left,) = stage.dead_letters()
    assert left.event_key == line.redeliveries[0].event.key
    assert asked(stage) == ["failed", "done"]


@pytest.mark.parametrize("outcome", [GOOD, TROUBLE, REFUSED, GONE])
def test_nobodys_health_depends_on_it(outcome: Outcome, stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, "a")
    before = (stage.rows(endpoints, "id"), stage.cursor(key, "a"))
    ask(stage, key)
    (line,) = claim(stage, 101)
    record(stage, line, 102, outcome)
    assert (stage.rows(endpoints, "id"), stage.cursor(key, "a")) == before
    (attempt,) = stage.attempts()
    assert (attempt.kind, attempt.verdict, attempt.started_at) == ("redelivery", outcome.verdict, at(102))


def test_a_disabled_endpoint_gets_them(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, "a")
    stage.write(disable_endpoint, "crm")
    ask(stage, key)
    assert [len(line.redeliveries) for line in claim(stage, 101)] == [3]
    assert stage.owed(101) == []


def test_a_removed_endpoint_takes_its_redeliveries_along(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, "a")
    ask(stage, key)
    (line,) = claim(stage, 101)
    stage.write(remove_endpoint, "crm")
    assert not record(stage, line, 102)
    assert asked(stage) == []


def test_a_rate_is_shared_with_live_deliveries(stage: Stage) -> None:
    key = stage.subscribe(rate_per_second=1)
    happened(stage, 0, "a", people=1)
    ask(stage, key)
    assert len(stage.owed(100)) == 1
    assert claim(stage, 100.5) == []
    (line,) = claim(stage, 101)
    assert len(line.redeliveries) == 1


def test_a_clock_that_is_behind_claims_nothing_beyond_the_rate(stage: Stage) -> None:
    """Another machine's clock may be a second ahead: it has spent of what is still to come here."""
    key = stage.subscribe(rate_per_second=20)
    happened(stage, 0, "a", people=40)
    ask(stage, key, 90)
    (first,) = claim(stage, 100)
    for place in range(len(first.redeliveries)):
        record(stage, first, 90, place=place)
    assert claim(stage, 99) == []


def test_quiet_that_was_asked_for_holds_unless_the_endpoint_is_disabled(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, "a")
    (cursor,) = stage.owed(1)
    stage.settle(2, tried(cursor, 2, busy(60)))
    ask(stage, key, 3)
    assert claim(stage, 61.9) == []
    assert len(claim(stage, 62)) == 1


@pytest.mark.parametrize("disabled", [True, False])
def test_retry_after_holds_every_redelivery_of_the_endpoint(stage: Stage, disabled: bool) -> None:  # noqa: FBT001 - a table's column
    key = stage.subscribe()
    happened(stage, 0, "a", people=40)
    stage.deliver(1)
    ask(stage, key)
    if disabled:
        stage.write(disable_endpoint, "crm")
    (line,) = claim(stage, 101)
    assert not record(stage, line, 102, busy(60), retry_at=at(170))

    assert claim(stage, 161) == []
    (rest,) = claim(stage, 163)
    assert [one.event.sequence for one in rest.redeliveries] == list(range(2, 22)), "the first waits for its own time"


def test_quiet_that_a_live_event_was_asked_for_ends_a_line_of_redeliveries(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, "a", "b")
    stage.deliver(1)
    ask(stage, key)
    (line,) = claim(stage, 101)
    stage.poll(102, b=seen("p0"))
    stage.settle(103, *(tried(cursor, 103, busy(60)) for cursor in stage.owed(102)))

    assert not record(stage, line, 104)
    assert claim(stage, 162) == []
    assert len(claim(stage, 163)) == 1


def test_redeliveries_count_as_one_of_the_endpoints_lines(stage: Stage) -> None:
    key = stage.subscribe(max_concurrency=2)
    happened(stage, 0, "a", "b", "c")
    ask(stage, key, 1)
    assert len(claim(stage, 1)) == 1
    assert len(stage.owed(1)) == 1
    assert stage.owed(2) == []


def test_the_last_place_belongs_to_live_events(stage: Stage) -> None:
    key = stage.subscribe(max_concurrency=1)
    happened(stage, 0, "a")
    ask(stage, key, 1)
    assert claim(stage, 1) == []
    (cursor,) = stage.owed(1)
    assert claim(stage, 1) == [], "two at once would be one too many"
    stage.work_off(cursor, 2, lambda *_: GOOD)
    (line,) = claim(stage, 3)
    assert len(line.redeliveries) == 1, "live events must not wait behind twenty"
    stage.poll(10, a=seen("p0"))
    assert stage.owed(10) == []
    record(stage, line, 11)
    assert (claim(stage, 12), len(stage.owed(12))) == ([], 1)


def test_after_a_crash_they_go_on_in_the_order_of_the_log(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, "a", people=40)
    stage.deliver(1)
    ask(stage, key)
    claim(stage, 101)
    (again,) = claim(stage, 101 + LEASE.total_seconds())
    assert [one.event.sequence for one in again.redeliveries] == list(range(1, LINE + 1))


def test_all_dead_letters_means_all_whatever_the_endpoint_wants_now(stage: Stage) -> None:
    key = stage.subscribe(events=["peer.*"])
    happened(stage, 0, "a", people=1)
    for seconds in (1, 6, 306):
        stage.deliver(seconds, lambda *_: REFUSED)
    stage.write(lambda connection: connection.execute(update(endpoints).values(events=["room.empty"])))
    assert ask(stage, key, failed=True) == 1


def test_nobody_is_told_of_themselves_by_a_replay_either(stage: Stage) -> None:
    crm, erp = stage.subscribe("crm", events=["*"]), stage.subscribe("erp", events=["*"])
    happened(stage, 0, "a")
    stage.deliver(1, lambda cursor, _: GONE if cursor.target.key == crm else GOOD)
    assert stage.told(None) == ["endpoint.disabled"]
    assert (ask(stage, crm), ask(stage, erp)) == (3, 4)


def test_two_senders_never_have_a_line_of_one_endpoint_each(postgresql_stage: Stage) -> None:
    """The second one waits for the endpoint, and what it has read of it before is no longer true."""
    stage = postgresql_stage
    key = stage.subscribe()
    happened(stage, 0, "a", people=2 * LINE)
    ask(stage, key)
    with meeting(stage.database, lambda: claim(stage, 101)) as (first, second):
        assert len(claim_redeliveries(first, **claiming(stage, 101))) == 1

    assert second.result() == []


@pytest.mark.parametrize("by_id", [True, False])
def test_two_who_ask_for_the_same_at_once_get_it_once(postgresql_stage: Stage, by_id: bool) -> None:  # noqa: FBT001 - a table's column
    stage = postgresql_stage
    key = stage.subscribe()
    happened(stage, 0, "a")
    ids = [event["id"] for event in stage.log("a")]
    wanted = stage.database.read_now(find_range, key, Range())

    def request(connection: Connection) -> int:
        if by_id:
            return request_events(connection, key, ids, at(100))
        return request_some(connection, wanted, 0, at(100)).added

    with meeting(stage.database, lambda: stage.write(request)) as (first, second):
        assert request(first) == 3

    assert second.result() == 0
    assert asked(stage) == ["owed"] * 3


def test_the_endpoint_that_waits_longest_is_replayed_to_first(stage: Stage) -> None:
    crm, erp, hr = (stage.subscribe(name) for name in ("crm", "erp", "hr"))
    happened(stage, 0, "a")
    for key, seconds in ((crm, 95), (erp, 90), (hr, 85)):
        ask(stage, key, seconds)

    assert [line.target.key for _ in range(3) for line in claim(stage, 100, lines=1)] == [hr, erp, crm]


def test_an_endpoint_at_its_rate_takes_no_turn_of_the_others(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redeliveries_module, "SPARE_TURNS", 0)
    slow, free = stage.subscribe("slow", rate_per_second=0.1), stage.subscribe("free")
    happened(stage, 0, "a")
    ask(stage, slow, 90)
    ask(stage, free, 95)
    (line,) = claim(stage, 100, lines=1)
    record(stage, line, 101)

    assert [line.target.key for line in claim(stage, 102, lines=1)] == [free]


@pytest.mark.parametrize("disabled", [True, False])
def test_an_endpoint_that_is_locked_is_looked_at_once_a_minute(stage: Stage, disabled: bool) -> None:  # noqa: FBT001 - a table's column
    stage.vault = Vault(["right"])
    key = stage.subscribe()
    happened(stage, 0, "a")
    ask(stage, key)
    if disabled:
        stage.write(disable_endpoint, "crm")
    stage.vault = Vault(["wrong"])
    with capture_logs() as logs:
        assert [claim(stage, seconds) for seconds in (101, 101.2, 110, 160.9, 161, 161.2)] == [[]] * 6
    said = [(line["event"], line["endpoint"]) for line in logs]
    assert said == [("endpoint.locked", "crm")] * 2

    stage.vault = Vault(["right"])
    assert claim(stage, 220.9) == []
    assert len(claim(stage, 221)) == 1, "the right key came back"


def open_circuit(stage: Stage, seconds: float) -> float:
    """Five rooms in trouble; answers from when on a probe may be sent."""
    stage.settle(seconds, *(tried(cursor, seconds, TROUBLE) for cursor in stage.owed(seconds)))
    (row,) = stage.rows(endpoints)
    assert row.circuit == "open"
    return float((row.held_until - at(0)).total_seconds())


def test_a_replay_leaves_the_one_place_of_an_open_circuit_to_a_probe(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, *"abcde")
    ask(stage, key, 1)
    (line,) = claim(stage, 1)
    probed_at = open_circuit(stage, 2)

    assert not record(stage, line, probed_at), "a probe waits for it"
    assert claim(stage, probed_at) == []
    (probe,) = stage.owed(probed_at)
    stage.settle(probed_at + 1, tried(probe, probed_at + 1))
    (rest,) = claim(stage, probed_at + 1)
    assert rest.redeliveries == line.redeliveries[1:], "what was not sent has been given back"


def test_a_replay_goes_on_while_no_probe_waits(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, *"abcde")
    ask(stage, key, 1)
    (line,) = claim(stage, 1)
    probed_at = open_circuit(stage, 2)
    stage.write(lambda connection: connection.execute(update(cursors).values(next_attempt_at=at(3600))))

    assert record(stage, line, probed_at)


CHANGES: dict[str, dict[str, Any]] = {"url": {"url": "https://new.example.com/"}, "secret": {"rotated_at": at(101)}}


@pytest.mark.parametrize("disabled", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_replay_goes_nowhere_but_where_it_was_to_go_when_it_was_claimed(
    stage: Stage,
    change: str,
    disabled: bool,  # noqa: FBT001 - a table's column
) -> None:
    key = stage.subscribe()
    happened(stage, 0, "a")
    ask(stage, key)
    if disabled:
        stage.write(disable_endpoint, "crm")
    (line,) = claim(stage, 101)
    stage.write(lambda connection: connection.execute(update(endpoints).values(**CHANGES[change])))

    assert not record(stage, line, 102)
    (rest,) = claim(stage, 102)
    assert rest.redeliveries == line.redeliveries[1:]
    assert (rest.target.url, rest.target.rotated_at) != (line.target.url, line.target.rotated_at)

"""T4: what attempts do to lines and to their endpoints."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from bridge.errors import DatabaseError
from bridge.store.settlements import settle
from bridge.store.tables import attempts, endpoints
from bridge.webhooks.delivery import Cause, DeliveryPolicy, Outcome, Verdict
from tests.store.stage import GONE, GOOD, REFUSED, TROUBLE, Stage, at, busy, by_room, passed_over, peer, seen, tried


def lined_up(stage: Stage, *names: str, people: int = 2, **spec: Any) -> int:  # noqa: ANN401 - fields of EndpointSpec
    """An endpoint that is owed `people` joins in each of these rooms (and one event more)."""
    stage.track(*names)
    key = stage.subscribe(**spec)
    stage.poll(0, **{name: seen(*(peer(f"p{number}", 0) for number in range(people))) for name in names})
    return key


def test_a_success_acknowledges_and_goes_on(stage: Stage) -> None:
    key = lined_up(stage, "a")
    (cursor,) = stage.owed(1, token="mine")
    (settled,) = stage.settle(2, tried(cursor, 2, goes_on=True))

    row = stage.cursor(key, "a")
    assert (settled.keeps_claim, settled.owes, settled.fenced) == (True, False, False)
    assert (row.acked, row.claim_token, row.next_attempt_at) == (1, "mine", at(2 + 25))
    assert stage.owed(3) == []


def test_a_success_that_ends_the_claim_frees_the_line(stage: Stage) -> None:
    key = lined_up(stage, "a")
    (cursor,) = stage.owed(1)
    (settled,) = stage.settle(2, tried(cursor, 2))

    row = stage.cursor(key, "a")
    assert (settled.keeps_claim, settled.owes) == (False, True)
    assert (row.acked, row.claim_token) == (1, None)
    assert [event.sequence for event in stage.owed(2)[0].events] == [2, 3]


def test_an_attempt_is_kept_with_what_the_operator_needs(stage: Stage) -> None:
    key = lined_up(stage, "a")
    (cursor,) = stage.owed(1)
    outcome = Outcome(
        verdict=Verdict.TROUBLE,
        duration=timedelta(seconds=1.5),
        status=503,
        cause=Cause.STATUS,
        detail="answered 503\x00",
        answer=b"\x00\xff" + b"x" * 5000,
    )
    stage.settle(2, tried(cursor, 2, outcome))

    (row,) = stage.attempts()
    assert (row.endpoint_key, row.event_key, row.started_at) == (key, cursor.events[0].key, at(2))
    assert (row.verdict, row.status, row.cause, row.duration_seconds) == ("trouble", 503, "status", 1.5)
    assert "\x00" not in row.detail + row.answer
    assert len(row.answer) == 1024


def test_trouble_waits_by_the_schedule_and_keeps_the_event(stage: Stage) -> None:
    key = lined_up(stage, "a")
    now, waits = 1.0, []
    for _ in range(4):
        (cursor,) = stage.owed(now)
        assert cursor.events[0].sequence == 1
        (settled,) = stage.settle(now, tried(cursor, now, TROUBLE, goes_on=True))
        assert not settled.keeps_claim
        assert settled.retry_at is not None
        assert stage.cursor(key, "a").next_attempt_at == settled.retry_at
        waits.append((settled.retry_at - at(now)).total_seconds())
        now += waits[-1]

    assert waits == [5, 30, 120, 300]
    assert stage.cursor(key, "a").acked == 0


def test_a_refused_event_is_parked_after_its_schedule_and_the_room_goes_on(stage: Stage) -> None:
    key = lined_up(stage, "a")
    now = 1.0
    for wait in (5, 300):
        (cursor,) = stage.owed(now)
        (settled,) = stage.settle(now, tried(cursor, now, REFUSED))
        assert settled.retry_at == at(now + wait)
        now += wait
    (cursor,) = stage.owed(now)
    (settled,) = stage.settle(now, tried(cursor, now, REFUSED, goes_on=True))

    assert settled.dead_letter
    assert settled.keeps_claim
    (dead,) = stage.dead_letters()
    assert (dead.endpoint_key, dead.event_key, dead.reason, dead.tries) == (key, cursor.events[0].key, "refused", 3)
    row = stage.cursor(key, "a")
    assert (row.acked, row.refusals, row.troubles) == (1, 0, 0)


def test_gone_disables_at_once_and_keeps_the_backlog(stage: Stage) -> None:
    key = lined_up(stage, "a", "b")
    other = stage.subscribe("other", events=["endpoint.*"])
    first, second = stage.owed(1)
    (settled,) = stage.settle(2, tried(first, 2, GONE, goes_on=True))

    assert (settled.disabled, settled.keeps_claim) == (True, False)
    row = next(row for row in stage.rows(endpoints, "id") if row.id == key)
    assert (row.state, row.state_reason) == ("disabled", "gone")
    assert stage.cursor(key, "a").acked == 0
    assert stage.told(None) == ["endpoint.disabled"]
    assert stage.cursor(other, None).head == 1
    assert stage.cursor(key, None) is None, "the endpoint itself is told nothing of this"
    stage.settle(3, tried(second, 3, GONE))
    assert stage.told(None) == ["endpoint.disabled"]


def test_a_line_that_is_being_worked_off_stops_when_its_endpoint_is_disabled(stage: Stage) -> None:
    key = lined_up(stage, "a", "b")
    first, second = stage.owed(1)
    stage.settle(2, tried(first, 2, GONE))
    (settled,) = stage.settle(3, tried(second, 3, goes_on=True))

    assert not settled.may_go_on, "410 disables at once: the other rooms' lines must not go on posting"
    assert not settled.keeps_claim, "nothing is on its way behind this event that would have to be recorded"
    assert stage.cursor(key, second.room_id).acked == 1


def test_a_line_that_is_being_worked_off_heeds_retry_after_of_another(stage: Stage) -> None:
    lined_up(stage, "a", "b")
    first, second = stage.owed(1)
    stage.settle(2, tried(first, 2, busy(60)))
    (settled,) = stage.settle(3, tried(second, 3, goes_on=True))

    assert not settled.may_go_on, "`Retry-After` speaks for the endpoint: none of its lines is tried before"
    stage.settle(3, tried(second, 3, place=1, acked=1))
    assert stage.owed(61.9) == []
    assert len(stage.owed(62)) == 2


def test_retry_after_of_a_batch_holds_however_the_batch_is_ordered(stage: Stage) -> None:
    lined_up(stage, "a", "b")
    first, second = stage.owed(1)
    settled = stage.settle(2, tried(first, 2, busy(60)), tried(second, 2, goes_on=True))

    assert [one.may_go_on for one in settled] == [False, False]


def test_nothing_is_written_for_a_claim_that_is_gone(stage: Stage) -> None:
    key = lined_up(stage, "a")
    (stale,) = stage.owed(1)
    later = (stale.lease_until - at(0)).total_seconds()
    (current,) = stage.owed(later)
    (settled,) = stage.settle(later + 1, tried(stale, later + 1, goes_on=True))

    assert settled.fenced
    assert not settled.keeps_claim
    row = stage.cursor(key, "a")
    assert (row.acked, row.claim_token, row.next_attempt_at) == (0, current.token, current.lease_until)
    assert stage.attempts() == []


def test_nothing_is_written_for_a_line_that_has_moved(stage: Stage) -> None:
    key = lined_up(stage, "a")
    (cursor,) = stage.owed(1)
    stage.settle(2, tried(cursor, 2, goes_on=True))
    (again,) = stage.settle(3, tried(cursor, 3, goes_on=True))

    assert again.fenced
    assert stage.cursor(key, "a").acked == 1
    assert len(stage.attempts()) == 1


def test_a_stale_and_a_current_settlement_in_one_batch(stage: Stage) -> None:
    key = lined_up(stage, "a", "b")
    claimed = by_room(stage.owed(1))
    later = (claimed["a"].lease_until - at(0)).total_seconds()
    current = by_room(stage.owed(later))
    settled = stage.settle(later, tried(claimed["a"], later), tried(current["b"], later), tried(current["a"], later))

    assert [one.fenced for one in settled] == [True, False, False]
    assert (stage.cursor(key, "a").acked, stage.cursor(key, "b").acked) == (1, 1)
    assert len(stage.attempts()) == 2


def test_a_stale_settlement_says_nothing_of_the_endpoint(stage: Stage) -> None:
    lined_up(stage, "a")
    (stale,) = stage.owed(1)
    later = (stale.lease_until - at(0)).total_seconds()
    stage.owed(later)
    stage.settle(later, tried(stale, later, GONE))

    assert stage.rows(endpoints, "id")[0].state == "active"


def test_a_removed_endpoint_is_fenced_off(stage: Stage) -> None:
    key = lined_up(stage, "a")
    (cursor,) = stage.owed(1)
    stage.write(lambda connection: connection.execute(endpoints.delete().where(endpoints.c.id == key)))
    (settled,) = stage.settle(2, tried(cursor, 2))

    assert settled.fenced


def move(stage: Stage) -> None:
    stage.write(lambda connection: connection.execute(update(endpoints).values(url="https://new.example.com/")))


@pytest.mark.parametrize("outcome", [GONE, TROUBLE, REFUSED, busy(60)], ids=["gone", "trouble", "refused", "busy"])
def test_what_an_old_address_says_against_an_endpoint_means_nothing(stage: Stage, outcome: Outcome) -> None:
    key = lined_up(stage, "a")
    (cursor,) = stage.owed(1)
    move(stage)
    (settled,) = stage.settle(2, tried(cursor, 2, outcome, goes_on=True))

    assert (settled.keeps_claim, settled.disabled, settled.dead_letter, settled.owes) == (False, False, False, True)
    (row,) = stage.rows(endpoints, "id")
    health = (row.state, row.circuit, row.failures_in_row, row.failing_since, row.held_until)
    assert health == ("active", "closed", 0, None, None)
    assert len(stage.attempts()) == 1, "it is known all the same"
    row = stage.cursor(key, "a")
    assert (row.acked, row.troubles, row.refusals, row.first_failed_at) == (0, 0, 0, None)
    (again,) = stage.owed(2)
    assert (again.events[0], again.target.url) == (cursor.events[0], "https://new.example.com/")


def test_what_an_old_address_accepted_is_done_and_says_nothing_of_the_new_one(stage: Stage) -> None:
    key = lined_up(stage, "a")
    (cursor,) = stage.owed(1)
    move(stage)
    (settled,) = stage.settle(2, tried(cursor, 2, goes_on=True))

    assert not settled.keeps_claim, "the line goes on at the new address"
    assert stage.cursor(key, "a").acked == 1
    assert stage.rows(endpoints, "id")[0].last_success_at is None


def test_a_batch_is_written_whole_or_not_at_all(stage: Stage) -> None:
    key = lined_up(stage, "a", "b")
    stage.subscribe("other", events=["endpoint.*"])
    first, second = stage.owed(1)
    taken = stage.log("a")[0]["id"]

    with pytest.raises(DatabaseError):
        stage.write(
            settle,
            [tried(first, 2), tried(second, 2, GONE)],
            policy=stage.policy,
            new_id=lambda _: taken,
        )

    assert stage.attempts() == []
    assert [stage.cursor(key, name).acked for name in ("a", "b")] == [0, 0]
    assert {row.state for row in stage.rows(endpoints, "id")} == {"active"}


def test_passing_over_is_no_attempt(stage: Stage) -> None:
    key = lined_up(stage, "a")
    (cursor,) = stage.owed(1)
    (settled,) = stage.settle(2, passed_over(cursor, 2))

    assert stage.attempts() == []
    assert stage.cursor(key, "a").acked == cursor.reach
    assert not settled.owes


@pytest.mark.parametrize("order", [1, -1])
def test_lines_of_several_endpoints_in_one_batch(stage: Stage, order: int) -> None:
    stage.track("a", "b")
    good, bad = stage.subscribe("good"), stage.subscribe("bad")
    stage.poll(0, a=seen("p"), b=seen("p"))
    claimed = stage.owed(1)[::order]
    settled = stage.settle(2, *(tried(one, 2, GOOD if one.target.name == "good" else TROUBLE) for one in claimed))

    assert len(settled) == 4
    assert [stage.cursor(key, name).acked for key in (good, bad) for name in ("a", "b")] == [1, 1, 0, 0]
    health = {row.name: (row.failures_in_row, row.last_success_at) for row in stage.rows(endpoints, "id")}
    assert health == {"good": (0, at(2)), "bad": (2, None)}


def test_the_circuit_opens_after_several_events_in_trouble_and_not_by_one(stage: Stage) -> None:
    names = [f"r{number}" for number in range(5)]
    lined_up(stage, *names)
    claimed = stage.owed(1)
    for number, cursor in enumerate(claimed):
        assert stage.rows(endpoints, "id")[0].circuit == "closed"
        stage.settle(2 + number, tried(cursor, 2 + number, TROUBLE))

    assert stage.rows(endpoints, "id")[0].circuit == "open"


def test_recovery_is_told_to_the_others_and_releases_the_backlog(stage: Stage) -> None:
    names = [f"r{number}" for number in range(5)]
    key = lined_up(stage, *names)
    stage.subscribe("other", events=["endpoint.*"], rooms=["none"])
    stage.settle(2, *(tried(cursor, 2, TROUBLE) for cursor in stage.owed(1)))
    (probe,) = [one for one in stage.owed(3600) if one.target.key == key]
    (settled,) = stage.settle(3601, tried(probe, 3601))

    assert settled.released
    assert stage.told(None) == ["endpoint.recovered"]
    assert stage.log(None)[0]["data"]["since"] == "2026-11-23T09:00:02.000Z"
    assert {stage.cursor(key, name).troubles for name in names} == {0}
    assert len([one for one in stage.owed(3601) if one.target.key == key]) == 5


def test_a_lone_poison_event_is_parked_in_the_end_and_others_never_wait(stage: Stage) -> None:
    stage.policy = DeliveryPolicy(retry_schedule=(timedelta(seconds=5), timedelta(seconds=30)))
    key = lined_up(stage, "poison", "fine", events=["peer.*"])
    now = 1.0
    for turn in range(40):
        stage.deliver(now, lambda cursor, _: TROUBLE if cursor.room_id == "poison" and cursor.acked == 1 else GOOD)
        row = stage.cursor(key, "fine")
        assert row.acked == row.head, "another room's event must not wait for the poison one"
        now += 10
        if stage.dead_letters():
            break
        stage.poll(now, fine=seen(f"p{turn}"))

    assert [dead.reason for dead in stage.dead_letters()] == ["exhausted"]
    assert stage.cursor(key, "poison").acked == stage.cursor(key, "poison").head


def test_an_endpoint_that_never_answers_is_disabled_after_so_long(stage: Stage) -> None:
    stage.policy = DeliveryPolicy(disable_after=timedelta(hours=1))
    key = lined_up(stage, "a")
    now = 1.0
    for _ in range(200):
        claimed = stage.owed(now)
        stage.settle(now, *(tried(cursor, now, TROUBLE) for cursor in claimed))
        now += 60
        if stage.rows(endpoints, "id")[0].state != "active":
            break

    (row,) = stage.rows(endpoints, "id")
    assert (row.state, row.state_reason) == ("disabled", "failing")
    assert now >= 3600
    assert (stage.cursor(key, "a").acked, stage.dead_letters()) == (0, [])
    stage.write(lambda connection: connection.execute(update(endpoints).values(state="active", held_until=None)))
    assert len(stage.deliver(now + 86_400)) == 3


def test_attempts_stand_for_every_post_and_in_order(stage: Stage) -> None:
    lined_up(stage, "a", "b", people=4)
    stage.deliver(1)

    kinds = {(row.kind, row.verdict) for row in stage.rows(attempts, "id")}
    assert kinds == {("live", "delivered")}
    assert len(stage.attempts()) == 10

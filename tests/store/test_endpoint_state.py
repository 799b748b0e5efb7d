"""What a person does to an endpoint that runs: nothing it is owed is lost by it."""

from __future__ import annotations

from datetime import timedelta
from itertools import count

import pytest

from bridge.errors import NotFoundError, UsageError
from bridge.store.deliveries import target_of
from bridge.store.endpoint_state import disable_endpoint, enable_endpoint, rotate_secret
from bridge.store.endpoints import Desk
from bridge.store.tables import endpoints
from tests.store.stage import GONE, REFUSED, SECRET, TROUBLE, Stage, at, busy, peer, seen, tried


def happened(stage: Stage, seconds: float, *rooms: str, people: int = 1) -> None:
    stage.track(*rooms, seconds=seconds)
    stage.poll(seconds, **{room: seen(*(peer(f"p{number}", 0) for number in range(people))) for room in rooms})


def endpoint(stage: Stage, name: str = "crm") -> tuple[str, str | None]:
    row = next(row for row in stage.rows(endpoints, "id") if row.name == name)
    return row.state, row.state_reason


def numbered_secrets(stage: Stage, seconds: float, *, grace: timedelta = timedelta(hours=24)) -> Desk:
    """A desk whose secrets tell when they were made."""
    numbers = count(1)
    return Desk(
        now=at(seconds),
        new_id=stage.new_id,
        new_secret=lambda signature: f"{signature}-{seconds:g}-{next(numbers)}",
        vault=stage.vault,
        rotation_grace=grace,
    )


def signing(stage: Stage, seconds: float) -> tuple[str, ...]:
    return stage.database.read_now(target_of, "crm", now=at(seconds), vault=stage.vault).secrets


def test_a_disabled_endpoint_is_left_alone_and_its_backlog_grows(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, "a")
    assert stage.write(disable_endpoint, "crm")
    assert not stage.write(disable_endpoint, "crm"), "it was disabled already"
    assert endpoint(stage) == ("disabled", "operator")
    stage.poll(10, a=seen("p0", "q"))
    assert stage.owed(86_400) == []
    assert (stage.cursor(key, "a").acked, stage.cursor(key, "a").head) == (0, 3)
    assert stage.write(enable_endpoint, "crm", at(86_400))
    assert endpoint(stage) == ("active", None)
    assert stage.deliver(86_400) == [event["id"] for event in stage.log("a")]


def test_a_line_that_is_being_worked_off_ends_when_a_person_disables_its_endpoint(stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, "a", people=5)
    (cursor,) = stage.owed(1)
    stage.write(disable_endpoint, "crm")
    (settled,) = stage.settle(2, tried(cursor, 2, goes_on=True))
    assert not settled.may_go_on
    assert stage.cursor(key, "a").acked == 1, "what was delivered stays delivered"


@pytest.mark.parametrize("outcome", [TROUBLE, REFUSED, GONE, busy(3600)])
def test_enabling_makes_everything_due_at_once_whatever_it_waited_for(outcome: object, stage: Stage) -> None:
    key = stage.subscribe()
    happened(stage, 0, *(f"r{number}" for number in range(6)))
    stage.settle(2, *(tried(cursor, 2, outcome) for cursor in stage.owed(1)))  # type: ignore[arg-type]  # an Outcome
    assert stage.owed(2.5) == []
    was_disabled = stage.write(enable_endpoint, "crm", at(3))
    assert was_disabled == (outcome is GONE)
    assert len(stage.owed(3)) == 6
    row = next(row for row in stage.rows(endpoints, "id") if row.id == key)
    health = (row.circuit, row.failures_in_row, row.failing_since, row.held_until, row.probes)
    assert health == ("closed", 0, None, None, 0)
    line = stage.cursor(key, "r0")
    assert (line.troubles, line.refusals, line.first_failed_at, line.last_failed_at) == (0, 0, None, None)


def test_enabling_takes_no_line_from_who_is_working_on_it(stage: Stage) -> None:
    stage.subscribe()
    happened(stage, 0, "a")
    (cursor,) = stage.owed(1)
    stage.write(enable_endpoint, "crm", at(2))
    assert stage.owed(2) == []
    (settled,) = stage.settle(3, tried(cursor, 3))
    assert not settled.fenced


def test_only_the_endpoint_that_is_named_is_touched(stage: Stage) -> None:
    stage.subscribe("crm")
    stage.subscribe("other")
    happened(stage, 0, "a")
    stage.write(disable_endpoint, "crm")
    assert endpoint(stage, "other") == ("active", None)
    assert [cursor.target.name for cursor in stage.owed(1)] == ["other"]
    stage.settle(2, *(tried(cursor, 2, TROUBLE) for cursor in stage.owed(30)))
    stage.write(enable_endpoint, "crm", at(3))
    assert [cursor.target.name for cursor in stage.owed(3)] == ["crm"]


def test_an_endpoint_is_found_by_its_id_too_and_unknown_ones_are_named(stage: Stage) -> None:
    stage.subscribe()
    public_id = stage.rows(endpoints, "id")[0].public_id
    assert stage.write(disable_endpoint, public_id)
    assert stage.write(enable_endpoint, public_id, at(1))
    with pytest.raises(NotFoundError, match="'nobody'"):
        stage.write(disable_endpoint, "nobody")
    with pytest.raises(NotFoundError, match="'nobody'"):
        stage.write(enable_endpoint, "nobody", at(1))
    with pytest.raises(NotFoundError, match="'nobody'"):
        stage.write(rotate_secret, "nobody", stage.desk(), None)


def test_both_secrets_sign_while_the_grace_lasts_the_new_one_first(stage: Stage) -> None:
    stage.subscribe(secret=None)
    fresh = stage.write(rotate_secret, "crm", numbered_secrets(stage, 10, grace=timedelta(seconds=60)), None)
    assert fresh == "v1-10-1"
    assert signing(stage, 10) == signing(stage, 69.9) == (fresh, SECRET)
    assert signing(stage, 70) == (fresh,)


def test_the_grace_of_one_rotation_can_be_chosen(stage: Stage) -> None:
    stage.subscribe(secret=None)
    fresh = stage.write(rotate_secret, "crm", numbered_secrets(stage, 10), timedelta(seconds=5))
    assert (signing(stage, 14.9), signing(stage, 15)) == ((fresh, SECRET), (fresh,))


def test_no_grace_means_none(stage: Stage) -> None:
    """For a secret that has leaked."""
    stage.subscribe(secret=None)
    fresh = stage.write(rotate_secret, "crm", numbered_secrets(stage, 10), timedelta(0))
    assert signing(stage, 10) == (fresh,)


def test_a_second_rotation_breaks_no_promise_of_the_first(stage: Stage) -> None:
    stage.subscribe(secret=None)
    first = stage.write(rotate_secret, "crm", numbered_secrets(stage, 10), timedelta(seconds=60))
    second = stage.write(rotate_secret, "crm", numbered_secrets(stage, 20), timedelta(seconds=20))
    assert signing(stage, 21) == signing(stage, 39) == (second, first, SECRET)
    assert signing(stage, 40) == (second, SECRET)
    assert signing(stage, 70) == (second,)


def test_a_rotation_without_grace_ends_every_older_secret(stage: Stage) -> None:
    stage.subscribe(secret=None)
    stage.write(rotate_secret, "crm", numbered_secrets(stage, 10), None)
    fresh = stage.write(rotate_secret, "crm", numbered_secrets(stage, 20), timedelta(0))
    assert signing(stage, 20) == (fresh,)


def test_a_signing_key_is_replaced_by_one(stage: Stage) -> None:
    stage.subscribe(secret=None, signature="v1a")
    assert stage.write(rotate_secret, "crm", numbered_secrets(stage, 10), None).startswith("v1a-")


def test_a_secret_that_somebody_chose_is_not_replaced(stage: Stage) -> None:
    stage.subscribe(secret=SECRET)
    with pytest.raises(UsageError) as caught:
        stage.write(rotate_secret, "crm", stage.desk(10), None)
    assert SECRET not in str(caught.value)
    assert signing(stage, 11) == (SECRET,)

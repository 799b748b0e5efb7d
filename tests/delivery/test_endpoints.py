"""What a person does to an endpoint that runs: nothing it is owed is lost by it."""

from __future__ import annotations

from datetime import timedelta
from itertools import count

import pytest

from bridge.db.tables import endpoints
from bridge.delivery.claim import load_target
from bridge.delivery.endpoints import EndpointContext, disable_endpoint, enable_endpoint, rotate_secret
from bridge.errors import NotFoundError, UsageError
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import GONE, REJECTED, RETRYABLE, SECRET, StoreDriver, busy, tried


def happened(store: StoreDriver, seconds: float, *rooms: str, people: int = 1) -> None:
    store.track(*rooms, seconds=seconds)
    store.poll(
        seconds,
        **{room: seen(*(peer(f"p{number}", 0) for number in range(people))) for room in rooms},
    )


def endpoint(store: StoreDriver, name: str = "crm") -> tuple[str, str | None]:
    row = next(row for row in store.rows(endpoints, "id") if row.name == name)
    return row.state, row.state_reason


def numbered_secrets(store: StoreDriver, seconds: float, *, grace: timedelta = timedelta(hours=24)) -> EndpointContext:
    """A context whose secrets tell when they were made."""
    numbers = count(1)
    return EndpointContext(
        now=at(seconds),
        new_id=store.new_id,
        new_secret=lambda signature: f"{signature}-{seconds:g}-{next(numbers)}",
        cipher=store.cipher,
        rotation_grace=grace,
    )


def signing(store: StoreDriver, seconds: float) -> tuple[str, ...]:
    return store.database.read_now(load_target, "crm", now=at(seconds), cipher=store.cipher).secrets


def test_a_disabled_endpoint_is_left_alone_and_its_backlog_grows(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, "a")
    assert store.write(disable_endpoint, "crm")
    assert not store.write(disable_endpoint, "crm"), "it was disabled already"
    assert endpoint(store) == ("disabled", "operator")
    store.poll(10, a=seen("p0", "q"))
    assert store.owed(86_400) == []
    assert (store.cursor(key, "a").acked, store.cursor(key, "a").head) == (0, 3)
    assert store.write(enable_endpoint, "crm", at(86_400))
    assert endpoint(store) == ("active", None)
    assert store.deliver(86_400) == [event["id"] for event in store.log("a")]


def test_a_line_that_is_being_worked_off_ends_when_a_person_disables_its_endpoint(store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, "a", people=5)
    (cursor,) = store.owed(1)
    store.write(disable_endpoint, "crm")
    (settled,) = store.settle(2, tried(cursor, 2, goes_on=True))
    assert not settled.may_go_on
    assert store.cursor(key, "a").acked == 1, "what was delivered stays delivered"


@pytest.mark.parametrize("result", [RETRYABLE, REJECTED, GONE, busy(3600)])
def test_enabling_makes_everything_due_at_once_whatever_it_waited_for(result: object, store: StoreDriver) -> None:
    key = store.subscribe()
    happened(store, 0, *(f"r{number}" for number in range(6)))
    store.settle(2, *(tried(cursor, 2, result) for cursor in store.owed(1)))  # type: ignore[arg-type]  # an PostResult
    assert store.owed(2.5) == []
    was_disabled = store.write(enable_endpoint, "crm", at(3))
    assert was_disabled == (result is GONE)
    assert len(store.owed(3)) == 6
    row = next(row for row in store.rows(endpoints, "id") if row.id == key)
    health = (row.circuit, row.failures_in_row, row.failing_since, row.paused_until, row.probes)
    assert health == ("closed", 0, None, None, 0)
    line = store.cursor(key, "r0")
    assert (line.failed_attempts, line.rejections, line.first_failed_at, line.last_failed_at) == (0, 0, None, None)


def test_enabling_takes_no_line_from_who_is_working_on_it(store: StoreDriver) -> None:
    store.subscribe()
    happened(store, 0, "a")
    (cursor,) = store.owed(1)
    store.write(enable_endpoint, "crm", at(2))
    assert store.owed(2) == []
    (settled,) = store.settle(3, tried(cursor, 3))
    assert not settled.fenced


def test_only_the_endpoint_that_is_named_is_touched(store: StoreDriver) -> None:
    store.subscribe("crm")
    store.subscribe("other")
    happened(store, 0, "a")
    store.write(disable_endpoint, "crm")
    assert endpoint(store, "other") == ("active", None)
    assert [cursor.target.name for cursor in store.owed(1)] == ["other"]
    store.settle(2, *(tried(cursor, 2, RETRYABLE) for cursor in store.owed(30)))
    store.write(enable_endpoint, "crm", at(3))
    assert [cursor.target.name for cursor in store.owed(3)] == ["crm"]


def test_an_endpoint_is_found_by_its_id_too_and_unknown_ones_are_named(store: StoreDriver) -> None:
    store.subscribe()
    public_id = store.rows(endpoints, "id")[0].public_id
    assert store.write(disable_endpoint, public_id)
    assert store.write(enable_endpoint, public_id, at(1))
    with pytest.raises(NotFoundError, match="'nobody'"):
        store.write(disable_endpoint, "nobody")
    with pytest.raises(NotFoundError, match="'nobody'"):
        store.write(enable_endpoint, "nobody", at(1))
    with pytest.raises(NotFoundError, match="'nobody'"):
        store.write(rotate_secret, "nobody", store.context(), None)


def test_both_secrets_sign_while_the_grace_lasts_the_new_one_first(store: StoreDriver) -> None:
    store.subscribe(secret=None)
    fresh = store.write(rotate_secret, "crm", numbered_secrets(store, 10, grace=timedelta(seconds=60)), None)
    assert fresh == "v1-10-1"
    assert signing(store, 10) == signing(store, 69.9) == (fresh, SECRET)
    assert signing(store, 70) == (fresh,)


def test_the_grace_of_one_rotation_can_be_chosen(store: StoreDriver) -> None:
    store.subscribe(secret=None)
    fresh = store.write(rotate_secret, "crm", numbered_secrets(store, 10), timedelta(seconds=5))
    assert (signing(store, 14.9), signing(store, 15)) == ((fresh, SECRET), (fresh,))


def test_no_grace_means_none(store: StoreDriver) -> None:
    """For a secret that has leaked."""
    store.subscribe(secret=None)
    fresh = store.write(rotate_secret, "crm", numbered_secrets(store, 10), timedelta(0))
    assert signing(store, 10) == (fresh,)


def test_a_second_rotation_breaks_no_promise_of_the_first(store: StoreDriver) -> None:
    store.subscribe(secret=None)
    first = store.write(rotate_secret, "crm", numbered_secrets(store, 10), timedelta(seconds=60))
    second = store.write(rotate_secret, "crm", numbered_secrets(store, 20), timedelta(seconds=20))
    assert signing(store, 21) == signing(store, 39) == (second, first, SECRET)
    assert signing(store, 40) == (second, SECRET)
    assert signing(store, 70) == (second,)


def test_a_rotation_without_grace_ends_every_older_secret(store: StoreDriver) -> None:
    store.subscribe(secret=None)
    store.write(rotate_secret, "crm", numbered_secrets(store, 10), None)
    fresh = store.write(rotate_secret, "crm", numbered_secrets(store, 20), timedelta(0))
    assert signing(store, 20) == (fresh,)


def test_a_signing_key_is_replaced_by_one(store: StoreDriver) -> None:
    store.subscribe(secret=None, signature="v1a")
    assert store.write(rotate_secret, "crm", numbered_secrets(store, 10), None).startswith("v1a-")


def test_a_secret_that_somebody_chose_is_not_replaced(store: StoreDriver) -> None:
    store.subscribe(secret=SECRET)
    with pytest.raises(UsageError) as caught:
        store.write(rotate_secret, "crm", store.context(10), None)
    assert SECRET not in str(caught.value)
    assert signing(store, 11) == (SECRET,)

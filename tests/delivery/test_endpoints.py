"""Changes that an operator makes to a running endpoint: none of its events is lost."""

from __future__ import annotations

from datetime import timedelta
from itertools import count

import pytest

from bridge.db.tables import endpoints
from bridge.delivery.endpoints import disable_endpoint, enable_endpoint, rotate_secret
from bridge.delivery.plan import Moved
from bridge.delivery.secrets import EndpointContext
from bridge.delivery.targets import load_target
from bridge.errors import NotFoundError, UsageError
from bridge.rules.delivery import PostResult
from tests.harness.builders import at, seen
from tests.harness.store_driver import GONE, REJECTED, RETRYABLE, SECRET, StoreDriver, attempted, busy


def endpoint(store: StoreDriver, name: str = "crm") -> tuple[str, str | None]:
    row = next(row for row in store.rows(endpoints, "id") if row.name == name)
    return row.state, row.state_reason


def numbered_secrets(store: StoreDriver, seconds: float, *, grace: timedelta = timedelta(hours=24)) -> EndpointContext:
    """A context whose secrets contain the time at which they were generated."""
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


def test_a_disabled_endpoint_gets_nothing_and_keeps_its_backlog(store: StoreDriver) -> None:
    key = store.subscribe()
    store.record_joins(0, "a", people=1)
    assert store.write(disable_endpoint, "crm")
    assert not store.write(disable_endpoint, "crm"), "it was disabled already"
    assert endpoint(store) == ("disabled", "operator")
    store.poll(10, a=seen("p0", "q"))
    assert store.owed(86_400) == []
    assert (store.cursor(key, "a").acked, store.cursor(key, "a").head) == (0, 3)
    assert store.write(enable_endpoint, "crm", at(86_400))
    assert endpoint(store) == ("active", None)
    assert store.deliver(86_400) == [event["id"] for event in store.log("a")]


@pytest.mark.parametrize("result", [RETRYABLE, REJECTED, GONE, busy(3600)])
def test_enabling_makes_everything_due_at_once(result: PostResult, store: StoreDriver) -> None:
    key = store.subscribe()
    store.record_joins(0, *(f"r{number}" for number in range(6)))
    store.report(2, *(attempted(cursor, 2, result) for cursor in store.owed(1)))
    assert store.owed(2.5) == []
    was_disabled = store.write(enable_endpoint, "crm", at(3))
    assert was_disabled == (result is GONE)
    assert len(store.owed(3)) == 6
    row = next(row for row in store.rows(endpoints, "id") if row.id == key)
    health = (row.circuit, row.failures_in_row, row.failing_since, row.paused_until, row.probes)
    assert health == ("closed", 0, None, None, 0)
    cursor = store.cursor(key, "r0")
    assert (cursor.failed_attempts, cursor.rejections, cursor.last_failed_at) == (0, 0, None)


def test_enabling_keeps_claims(store: StoreDriver) -> None:
    store.subscribe()
    store.record_joins(0, "a")
    (cursor,) = store.owed(1)
    store.write(enable_endpoint, "crm", at(2))
    assert store.owed(2) == []
    assert store.report(3, attempted(cursor, 3)) == [Moved(keeps_claim=False, owes_more=True)]


def test_other_endpoints_are_not_changed(store: StoreDriver) -> None:
    store.subscribe("crm")
    store.subscribe("other")
    store.record_joins(0, "a")
    store.write(disable_endpoint, "crm")
    assert endpoint(store, "other") == ("active", None)
    claimed = store.owed(1)
    assert [cursor.target.name for cursor in claimed] == ["other"]
    store.report(2, *(attempted(cursor, 2, RETRYABLE) for cursor in claimed))
    store.write(enable_endpoint, "crm", at(3))
    assert [cursor.target.name for cursor in store.owed(3)] == ["crm"]


def test_an_endpoint_is_found_by_its_name_or_id(store: StoreDriver) -> None:
    store.subscribe()
    public_id = store.rows(endpoints, "id")[0].public_id
    assert store.write(disable_endpoint, public_id)
    assert store.write(enable_endpoint, public_id, at(1))
    with pytest.raises(NotFoundError, match="'unknown'"):
        store.write(disable_endpoint, "unknown")


def test_both_secrets_sign_during_the_grace_the_new_one_first(store: StoreDriver) -> None:
    store.subscribe(secret=None)
    fresh = store.write(rotate_secret, "crm", numbered_secrets(store, 10, grace=timedelta(seconds=60)), None)
    assert fresh == "v1-10-1"
    assert signing(store, 10) == signing(store, 69.9) == (fresh, SECRET)
    assert signing(store, 70) == (fresh,)


def test_a_second_rotation_does_not_shorten_the_grace_of_the_first(store: StoreDriver) -> None:
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


def test_a_signing_key_is_replaced_by_a_signing_key(store: StoreDriver) -> None:
    store.subscribe(secret=None, signature="v1a")
    assert store.write(rotate_secret, "crm", numbered_secrets(store, 10), None).startswith("v1a-")


def test_a_secret_that_was_not_generated_is_not_replaced(store: StoreDriver) -> None:
    store.subscribe(secret=SECRET)
    with pytest.raises(UsageError) as caught:
        store.write(rotate_secret, "crm", store.context(10), None)
    assert SECRET not in str(caught.value)
    assert signing(store, 11) == (SECRET,)

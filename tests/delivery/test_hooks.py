"""REST hooks: a URL that responds 410 is unsubscribed."""

from __future__ import annotations

import pytest

from bridge.db.tables import attempts, cursors, dead_letters, endpoint_secrets, endpoints, redeliveries
from bridge.delivery.claim import claim_redeliveries
from bridge.delivery.hooks import AddedHook, add_hook, remove_hook
from bridge.delivery.plan import Attempt, Fenced, Moved, Removed
from bridge.delivery.redeliver import Redelivered, record_redelivery
from bridge.delivery.replay import request_events
from bridge.errors import ConflictError
from tests.harness.builders import at
from tests.harness.store_driver import GONE, GOOD, StoreDriver, attempted

DEFAULT = ("peer.joined", "peer.left", "room.empty")
URL = "https://hooks.example.com/catch/1"


def subscribed(store: StoreDriver, *types: str, room_id: str | None = None) -> AddedHook:
    return store.write(add_hook, URL, types or DEFAULT, room_id, store.context())


def left_of_hooks(store: StoreDriver) -> list[int]:
    """Rows of each table that refer to any endpoint."""
    return [
        len(store.rows(one)) for one in (endpoints, endpoint_secrets, cursors, attempts, dead_letters, redeliveries)
    ]


def test_a_hook_that_is_gone_is_removed_with_its_backlog_by_the_transaction_that_records_it(
    store: StoreDriver,
) -> None:
    subscribed(store, "peer.*")
    store.record_joins(0, "a", "b", "c")
    first, second, third = store.owed(1)
    reports = [attempted(first, 2, GOOD), attempted(second, 2, GONE), attempted(third, 2, GONE)]

    recorded = store.report(2, *reports)

    assert recorded == [Moved(keeps_claim=False, owes_more=True), Removed(), Fenced()]
    assert left_of_hooks(store) == [0] * 6
    assert store.log(None) == []
    assert store.report(3, attempted(first, 3, GOOD)) == [Fenced()]


def test_only_the_hook_that_is_gone_is_removed(store: StoreDriver) -> None:
    gone, kept = subscribed(store), subscribed(store)
    assert gone.id != kept.id
    crm = store.subscribe("crm", events=("endpoint.*",))
    store.subscribe("erp")
    store.record_joins(0, "a")

    store.deliver(1, lambda cursor, _: GONE if cursor.target.name in (gone.name, "erp") else GOOD)

    assert [row.name for row in store.rows(endpoints, "id")] == [kept.name, "crm", "erp"]
    assert [row.state for row in store.rows(endpoints, "id")] == ["active", "active", "disabled"]
    assert [event["data"]["endpoint"] for event in store.log(None)] == ["erp"]
    assert store.cursor(crm, None).head == 1


def test_a_redelivery_that_finds_a_hook_gone_removes_it(store: StoreDriver) -> None:
    hook = subscribed(store)
    store.record_joins(0, "a", people=1)
    (event_id,) = store.deliver(1)
    (row,) = store.rows(endpoints)
    store.write(request_events, row.id, [event_id], at(2))
    (claimed,) = store.write(claim_redeliveries, store.terms(3)).items
    (redelivery,) = claimed.redeliveries
    attempt = Attempt(event=redelivery.event, result=GONE, started_at=at(3))

    done = Redelivered(claimed=claimed, redelivery=redelivery, attempt=attempt, retry_at=None)

    assert (row.name, claimed.target.name) == (hook.name, hook.name)
    assert store.write(record_redelivery, done) is False
    assert left_of_hooks(store) == [0] * 6


def test_a_hook_of_one_room_gets_no_other_whatever_its_id_looks_like(store: StoreDriver) -> None:
    hook = subscribed(store, room_id="a*[b]")
    store.record_joins(0, "a*[b]", "axx", "axb", people=1)

    assert [(cursor.target.name, cursor.room_id) for cursor in store.owed(1)] == [(hook.name, "a*[b]")]


def test_removing_a_hook_again_changes_nothing_and_no_other_endpoint_is_removed(store: StoreDriver) -> None:
    hook = subscribed(store)
    store.subscribe("crm")
    store.record_joins(0, "a")
    crm = store.rows(endpoints, "id")[1]

    store.write(remove_hook, hook.id)
    store.write(remove_hook, hook.id)
    with pytest.raises(ConflictError, match="is not a REST hook"):
        store.write(remove_hook, crm.public_id)

    assert [row.name for row in store.rows(endpoints)] == ["crm"]
    assert [row.endpoint_key for row in store.rows(cursors)] == [crm.id]

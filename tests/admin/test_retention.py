"""Retention: older attempts are deleted, nothing else, and by one process at a time."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, func, insert, select

from bridge.admin.retention import ROWS_AT_ONCE, prune_attempts
from bridge.db.encryption import delete_expired_secrets
from bridge.db.jobs import claim_job, finish_job
from bridge.db.tables import attempts, endpoint_secrets, events, redeliveries
from bridge.delivery.endpoints import rotate_secret
from bridge.delivery.replay import request_events
from bridge.delivery.targets import load_target
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import SECRET, StoreDriver


def prune(store: StoreDriver, before: float) -> int:
    return store.write(prune_attempts, at(before))


def attempt_times(store: StoreDriver) -> list[object]:
    return [row.started_at for row in store.attempts()]


def test_only_attempts_older_than_retention_are_deleted(store: StoreDriver) -> None:
    key = store.subscribe(events=["peer.joined"])
    store.track("a")
    for number in range(4):
        store.poll(100 * number, a=seen(*(peer(f"p{other}", 0) for other in range(number + 1))))
        store.deliver(100 * number)
    assert attempt_times(store) == [at(0), at(100), at(200), at(300)]
    cursor, log = store.cursor(key, "a"), store.log("a")

    assert prune(store, 0) == 0
    assert prune(store, 200) == 2
    assert attempt_times(store) == [at(200), at(300)], "an attempt at that time is not older"
    assert prune(store, 200) == 0
    assert (store.cursor(key, "a"), store.log("a")) == (cursor, log)


def test_redeliveries_that_are_still_owed_stay_at_any_age(store: StoreDriver) -> None:
    key = store.subscribe()
    store.track("a")
    store.poll(0, a=seen("p"))
    for seconds, event in zip((1, 2, 3), [*store.log("a"), store.log("a")[0]], strict=True):
        store.write(request_events, key, [event["id"]], at(seconds))

    def finish(connection: Connection) -> None:
        first = store.rows(redeliveries, "id")[0].id
        connection.execute(redeliveries.update().where(redeliveries.c.id == first).values(state="done"))

    store.write(finish)
    store.write(request_events, key, [store.log("a")[0]["id"]], at(1000))
    assert prune(store, 500) == 1
    assert [(row.state, row.requested_at) for row in store.rows(redeliveries, "id")] == [
        ("owed", at(2)),
        ("owed", at(1000)),
    ]


def test_many_attempts_are_deleted_in_steps(store: StoreDriver) -> None:
    key = store.subscribe()
    store.track("a")
    store.poll(0, a=seen("p"))
    event = store.rows(events, "id")[0].id
    row = {
        "endpoint_key": key,
        "event_key": event,
        "kind": "live",
        "duration_seconds": 0.1,
        "outcome": "delivered",
        "detail": "",
        "response": "",
    }
    many = [row | {"started_at": at(number)} for number in range(ROWS_AT_ONCE + 10)]
    store.write(lambda connection: connection.execute(insert(attempts), many))
    counts = [prune(store, ROWS_AT_ONCE + 5) for _ in range(3)]
    assert counts == [ROWS_AT_ONCE, 5, 0]
    left = store.database.read_now(lambda connection: connection.execute(select(func.count(attempts.c.id))).scalar())
    assert left == 5


def test_secrets_whose_grace_is_over_are_deleted(store: StoreDriver) -> None:
    store.subscribe(secret=None)
    store.write(rotate_secret, "crm", store.context(0), timedelta(seconds=60))
    assert store.write(delete_expired_secrets, at(59.9)) == 0
    assert len(store.rows(endpoint_secrets, "id")) == 2
    assert store.write(delete_expired_secrets, at(60)) == 1
    assert len(store.rows(endpoint_secrets, "id")) == 1
    assert store.database.read_now(load_target, "crm", now=at(60), cipher=store.cipher).secrets == (SECRET,)


def claim(store: StoreDriver, token: str, seconds: float, name: str = "prune") -> bool:
    return store.write(claim_job, name, every=timedelta(seconds=300), now=at(seconds), token=token)


def finish(store: StoreDriver, token: str, next_run: float) -> None:
    store.write(finish_job, "prune", token=token, next_run_at=at(next_run))


def test_one_process_at_a_time_does_a_job_that_is_due(store: StoreDriver) -> None:
    assert claim(store, "mine", 0)
    assert not claim(store, "yours", 1)
    assert claim(store, "yours", 1, name="another job")
    finish(store, "mine", 300)
    assert not claim(store, "yours", 299)
    assert claim(store, "yours", 300)


def test_a_job_of_a_process_that_died_is_done_by_another(store: StoreDriver) -> None:
    assert claim(store, "dead", 0)
    store.lose_claims()
    assert claim(store, "alive", 1)
    finish(store, "dead", 300)
    assert not claim(store, "dead", 301), "it was fenced"


def test_a_job_planned_for_later_than_its_interval_is_due(store: StoreDriver) -> None:
    assert claim(store, "mine", 0)
    finish(store, "mine", 3600)
    assert not claim(store, "mine", 3300)
    assert claim(store, "mine", 3299)

"""Retention: what is older than it is forgotten, nothing else, and by one process at a time."""

from __future__ import annotations

import threading
from datetime import timedelta

from sqlalchemy import Connection, func, insert, select

from bridge.store.database import Database
from bridge.store.deliveries import target_of
from bridge.store.endpoint_state import rotate_secret
from bridge.store.leases import take_lease
from bridge.store.prune import AT_ONCE, prune_attempts
from bridge.store.replays import request_events
from bridge.store.sealing import prune_secrets
from bridge.store.tables import attempts, endpoint_secrets, events, redeliveries
from tests.store.stage import REFUSED, SECRET, Stage, at, peer, seen


def prune(stage: Stage, before: float) -> int:
    return stage.write(prune_attempts, at(before))


def tried_at(stage: Stage) -> list[object]:
    return [row.started_at for row in stage.attempts()]


def test_attempts_older_than_retention_go_and_the_others_stay(stage: Stage) -> None:
    key = stage.subscribe(events=["peer.joined"])
    stage.track("a")
    for number in range(4):
        stage.poll(100 * number, a=seen(*(peer(f"p{other}", 0) for other in range(number + 1))))
        stage.deliver(100 * number)
    assert tried_at(stage) == [at(0), at(100), at(200), at(300)]
    cursor, log = stage.cursor(key, "a"), stage.log("a")

    assert prune(stage, 0) == 0
    assert prune(stage, 200) == 2
    assert tried_at(stage) == [at(200), at(300)], "one from the very moment is not older"
    assert prune(stage, 200) == 0
    assert (stage.cursor(key, "a"), stage.log("a")) == (cursor, log)


def test_a_dead_letter_outlives_its_attempts(stage: Stage) -> None:
    stage.subscribe(events=["peer.joined"])
    stage.track("a")
    stage.poll(0, a=seen("p"))
    for seconds in (1, 6, 306):
        stage.deliver(seconds, lambda *_: REFUSED)
    assert prune(stage, 10_000) == 3
    assert [row.tries for row in stage.dead_letters()] == [3]


def test_redeliveries_that_are_still_owed_are_kept_however_old(stage: Stage) -> None:
    key = stage.subscribe()
    stage.track("a")
    stage.poll(0, a=seen("p"))
    for seconds, event in zip((1, 2, 3), [*stage.log("a"), stage.log("a")[0]], strict=True):
        stage.write(request_events, key, [event["id"]], at(seconds))

    def finish(connection: Connection) -> None:
        first = stage.rows(redeliveries, "id")[0].id
        connection.execute(redeliveries.update().where(redeliveries.c.id == first).values(state="done"))

    stage.write(finish)
    stage.write(request_events, key, [stage.log("a")[0]["id"]], at(1000))
    assert prune(stage, 500) == 1
    assert [(row.state, row.requested_at) for row in stage.rows(redeliveries, "id")] == [
        ("owed", at(2)),
        ("owed", at(1000)),
    ]


def test_a_great_deal_is_forgotten_little_by_little(stage: Stage) -> None:
    key = stage.subscribe()
    stage.track("a")
    stage.poll(0, a=seen("p"))
    event = stage.rows(events, "id")[0].id
    row = {
        "endpoint_key": key,
        "event_key": event,
        "kind": "live",
        "duration_seconds": 0.1,
        "verdict": "delivered",
        "detail": "",
        "answer": "",
    }
    many = [row | {"started_at": at(number)} for number in range(AT_ONCE + 10)]
    stage.write(lambda connection: connection.execute(insert(attempts), many))
    counts = [prune(stage, AT_ONCE + 5) for _ in range(3)]
    assert counts == [AT_ONCE, 5, 0]
    left = stage.database.read_now(lambda connection: connection.execute(select(func.count(attempts.c.id))).scalar())
    assert left == 5


def test_secrets_whose_grace_is_over_are_forgotten(stage: Stage) -> None:
    stage.subscribe(secret=None)
    stage.write(rotate_secret, "crm", stage.desk(0), timedelta(seconds=60))
    assert stage.write(prune_secrets, at(59.9)) == 0
    assert len(stage.rows(endpoint_secrets, "id")) == 2
    assert stage.write(prune_secrets, at(60)) == 1
    assert len(stage.rows(endpoint_secrets, "id")) == 1
    assert stage.database.read_now(target_of, "crm", now=at(60), vault=stage.vault).secrets == (SECRET,)


def lease(stage: Stage, token: str, seconds: float, until: float, name: str = "prune") -> bool:
    return stage.write(take_lease, name, token, at(seconds), at(until))


def test_one_process_at_a_time_holds_a_lease_until_it_ends(stage: Stage) -> None:
    assert lease(stage, "mine", 0, 300)
    assert not lease(stage, "yours", 1, 301)
    assert lease(stage, "yours", 1, 301, name="another job")
    assert lease(stage, "mine", 100, 400), "its holder may renew it"
    assert not lease(stage, "yours", 399.9, 700)
    assert lease(stage, "yours", 400, 700), "a holder that died does not hold it for ever"
    assert not lease(stage, "mine", 401, 701)


def test_of_many_that_ask_at_once_one_gets_it(migrated_url: str) -> None:
    together = threading.Barrier(4)
    given: list[str] = []

    def ask(token: str) -> None:
        database = Database(migrated_url)
        together.wait()
        if database.write_now(take_lease, "prune", token, at(0), at(300)):
            given.append(token)
        database.close()

    asking = [threading.Thread(target=ask, args=(f"token-{number}",)) for number in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(given) == 1

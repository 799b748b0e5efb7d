"""What the configuration owns follows the file; what was made by hand is left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, update
from structlog.testing import capture_logs

from bridge.db.tables import cursors, endpoint_secrets, endpoints, rooms, sources
from bridge.delivery.endpoints import (
    EndpointContext,
    EndpointSpec,
    add_endpoint,
    enable_endpoint,
    find_endpoint,
    remove_endpoint,
    replace_secret,
    secrets_of,
)
from bridge.errors import NotFoundError, UsageError
from bridge.polling.plan import PollingSettings
from bridge.polling.rooms import RoomSpec, add_room, apply_shorter_intervals, find_room, remove_room
from tests.harness.builders import at, seen
from tests.harness.deadlocks import meeting
from tests.harness.store_driver import GONE, RETRYABLE, SECRET, StoreDriver, attempted, busy

OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
THIRD = "whsec_" + "A" * 32


def room(upstream_id: str, **spec: Any) -> RoomSpec:  # noqa: ANN401 - fields of a RoomSpec
    return RoomSpec(**({"source": "main", "upstream_id": upstream_id} | spec))


def endpoint(name: str = "crm", **spec: Any) -> EndpointSpec:  # noqa: ANN401 - fields of an EndpointSpec
    return EndpointSpec(**({"name": name, "url": "https://crm.example.com/", "secret": SECRET} | spec))


def load(
    store: StoreDriver,
    *,
    rooms: tuple[RoomSpec, ...] = (),
    endpoints: tuple[EndpointSpec, ...] = (),
    seconds: float = 0,
) -> None:
    store.write(apply_configuration, sources=["main"], rooms=rooms, endpoints=endpoints, context=store.context(seconds))
    store.append_snapshots(seconds)


def stored(store: StoreDriver, name: str = "crm") -> Any:  # noqa: ANN401 - a row
    return store.database.read_now(find_endpoint, name)


def secrets(store: StoreDriver, seconds: float, name: str = "crm") -> list[str]:
    key = stored(store, name).id
    return store.database.read_now(secrets_of, [key], at(seconds), store.cipher)[key]


def test_what_the_file_names_is_there_afterwards_and_twice_is_once(store: StoreDriver) -> None:
    spec = room("a", name="A", interval=timedelta(seconds=5), leave_after_missed=2)
    for seconds in (0, 10):
        load(store, rooms=(spec, room("off", enabled=False)), endpoints=(endpoint(),), seconds=seconds)

    a, off = store.room("a"), store.room("off")
    assert (a.name, a.interval_seconds, a.leave_after_missed, a.origin, a.next_poll_at) == (
        "A",
        5.0,
        2,
        "config",
        at(0),
    )
    assert (off.tracked, off.enabled, off.next_poll_at) == (True, False, None)
    assert [row.name for row in store.rows(sources, "name")] == ["main"]
    assert (stored(store).origin, stored(store).state) == ("config", "active")
    assert len(store.rows(endpoint_secrets, "id")) == 1


def test_a_changed_room_changes_and_keeps_its_presence_and_its_turn(store: StoreDriver) -> None:
    load(store, rooms=(room("a", name="A"),))
    store.poll(0, a=seen("p"))
    load(store, rooms=(room("a", name="B"),), seconds=5)

    assert (store.room("a").name, store.room("a").next_poll_at) == ("B", at(10))
    store.poll(10, a=seen())
    assert [one["data"]["room_name"] for one in store.log("a")] == ["A", "A", "B", "B"]


def test_no_room_waits_longer_than_its_interval_when_that_becomes_shorter(store: StoreDriver) -> None:
    store.settings = PollingSettings(interval=timedelta(hours=1))
    load(store, rooms=(room("own", interval=timedelta(hours=2)), room("default"), room("claimed")))
    store.poll(0, own=seen(), default=seen(), claimed=seen())
    (claimed,) = store.claim(3600, limit=1)
    load(store, rooms=(room("own", interval=timedelta(seconds=7)), room("default"), room("claimed")), seconds=3600)

    store.write(apply_shorter_intervals, timedelta(seconds=5), at(3600))
    due = {row.upstream_id: row.next_poll_at for row in store.rooms() if row.upstream_id != claimed.upstream_id}
    assert due["own"] == at(3607)
    assert set(due.values()) - {at(3607)} <= {at(3600), at(3605)}
    assert store.room(claimed.upstream_id).next_poll_at > at(3605), "a claim is not taken away"
    store.write(apply_shorter_intervals, timedelta(hours=9), at(3600))
    assert store.room("own").next_poll_at == at(3607)


def test_an_endpoint_that_newly_wants_snapshots_gets_one_and_no_second(store: StoreDriver) -> None:
    rooms = (room("a", name="A"),)
    load(store, rooms=rooms, endpoints=(endpoint(),))
    store.poll(0, a=seen("p"))
    wanting = endpoint(events=("peer.*", "room.*"))
    load(store, rooms=(room("a", name="B"),), endpoints=(wanting,), seconds=5)
    load(store, rooms=(room("a", name="B"),), endpoints=(wanting,), seconds=6)

    assert store.event_types("a") == ["room.occupied", "peer.joined", "room.snapshot"]
    assert store.log("a")[-1]["data"]["room_name"] == "B"


def test_a_room_that_the_file_names_no_more_is_unwatched(store: StoreDriver) -> None:
    load(store, rooms=(room("a"), room("b")))
    store.poll(0, a=seen("p"), b=seen("p"))
    load(store, rooms=(room("b"),), seconds=5)

    assert not store.room("a").tracked
    assert store.log("a")[-2]["data"]["leave_reason"] == "unwatched"
    assert [one.upstream_id for one in store.claim(100)] == ["b"]
    load(store, rooms=(room("a"), room("b")), seconds=200)
    assert (store.room("a").tracked, store.room("a").next_poll_at) == (True, at(200))


def test_a_room_that_is_switched_off_is_unwatched_and_comes_back(store: StoreDriver) -> None:
    load(store, rooms=(room("a"),))
    store.poll(0, a=seen("p"))
    load(store, rooms=(room("a", enabled=False),), seconds=5)
    assert store.event_types("a")[-2:] == ["peer.left", "room.empty"]
    assert store.claim(100) == []
    load(store, rooms=(room("a"),), seconds=200)

    assert [one.upstream_id for one in store.claim(200)] == ["a"]


def test_rooms_made_by_hand_are_left_alone(store: StoreDriver) -> None:
    store.track("manual", name="Mine")
    load(store, rooms=(room("a"),))
    load(store)

    assert (store.room("manual").tracked, store.room("manual").name) == (True, "Mine")


def test_a_room_made_by_hand_becomes_the_files_when_it_is_named(store: StoreDriver) -> None:
    store.track("a")
    load(store, rooms=(room("a", name="A"),))

    assert (store.room("a").origin, store.room("a").name) == ("config", "A")
    assert not store.write(add_room, room("a", name="mine"), at(1), store.new_id)
    assert store.room("a").name == "A"


def test_what_the_file_takes_over_is_told_once(store: StoreDriver) -> None:
    store.track("a")
    store.subscribe("crm")
    with capture_logs() as logs:
        load(store, rooms=(room("a"), room("b")), endpoints=(endpoint("crm"), endpoint("other")))
        load(store, rooms=(room("a"), room("b")), endpoints=(endpoint("crm"), endpoint("other")))

    adopted = [line for line in logs if line["event"] == "configuration.adopted"]
    assert [(line.get("room"), line.get("endpoint")) for line in adopted] == [("a", None), (None, "crm")]


def test_an_unknown_room_cannot_be_removed(store: StoreDriver) -> None:
    with pytest.raises(NotFoundError, match="bridge rooms list"):
        store.write(remove_room, "nobody", None, at(0), store.new_id)


def test_a_room_id_of_two_sources_must_be_said_with_its_source(store: StoreDriver) -> None:
    store.track("a")
    store.track("a", source="second")

    with pytest.raises(NotFoundError, match="--source"):
        store.database.read_now(find_room, "a")
    assert store.database.read_now(find_room, "a", "second").source == "second"


def test_a_changed_endpoint_changes_and_keeps_its_line(store: StoreDriver) -> None:
    load(store, rooms=(room("a"),), endpoints=(endpoint(),))
    store.poll(0, a=seen("p"))
    before = stored(store)
    load(
        store,
        rooms=(room("a"),),
        endpoints=(endpoint(url="https://new.example.com/", events=("*",), headers={"X": "1"}, max_concurrency=3),),
        seconds=5,
    )

    after = stored(store)
    assert (after.id, after.public_id) == (before.id, before.public_id)
    assert (after.url, after.events, after.max_concurrency) == ("https://new.example.com/", ["*"], 3)
    (cursor,) = store.owed(5)
    assert cursor.target.headers == {"X": "1"}


def test_an_endpoint_that_the_file_names_no_more_is_removed_and_others_stay(store: StoreDriver) -> None:
    load(store, rooms=(room("a"),), endpoints=(endpoint(), endpoint("other")))
    store.subscribe("manual")
    store.poll(0, a=seen("p"))
    load(store, rooms=(room("a"),), endpoints=(endpoint("other"),), seconds=5)

    assert [row.name for row in store.rows(endpoints, "name")] == ["manual", "other"]
    assert len(store.rows(cursors, "endpoint_key")) == 2


def test_a_secret_that_changes_in_the_file_is_rotated_with_grace(store: StoreDriver) -> None:
    load(store, endpoints=(endpoint(),))
    load(store, endpoints=(endpoint(secret=OTHER),), seconds=100)
    day = 86_400

    assert secrets(store, 100) == [OTHER, SECRET]
    assert secrets(store, 100 + day - 1) == [OTHER, SECRET]
    assert secrets(store, 100 + day) == [OTHER]
    load(store, endpoints=(endpoint(secret=OTHER),), seconds=200)
    assert secrets(store, 100 + day - 1) == [OTHER, SECRET]
    load(store, endpoints=(endpoint(secret=THIRD),), seconds=300)
    assert secrets(store, 300) == [THIRD, OTHER, SECRET]


def test_a_secret_that_changes_back_within_its_grace_signs_first_again(store: StoreDriver) -> None:
    load(store, endpoints=(endpoint(),))
    load(store, endpoints=(endpoint(secret=OTHER),), seconds=100)
    load(store, endpoints=(endpoint(),), seconds=200)

    assert secrets(store, 200) == [SECRET, OTHER]


def test_a_secret_that_the_file_leaves_out_is_generated_once(store: StoreDriver) -> None:
    made = iter([OTHER, THIRD])

    def load_generated(seconds: float) -> None:
        context = EndpointContext(now=at(seconds), new_id=store.new_id, new_secret=lambda _: next(made))
        store.write(apply_configuration, sources=["main"], rooms=[], endpoints=[endpoint(secret=None)], context=context)

    load_generated(0)
    load_generated(100)

    assert secrets(store, 100) == [OTHER]
    assert [row.generated for row in store.rows(endpoint_secrets, "id")] == [True]


def test_a_generated_secret_follows_the_kind_of_signature(store: StoreDriver) -> None:
    """`v1a` in the file is a promise to sign with a key pair: an HMAC secret cannot keep it."""

    def load_signature(signature: str, seconds: float) -> None:
        context = EndpointContext(now=at(seconds), new_id=store.new_id, new_secret=lambda kind: f"fresh {kind}")
        spec = endpoint(secret=None, signature=signature)
        store.write(apply_configuration, sources=["main"], rooms=[], endpoints=[spec], context=context)

    load_signature("v1", 0)
    load_signature("v1a", 100)

    assert secrets(store, 100)[0] == "fresh v1a"


@pytest.mark.parametrize("first", [True, False])
def test_the_file_switches_endpoints_off_and_on(store: StoreDriver, first: bool) -> None:  # noqa: FBT001 - a table's column
    load(store, rooms=(room("a"),), endpoints=(endpoint(enabled=first),))
    load(store, rooms=(room("a"),), endpoints=(endpoint(enabled=False),))
    store.poll(0, a=seen("p"))
    assert stored(store).state == "disabled"
    assert store.owed(1) == []
    load(store, rooms=(room("a"),), endpoints=(endpoint(enabled=True),), seconds=5)

    assert stored(store).state == "active"
    assert len(store.owed(5)) == 1


def test_an_endpoint_that_the_file_switches_on_again_starts_anew(store: StoreDriver) -> None:
    """A pause is no time without success."""
    rooms = (room("a"),)
    load(store, rooms=rooms, endpoints=(endpoint(),))
    store.poll(0, a=seen("p"))
    store.report(1, *(attempted(cursor, 1, busy(3600)) for cursor in store.owed(1)))
    load(store, rooms=rooms, endpoints=(endpoint(enabled=False),), seconds=2)
    with pytest.raises(UsageError, match="enabled = true"):
        store.write(enable_endpoint, "crm", at(3))
    load(store, rooms=rooms, endpoints=(endpoint(),), seconds=10 * 86_400)

    (cursor,) = store.owed(10 * 86_400)
    store.report(10 * 86_400, attempted(cursor, 10 * 86_400, RETRYABLE))
    assert stored(store).state == "active"


def test_the_file_does_not_enable_what_said_that_it_is_gone(store: StoreDriver) -> None:
    load(store, rooms=(room("a"),), endpoints=(endpoint(),))
    store.poll(0, a=seen("p"))
    (cursor,) = store.owed(1)
    store.report(1, attempted(cursor, 1, GONE))
    load(store, rooms=(room("a"),), endpoints=(endpoint(),), seconds=5)

    assert (stored(store).state, stored(store).state_reason) == ("disabled", "gone")


def test_names_are_taken_once(store: StoreDriver) -> None:
    store.subscribe("crm")

    with pytest.raises(UsageError, match="another name"):
        store.write(add_endpoint, endpoint(), store.context())


def test_what_the_file_owns_is_removed_in_the_file(store: StoreDriver) -> None:
    load(store, endpoints=(endpoint(),))

    with pytest.raises(UsageError, match="configuration"):
        store.write(remove_endpoint, "crm")
    with pytest.raises(NotFoundError, match="bridge endpoints list"):
        store.write(remove_endpoint, "nobody")


def test_a_new_secret_can_sign_alone_at_once(store: StoreDriver) -> None:
    key = store.subscribe("crm")
    store.write(replace_secret, key, OTHER, store.context(10), generated=True, grace=timedelta(0))

    assert secrets(store, 10) == [OTHER]


def test_several_processes_may_start_at_once(store: StoreDriver) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            load(store, rooms=(room("a"), room("b")), endpoints=(endpoint(), endpoint("other")))
        except BaseException as failure:  # noqa: BLE001 - said by the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(store.rooms()) == 2
    assert len(store.rows(endpoints, "id")) == len(store.rows(endpoint_secrets, "id")) == 2


def name_in_the_file(store: StoreDriver) -> None:
    load(store, rooms=(room("a", name="new"),), seconds=5)


def add_by_hand(store: StoreDriver) -> None:
    store.track("a", name="new", seconds=5)


@pytest.mark.parametrize("take_up", [name_in_the_file, add_by_hand])
def test_a_room_that_was_removed_while_somebody_waited_to_change_it_is_taken_up_anew(
    postgresql_store: StoreDriver, take_up: Callable[[StoreDriver], None]
) -> None:
    store = postgresql_store
    store.track("a")
    store.poll(0, a=seen("p"))
    with meeting(store.database, lambda: take_up(store)) as (removing, _):
        remove_room(removing, "a", None, at(4), store.new_id)

    row = store.room("a")
    assert (row.name, row.tracked, row.enabled, row.tracked_since) == ("new", True, True, at(5))
    assert [one.upstream_id for one in store.claim(5)] == ["a"]
    assert store.chain_problems() == []


def test_a_room_that_the_file_gave_up_while_somebody_waited_to_add_it_becomes_theirs(
    postgresql_store: StoreDriver,
) -> None:
    store = postgresql_store
    load(store, rooms=(room("a", name="A"),))

    def give_up(connection: Connection) -> None:
        reconcile(connection, sources=["main"], rooms=[], endpoints=[], context=store.context(4))

    with meeting(store.database, lambda: store.write(add_room, room("a"), at(5), store.new_id)) as (file, added):
        give_up(file)

    assert added.result()
    assert (store.room("a").origin, store.room("a").tracked, store.room("a").next_poll_at) == ("manual", True, at(5))


def test_a_room_that_the_file_took_over_while_it_waited_is_not_changed_twice(postgresql_store: StoreDriver) -> None:
    """What the file finds changed before it waits may be as it wants it by the time it has the lock."""
    store = postgresql_store
    store.track("a", enabled=False)
    with meeting(store.database, lambda: load(store, rooms=(room("a"),), seconds=5)) as (other, _):
        adopted = update(rooms).where(rooms.c.upstream_id == "a")
        other.execute(adopted.values(origin="config", enabled=True, tracked_since=at(1), next_poll_at=at(11)))

    assert (store.room("a").tracked_since, store.room("a").next_poll_at) == (at(1), at(11))


def test_a_new_rate_counts_from_now_and_the_same_one_goes_on(store: StoreDriver) -> None:
    """What was used up of one attempt an hour must not hold one attempt a second for that hour."""
    hourly, fast = endpoint(events=("*",), rate_per_second=1 / 3600), endpoint(events=("*",), rate_per_second=1)
    load(store, rooms=(room("a"),), endpoints=(hourly,))
    store.poll(0, a=seen("p"))
    store.report(1, *(attempted(cursor, 1) for cursor in store.owed(1)))
    assert stored(store).rate_at == at(1 + 3600)
    load(store, rooms=(room("a"),), endpoints=(hourly,), seconds=2)
    assert store.owed(2) == []
    load(store, rooms=(room("a"),), endpoints=(fast,), seconds=3)
    assert len(store.owed(3)) == 1


def test_all_or_nothing(store: StoreDriver) -> None:
    load(store, rooms=(room("a"),), endpoints=(endpoint(),))

    class TestError(Exception):
        pass

    def broken(_: str) -> str:
        raise TestError

    context = EndpointContext(now=at(5), new_id=broken, new_secret=lambda _: SECRET)
    with pytest.raises(TestError):
        store.write(
            apply_configuration, sources=["new"], rooms=[room("b")], endpoints=[endpoint("new")], context=context
        )

    assert [row.name for row in store.rows(sources, "name")] == ["main"]
    assert [row.upstream_id for row in store.rooms()] == ["a"]
    assert [row.name for row in store.rows(endpoints, "id")] == ["crm"]

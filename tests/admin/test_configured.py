"""Rooms and endpoints of the configuration follow the file; those made by an operator are left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, update
from structlog.testing import capture_logs

from bridge.admin.configured import apply_configuration
from bridge.db.tables import cursors, endpoint_secrets, endpoints, rooms, sources
from bridge.delivery.endpoints import EndpointSpec, enable_endpoint, find_endpoint
from bridge.delivery.secrets import EndpointContext
from bridge.delivery.targets import load_target
from bridge.errors import BridgeError, UsageError
from bridge.polling.plan import PollingSettings
from bridge.polling.rooms import RoomSpec, add_room, apply_shorter_intervals, discover_rooms, remove_room
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


def secrets(store: StoreDriver, seconds: float) -> tuple[str, ...]:
    return store.database.read_now(load_target, "crm", now=at(seconds), cipher=store.cipher).secrets


def test_discovered_rooms_go_with_their_source(store: StoreDriver) -> None:
    for source in ("main", "other"):
        store.write(discover_rooms, source, {"live": None}, at(0))
    store.track("by hand", source="other")
    load(store)
    assert {(row.source, row.upstream_id) for row in store.rooms() if row.tracked} == {
        ("main", "live"),
        ("other", "by hand"),
    }


def test_applying_a_configuration_twice_is_as_applying_it_once(store: StoreDriver) -> None:
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


def test_a_changed_room_keeps_its_presence_and_its_due_time(store: StoreDriver) -> None:
    load(store, rooms=(room("a", name="A"),))
    store.poll(0, a=seen("p"))
    load(store, rooms=(room("a", name="B"),), seconds=5)

    assert (store.room("a").name, store.room("a").next_poll_at) == ("B", at(10))
    store.poll(10, a=seen())
    assert [one["data"]["room_name"] for one in store.log("a")] == ["A", "A", "B", "B"]


def test_no_room_waits_longer_than_its_interval_when_that_becomes_shorter(store: StoreDriver) -> None:
    store.settings = PollingSettings(interval=timedelta(hours=1))
    load(store, rooms=(room("own", interval=timedelta(hours=2)), room("default")))
    store.poll(0, own=seen(), default=seen())
    load(store, rooms=(room("own", interval=timedelta(seconds=7)), room("default")), seconds=60)

    store.write(apply_shorter_intervals, PollingSettings(interval=timedelta(seconds=5)), at(60))
    due = {row.upstream_id: row.next_poll_at for row in store.rooms()}
    assert due == {"own": at(67), "default": at(65)}
    store.write(apply_shorter_intervals, PollingSettings(interval=timedelta(hours=9)), at(60))
    assert store.room("own").next_poll_at == at(67)


def test_an_endpoint_that_newly_wants_snapshots_gets_one_and_no_second(store: StoreDriver) -> None:
    rooms = (room("a", name="A"),)
    load(store, rooms=rooms, endpoints=(endpoint(),))
    store.poll(0, a=seen("p"))
    wanting = endpoint(events=("peer.*", "room.*"))
    load(store, rooms=(room("a", name="B"),), endpoints=(wanting,), seconds=5)
    load(store, rooms=(room("a", name="B"),), endpoints=(wanting,), seconds=6)

    assert store.event_types("a") == ["room.occupied", "peer.joined", "room.snapshot"]
    assert store.log("a")[-1]["data"]["room_name"] == "B"


def test_a_room_that_is_no_longer_in_the_file_is_not_tracked(store: StoreDriver) -> None:
    load(store, rooms=(room("a"), room("b")))
    store.poll(0, a=seen("p"), b=seen("p"))
    load(store, rooms=(room("b"),), seconds=5)

    assert not store.room("a").tracked
    assert store.log("a")[-2]["data"]["leave_reason"] == "unwatched"
    assert [one.upstream_id for one in store.claim(100)] == ["b"]
    load(store, rooms=(room("a"), room("b")), seconds=200)
    assert (store.room("a").tracked, store.room("a").next_poll_at) == (True, at(200))


def test_a_room_can_be_disabled_and_enabled(store: StoreDriver) -> None:
    load(store, rooms=(room("a"),))
    store.poll(0, a=seen("p"))
    load(store, rooms=(room("a", enabled=False),), seconds=5)
    assert store.event_types("a")[-2:] == ["peer.left", "room.empty"]
    assert store.claim(100) == []
    load(store, rooms=(room("a"),), seconds=200)

    assert [one.upstream_id for one in store.claim(200)] == ["a"]


def test_rooms_of_an_operator_are_left_alone(store: StoreDriver) -> None:
    store.track("manual", name="Mine")
    load(store, rooms=(room("a"),))
    load(store)

    assert (store.room("manual").tracked, store.room("manual").name) == (True, "Mine")


def test_a_room_of_an_operator_belongs_to_the_file_once_it_is_named_there(store: StoreDriver) -> None:
    store.track("a")
    load(store, rooms=(room("a", name="A"),))

    assert (store.room("a").origin, store.room("a").name) == ("config", "A")
    assert not store.write(add_room, room("a", name="mine"), at(1), store.new_id)
    assert store.room("a").name == "A"


def test_adopted_rooms_and_endpoints_are_logged_once(store: StoreDriver) -> None:
    store.track("a")
    store.subscribe("crm")
    with capture_logs() as logs:
        load(store, rooms=(room("a"), room("b")), endpoints=(endpoint("crm"), endpoint("other")))
        load(store, rooms=(room("a"), room("b")), endpoints=(endpoint("crm"), endpoint("other")))

    adopted = [line for line in logs if line["event"] == "configuration.adopted"]
    assert [(line.get("room"), line.get("endpoint")) for line in adopted] == [("a", None), (None, "crm")]


def test_a_changed_endpoint_keeps_its_cursors(store: StoreDriver) -> None:
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


def test_an_endpoint_that_is_no_longer_in_the_file_is_removed_and_others_stay(store: StoreDriver) -> None:
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

    assert secrets(store, 100) == (OTHER, SECRET)
    assert secrets(store, 100 + day - 1) == (OTHER, SECRET)
    assert secrets(store, 100 + day) == (OTHER,)
    load(store, endpoints=(endpoint(secret=OTHER),), seconds=200)
    assert secrets(store, 100 + day - 1) == (OTHER, SECRET)
    load(store, endpoints=(endpoint(secret=THIRD),), seconds=300)
    assert secrets(store, 300) == (THIRD, OTHER, SECRET)


def test_a_secret_that_changes_back_within_its_grace_signs_first_again(store: StoreDriver) -> None:
    load(store, endpoints=(endpoint(),))
    load(store, endpoints=(endpoint(secret=OTHER),), seconds=100)
    load(store, endpoints=(endpoint(),), seconds=200)

    assert secrets(store, 200) == (SECRET, OTHER)


def test_a_secret_that_the_file_leaves_out_is_generated_once(store: StoreDriver) -> None:
    made = iter([OTHER, THIRD])

    def load_generated(seconds: float) -> None:
        context = EndpointContext(now=at(seconds), new_id=store.new_id, new_secret=lambda _: next(made))
        store.write(apply_configuration, sources=["main"], rooms=[], endpoints=[endpoint(secret=None)], context=context)

    load_generated(0)
    load_generated(100)

    assert secrets(store, 100) == (OTHER,)
    assert [row.generated for row in store.rows(endpoint_secrets, "id")] == [True]


def test_a_generated_secret_follows_the_kind_of_signature(store: StoreDriver) -> None:
    """An HMAC secret cannot sign `v1a`."""

    def load_signature(signature: str, seconds: float) -> None:
        context = EndpointContext(now=at(seconds), new_id=store.new_id, new_secret=lambda kind: f"fresh {kind}")
        spec = endpoint(secret=None, signature=signature)
        store.write(apply_configuration, sources=["main"], rooms=[], endpoints=[spec], context=context)

    load_signature("v1", 0)
    load_signature("v1a", 100)

    assert secrets(store, 100)[0] == "fresh v1a"


@pytest.mark.parametrize("first", [True, False])
def test_the_file_disables_and_enables_endpoints(store: StoreDriver, first: bool) -> None:  # noqa: FBT001 - a table's column
    load(store, rooms=(room("a"),), endpoints=(endpoint(enabled=first),))
    load(store, rooms=(room("a"),), endpoints=(endpoint(enabled=False),))
    store.poll(0, a=seen("p"))
    assert stored(store).state == "disabled"
    assert store.owed(1) == []
    load(store, rooms=(room("a"),), endpoints=(endpoint(enabled=True),), seconds=5)

    assert stored(store).state == "active"
    assert len(store.owed(5)) == 1


def test_an_endpoint_that_the_file_enables_again_has_no_failures(store: StoreDriver) -> None:
    """The time that it was disabled is no time without success."""
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


def test_the_file_does_not_enable_an_endpoint_that_is_gone(store: StoreDriver) -> None:
    load(store, rooms=(room("a"),), endpoints=(endpoint(),))
    store.poll(0, a=seen("p"))
    (cursor,) = store.owed(1)
    store.report(1, attempted(cursor, 1, GONE))
    load(store, rooms=(room("a"),), endpoints=(endpoint(),), seconds=5)

    assert (stored(store).state, stored(store).state_reason) == ("disabled", "gone")


def test_several_processes_may_start_at_once(store: StoreDriver) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            load(store, rooms=(room("a"), room("b")), endpoints=(endpoint(), endpoint("other")))
        except BaseException as failure:  # noqa: BLE001 - asserted in the thread of the test
            failures.append(failure)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(store.rooms()) == 2
    assert len(store.rows(endpoints, "id")) == len(store.rows(endpoint_secrets, "id")) == 2


def load_room(store: StoreDriver) -> None:
    load(store, rooms=(room("a", name="new"),), seconds=5)


def add_by_operator(store: StoreDriver) -> None:
    store.track("a", name="new", seconds=5)


@pytest.mark.parametrize("track", [load_room, add_by_operator])
def test_a_room_that_was_removed_while_a_change_waited_is_tracked_again(
    postgresql_store: StoreDriver, track: Callable[[StoreDriver], None]
) -> None:
    store = postgresql_store
    store.track("a")
    store.poll(0, a=seen("p"))
    with meeting(store.database, lambda: track(store)) as (removing, _):
        remove_room(removing, "a", None, at(4), store.new_id)

    row = store.room("a")
    assert (row.name, row.tracked, row.enabled, row.tracked_since) == ("new", True, True, at(5))
    assert [one.upstream_id for one in store.claim(5)] == ["a"]
    assert store.chain_problems() == []


def test_a_room_that_left_the_file_while_an_operator_added_it_belongs_to_the_operator(
    postgresql_store: StoreDriver,
) -> None:
    store = postgresql_store
    load(store, rooms=(room("a", name="A"),))

    def remove_from_file(connection: Connection) -> None:
        apply_configuration(connection, sources=["main"], rooms=[], endpoints=[], context=store.context(4))

    with meeting(store.database, lambda: store.write(add_room, room("a"), at(5), store.new_id)) as (file, added):
        remove_from_file(file)

    assert added.result()
    assert (store.room("a").origin, store.room("a").tracked, store.room("a").next_poll_at) == ("manual", True, at(5))


def test_a_room_that_another_process_adopted_meanwhile_is_not_changed_again(
    postgresql_store: StoreDriver,
) -> None:
    """A difference that was found before the lock may be gone with it."""
    store = postgresql_store
    store.track("a", enabled=False)
    with meeting(store.database, lambda: load(store, rooms=(room("a"),), seconds=5)) as (other, _):
        adopted = update(rooms).where(rooms.c.upstream_id == "a")
        other.execute(adopted.values(origin="config", enabled=True, tracked_since=at(1), next_poll_at=at(11)))

    assert (store.room("a").tracked_since, store.room("a").next_poll_at) == (at(1), at(11))


def test_a_changed_rate_counts_from_now_and_an_unchanged_one_goes_on(store: StoreDriver) -> None:
    """An attempt at one per hour must not delay those at one per second for an hour."""
    hourly, fast = endpoint(events=("*",), rate_per_second=1 / 3600), endpoint(events=("*",), rate_per_second=1)
    load(store, rooms=(room("a"),), endpoints=(hourly,))
    store.poll(0, a=seen("p"))
    store.report(1, *(attempted(cursor, 1) for cursor in store.owed(1)))
    assert stored(store).next_delivery_at == at(1 + 3600)
    load(store, rooms=(room("a"),), endpoints=(hourly,), seconds=2)
    assert store.owed(2) == []
    load(store, rooms=(room("a"),), endpoints=(fast,), seconds=3)
    assert len(store.owed(3)) == 1


@pytest.mark.parametrize("first", [{"rooms": (room("a"),)}, {"endpoints": (endpoint(),)}, {}])
def test_a_start_without_a_file_does_not_remove_the_rooms_and_endpoints_of_an_earlier_one(
    store: StoreDriver, first: dict[str, Any]
) -> None:
    load(store, **first)
    store.track("manual")

    def load_without_a_file(*rooms: RoomSpec) -> None:
        context = store.context()
        store.write(apply_configuration, sources=["main"], rooms=rooms, endpoints=[], context=context, may_empty=False)

    with pytest.raises(BridgeError, match="BRIDGE_CONFIG") if first else nullcontext():
        load_without_a_file()
    load_without_a_file(room("b"))

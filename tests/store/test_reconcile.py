"""What the configuration owns follows the file; what was made by hand is left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, update
from structlog.testing import capture_logs

from bridge.errors import NotFoundError, UsageError
from bridge.store.endpoint_state import enable_endpoint
from bridge.store.endpoints import (
    Desk,
    EndpointSpec,
    add_endpoint,
    find_endpoint,
    remove_endpoint,
    replace_secret,
    secrets_of,
)
from bridge.store.polls import PollingSettings
from bridge.store.reconcile import reconcile
from bridge.store.rooms import RoomSpec, add_room, find_room, hasten_polls, remove_room
from bridge.store.tables import cursors, endpoint_secrets, endpoints, rooms, sources
from tests.store.duels import meeting
from tests.store.stage import GONE, SECRET, TROUBLE, Stage, at, busy, seen, tried

OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
THIRD = "whsec_" + "A" * 32


def room(upstream_id: str, **spec: Any) -> RoomSpec:  # noqa: ANN401 - fields of a RoomSpec
    return RoomSpec(**({"source": "main", "upstream_id": upstream_id} | spec))


def endpoint(name: str = "crm", **spec: Any) -> EndpointSpec:  # noqa: ANN401 - fields of an EndpointSpec
    return EndpointSpec(**({"name": name, "url": "https://crm.example.com/", "secret": SECRET} | spec))


def load(
    stage: Stage, *, rooms: tuple[RoomSpec, ...] = (), endpoints: tuple[EndpointSpec, ...] = (), seconds: float = 0
) -> None:
    stage.write(reconcile, sources=["main"], rooms=rooms, endpoints=endpoints, desk=stage.desk(seconds))
    stage.tell_snapshots(seconds)


def stored(stage: Stage, name: str = "crm") -> Any:  # noqa: ANN401 - a row
    return stage.database.read_now(find_endpoint, name)


def secrets(stage: Stage, seconds: float, name: str = "crm") -> list[str]:
    key = stored(stage, name).id
    return stage.database.read_now(secrets_of, [key], at(seconds), stage.vault)[key]


def test_what_the_file_names_is_there_afterwards_and_twice_is_once(stage: Stage) -> None:
    spec = room("a", name="A", interval=timedelta(seconds=5), leave_after_missed=2)
    for seconds in (0, 10):
        load(stage, rooms=(spec, room("off", enabled=False)), endpoints=(endpoint(),), seconds=seconds)

    a, off = stage.room("a"), stage.room("off")
    assert (a.name, a.interval_seconds, a.leave_after_missed, a.origin, a.next_poll_at) == (
        "A",
        5.0,
        2,
        "config",
        at(0),
    )
    assert (off.tracked, off.enabled, off.next_poll_at) == (True, False, None)
    assert [row.name for row in stage.rows(sources, "name")] == ["main"]
    assert (stored(stage).origin, stored(stage).state) == ("config", "active")
    assert len(stage.rows(endpoint_secrets, "id")) == 1


def test_a_changed_room_changes_and_keeps_its_presence_and_its_turn(stage: Stage) -> None:
    load(stage, rooms=(room("a", name="A"),))
    stage.poll(0, a=seen("p"))
    load(stage, rooms=(room("a", name="B"),), seconds=5)

    assert (stage.room("a").name, stage.room("a").next_poll_at) == ("B", at(10))
    stage.poll(10, a=seen())
    assert [one["data"]["room_name"] for one in stage.log("a")] == ["A", "A", "B", "B"]


def test_no_room_waits_longer_than_its_interval_when_that_becomes_shorter(stage: Stage) -> None:
    stage.settings = PollingSettings(interval=timedelta(hours=1))
    load(stage, rooms=(room("own", interval=timedelta(hours=2)), room("default"), room("claimed")))
    stage.poll(0, own=seen(), default=seen(), claimed=seen())
    (claimed,) = stage.claim(3600, limit=1)
    load(stage, rooms=(room("own", interval=timedelta(seconds=7)), room("default"), room("claimed")), seconds=3600)

    stage.write(hasten_polls, timedelta(seconds=5), at(3600))
    due = {row.upstream_id: row.next_poll_at for row in stage.rooms() if row.upstream_id != claimed.upstream_id}
    assert due["own"] == at(3607)
    assert set(due.values()) - {at(3607)} <= {at(3600), at(3605)}
    assert stage.room(claimed.upstream_id).next_poll_at > at(3605), "a claim is not taken away"
    stage.write(hasten_polls, timedelta(hours=9), at(3600))
    assert stage.room("own").next_poll_at == at(3607)


def test_an_endpoint_that_newly_wants_snapshots_gets_one_and_no_second(stage: Stage) -> None:
    rooms = (room("a", name="A"),)
    load(stage, rooms=rooms, endpoints=(endpoint(),))
    stage.poll(0, a=seen("p"))
    wanting = endpoint(events=("peer.*", "room.*"))
    load(stage, rooms=(room("a", name="B"),), endpoints=(wanting,), seconds=5)
    load(stage, rooms=(room("a", name="B"),), endpoints=(wanting,), seconds=6)

    assert stage.told("a") == ["room.occupied", "peer.joined", "room.snapshot"]
    assert stage.log("a")[-1]["data"]["room_name"] == "B"


def test_a_room_that_the_file_names_no_more_is_unwatched(stage: Stage) -> None:
    load(stage, rooms=(room("a"), room("b")))
    stage.poll(0, a=seen("p"), b=seen("p"))
    load(stage, rooms=(room("b"),), seconds=5)

    assert not stage.room("a").tracked
    assert stage.log("a")[-2]["data"]["leave_reason"] == "unwatched"
    assert [one.upstream_id for one in stage.claim(100)] == ["b"]
    load(stage, rooms=(room("a"), room("b")), seconds=200)
    assert (stage.room("a").tracked, stage.room("a").next_poll_at) == (True, at(200))


def test_a_room_that_is_switched_off_is_unwatched_and_comes_back(stage: Stage) -> None:
    load(stage, rooms=(room("a"),))
    stage.poll(0, a=seen("p"))
    load(stage, rooms=(room("a", enabled=False),), seconds=5)
    assert stage.told("a")[-2:] == ["peer.left", "room.empty"]
    assert stage.claim(100) == []
    load(stage, rooms=(room("a"),), seconds=200)

    assert [one.upstream_id for one in stage.claim(200)] == ["a"]


def test_rooms_made_by_hand_are_left_alone(stage: Stage) -> None:
    stage.track("manual", name="Mine")
    load(stage, rooms=(room("a"),))
    load(stage)

    assert (stage.room("manual").tracked, stage.room("manual").name) == (True, "Mine")


def test_a_room_made_by_hand_becomes_the_files_when_it_is_named(stage: Stage) -> None:
    stage.track("a")
    load(stage, rooms=(room("a", name="A"),))

    assert (stage.room("a").origin, stage.room("a").name) == ("config", "A")
    assert not stage.write(add_room, room("a", name="mine"), at(1), stage.new_id)
    assert stage.room("a").name == "A"


def test_what_the_file_takes_over_is_told_once(stage: Stage) -> None:
    stage.track("a")
    stage.subscribe("crm")
    with capture_logs() as logs:
        load(stage, rooms=(room("a"), room("b")), endpoints=(endpoint("crm"), endpoint("other")))
        load(stage, rooms=(room("a"), room("b")), endpoints=(endpoint("crm"), endpoint("other")))

    adopted = [line for line in logs if line["event"] == "configuration.adopted"]
    assert [(line.get("room"), line.get("endpoint")) for line in adopted] == [("a", None), (None, "crm")]


def test_an_unknown_room_cannot_be_removed(stage: Stage) -> None:
    with pytest.raises(NotFoundError, match="bridge rooms list"):
        stage.write(remove_room, "nobody", None, at(0), stage.new_id)


def test_a_room_id_of_two_sources_must_be_said_with_its_source(stage: Stage) -> None:
    stage.track("a")
    stage.track("a", source="second")

    with pytest.raises(NotFoundError, match="--source"):
        stage.database.read_now(find_room, "a")
    assert stage.database.read_now(find_room, "a", "second").source == "second"


def test_a_changed_endpoint_changes_and_keeps_its_line(stage: Stage) -> None:
    load(stage, rooms=(room("a"),), endpoints=(endpoint(),))
    stage.poll(0, a=seen("p"))
    before = stored(stage)
    load(
        stage,
        rooms=(room("a"),),
        endpoints=(endpoint(url="https://new.example.com/", events=("*",), headers={"X": "1"}, max_concurrency=3),),
        seconds=5,
    )

    after = stored(stage)
    assert (after.id, after.public_id) == (before.id, before.public_id)
    assert (after.url, after.events, after.max_concurrency) == ("https://new.example.com/", ["*"], 3)
    (cursor,) = stage.owed(5)
    assert cursor.target.headers == {"X": "1"}


def test_an_endpoint_that_the_file_names_no_more_is_removed_and_others_stay(stage: Stage) -> None:
    load(stage, rooms=(room("a"),), endpoints=(endpoint(), endpoint("other")))
    stage.subscribe("manual")
    stage.poll(0, a=seen("p"))
    load(stage, rooms=(room("a"),), endpoints=(endpoint("other"),), seconds=5)

    assert [row.name for row in stage.rows(endpoints, "name")] == ["manual", "other"]
    assert len(stage.rows(cursors, "endpoint_key")) == 2


def test_a_secret_that_changes_in_the_file_is_rotated_with_grace(stage: Stage) -> None:
    load(stage, endpoints=(endpoint(),))
    load(stage, endpoints=(endpoint(secret=OTHER),), seconds=100)
    day = 86_400

    assert secrets(stage, 100) == [OTHER, SECRET]
    assert secrets(stage, 100 + day - 1) == [OTHER, SECRET]
    assert secrets(stage, 100 + day) == [OTHER]
    load(stage, endpoints=(endpoint(secret=OTHER),), seconds=200)
    assert secrets(stage, 100 + day - 1) == [OTHER, SECRET]
    load(stage, endpoints=(endpoint(secret=THIRD),), seconds=300)
    assert secrets(stage, 300) == [THIRD, OTHER, SECRET]


def test_a_secret_that_changes_back_within_its_grace_signs_first_again(stage: Stage) -> None:
    load(stage, endpoints=(endpoint(),))
    load(stage, endpoints=(endpoint(secret=OTHER),), seconds=100)
    load(stage, endpoints=(endpoint(),), seconds=200)

    assert secrets(stage, 200) == [SECRET, OTHER]


def test_a_secret_that_the_file_leaves_out_is_generated_once(stage: Stage) -> None:
    made = iter([OTHER, THIRD])

    def load_generated(seconds: float) -> None:
        desk = Desk(now=at(seconds), new_id=stage.new_id, new_secret=lambda _: next(made))
        stage.write(reconcile, sources=["main"], rooms=[], endpoints=[endpoint(secret=None)], desk=desk)

    load_generated(0)
    load_generated(100)

    assert secrets(stage, 100) == [OTHER]
    assert [row.generated for row in stage.rows(endpoint_secrets, "id")] == [True]


def test_a_generated_secret_follows_the_kind_of_signature(stage: Stage) -> None:
    """`v1a` in the file is a promise to sign with a key pair: an HMAC secret cannot keep it."""

    def load_signature(signature: str, seconds: float) -> None:
        desk = Desk(now=at(seconds), new_id=stage.new_id, new_secret=lambda kind: f"fresh {kind}")
        spec = endpoint(secret=None, signature=signature)
        stage.write(reconcile, sources=["main"], rooms=[], endpoints=[spec], desk=desk)

    load_signature("v1", 0)
    load_signature("v1a", 100)

    assert secrets(stage, 100)[0] == "fresh v1a"


@pytest.mark.parametrize("first", [True, False])
def test_the_file_switches_endpoints_off_and_on(stage: Stage, first: bool) -> None:  # noqa: FBT001 - a table's column
    load(stage, rooms=(room("a"),), endpoints=(endpoint(enabled=first),))
    load(stage, rooms=(room("a"),), endpoints=(endpoint(enabled=False),))
    stage.poll(0, a=seen("p"))
    assert stored(stage).state == "disabled"
    assert stage.owed(1) == []
    load(stage, rooms=(room("a"),), endpoints=(endpoint(enabled=True),), seconds=5)

    assert stored(stage).state == "active"
    assert len(stage.owed(5)) == 1


def test_an_endpoint_that_the_file_switches_on_again_starts_anew(stage: Stage) -> None:
    """A pause is no time without success."""
    rooms = (room("a"),)
    load(stage, rooms=rooms, endpoints=(endpoint(),))
    stage.poll(0, a=seen("p"))
    stage.settle(1, *(tried(cursor, 1, busy(3600)) for cursor in stage.owed(1)))
    load(stage, rooms=rooms, endpoints=(endpoint(enabled=False),), seconds=2)
    with pytest.raises(UsageError, match="enabled = true"):
        stage.write(enable_endpoint, "crm", at(3))
    load(stage, rooms=rooms, endpoints=(endpoint(),), seconds=10 * 86_400)

    (cursor,) = stage.owed(10 * 86_400)
    stage.settle(10 * 86_400, tried(cursor, 10 * 86_400, TROUBLE))
    assert stored(stage).state == "active"


def test_the_file_does_not_enable_what_said_that_it_is_gone(stage: Stage) -> None:
    load(stage, rooms=(room("a"),), endpoints=(endpoint(),))
    stage.poll(0, a=seen("p"))
    (cursor,) = stage.owed(1)
    stage.settle(1, tried(cursor, 1, GONE))
    load(stage, rooms=(room("a"),), endpoints=(endpoint(),), seconds=5)

    assert (stored(stage).state, stored(stage).state_reason) == ("disabled", "gone")


def test_names_are_taken_once(stage: Stage) -> None:
    stage.subscribe("crm")

    with pytest.raises(UsageError, match="another name"):
        stage.write(add_endpoint, endpoint(), stage.desk())


def test_what_the_file_owns_is_removed_in_the_file(stage: Stage) -> None:
    load(stage, endpoints=(endpoint(),))

    with pytest.raises(UsageError, match="configuration"):
        stage.write(remove_endpoint, "crm")
    with pytest.raises(NotFoundError, match="bridge endpoints list"):
        stage.write(remove_endpoint, "nobody")


def test_a_new_secret_can_sign_alone_at_once(stage: Stage) -> None:
    key = stage.subscribe("crm")
    stage.write(replace_secret, key, OTHER, stage.desk(10), generated=True, grace=timedelta(0))

    assert secrets(stage, 10) == [OTHER]


def test_several_processes_may_start_at_once(stage: Stage) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            load(stage, rooms=(room("a"), room("b")), endpoints=(endpoint(), endpoint("other")))
        except BaseException as failure:  # noqa: BLE001 - said by the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(stage.rooms()) == 2
    assert len(stage.rows(endpoints, "id")) == len(stage.rows(endpoint_secrets, "id")) == 2


def name_in_the_file(stage: Stage) -> None:
    load(stage, rooms=(room("a", name="new"),), seconds=5)


def add_by_hand(stage: Stage) -> None:
    stage.track("a", name="new", seconds=5)


@pytest.mark.parametrize("take_up", [name_in_the_file, add_by_hand])
def test_a_room_that_was_removed_while_somebody_waited_to_change_it_is_taken_up_anew(
    postgresql_stage: Stage, take_up: Callable[[Stage], None]
) -> None:
    stage = postgresql_stage
    stage.track("a")
    stage.poll(0, a=seen("p"))
    with meeting(stage.database, lambda: take_up(stage)) as (removing, _):
        remove_room(removing, "a", None, at(4), stage.new_id)

    row = stage.room("a")
    assert (row.name, row.tracked, row.enabled, row.watched_since) == ("new", True, True, at(5))
    assert [one.upstream_id for one in stage.claim(5)] == ["a"]
    assert stage.chain_problems() == []


def test_a_room_that_the_file_gave_up_while_somebody_waited_to_add_it_becomes_theirs(postgresql_stage: Stage) -> None:
    stage = postgresql_stage
    load(stage, rooms=(room("a", name="A"),))

    def give_up(connection: Connection) -> None:
        reconcile(connection, sources=["main"], rooms=[], endpoints=[], desk=stage.desk(4))

    with meeting(stage.database, lambda: stage.write(add_room, room("a"), at(5), stage.new_id)) as (file, added):
        give_up(file)

    assert added.result()
    assert (stage.room("a").origin, stage.room("a").tracked, stage.room("a").next_poll_at) == ("manual", True, at(5))


def test_a_room_that_the_file_took_over_while_it_waited_is_not_changed_twice(postgresql_stage: Stage) -> None:
    """What the file finds changed before it waits may be as it wants it by the time it has the lock."""
    stage = postgresql_stage
    stage.track("a", enabled=False)
    with meeting(stage.database, lambda: load(stage, rooms=(room("a"),), seconds=5)) as (other, _):
        adopted = update(rooms).where(rooms.c.upstream_id == "a")
        other.execute(adopted.values(origin="config", enabled=True, watched_since=at(1), next_poll_at=at(11)))

    assert (stage.room("a").watched_since, stage.room("a").next_poll_at) == (at(1), at(11))


def test_a_new_rate_counts_from_now_and_the_same_one_goes_on(stage: Stage) -> None:
    """What was used up of one attempt an hour must not hold one attempt a second for that hour."""
    hourly, fast = endpoint(events=("*",), rate_per_second=1 / 3600), endpoint(events=("*",), rate_per_second=1)
    load(stage, rooms=(room("a"),), endpoints=(hourly,))
    stage.poll(0, a=seen("p"))
    stage.settle(1, *(tried(cursor, 1) for cursor in stage.owed(1)))
    assert stored(stage).rate_at == at(1 + 3600)
    load(stage, rooms=(room("a"),), endpoints=(hourly,), seconds=2)
    assert stage.owed(2) == []
    load(stage, rooms=(room("a"),), endpoints=(fast,), seconds=3)
    assert len(stage.owed(3)) == 1


def test_all_or_nothing(stage: Stage) -> None:
    load(stage, rooms=(room("a"),), endpoints=(endpoint(),))

    class TestError(Exception):
        pass

    def broken(_: str) -> str:
        raise TestError

    desk = Desk(now=at(5), new_id=broken, new_secret=lambda _: SECRET)
    with pytest.raises(TestError):
        stage.write(reconcile, sources=["new"], rooms=[room("b")], endpoints=[endpoint("new")], desk=desk)

    assert [row.name for row in stage.rows(sources, "name")] == ["main"]
    assert [row.upstream_id for row in stage.rooms()] == ["a"]
    assert [row.name for row in stage.rows(endpoints, "id")] == ["crm"]

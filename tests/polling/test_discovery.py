"""Discovery on both databases: what a list changes, which rooms are idle, and which are forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise, product
from typing import Any

import pytest
from sqlalchemy import Connection, update

from bridge.admin.configured import apply_configuration
from bridge.admin.due import find_due_work
from bridge.db.tables import jobs, rooms, sources
from bridge.polling.claim import claim_room, claim_rooms
from bridge.polling.discovery import (
    ClaimedList,
    RecordedList,
    claim_list,
    configure_discovery,
    forget_rooms,
    record_list,
    release_list,
)
from bridge.polling.plan import PollingSettings
from bridge.polling.rooms import RoomSpec, add_room, apply_shorter_intervals, discover_rooms, make_due
from bridge.rules.live_rooms import LiveRooms
from bridge.rules.presence import Failure, FailureKind
from tests.harness.builders import at, seen
from tests.harness.deadlocks import meeting
from tests.harness.statements import executed_statements
from tests.harness.store_driver import StoreDriver, failed

EVERY = timedelta(seconds=10)
DISCOVERING = PollingSettings(discovering=frozenset({"main"}))


@dataclass(slots=True)
class Lists:
    """The lists of the source `main`, which discovers."""

    store: StoreDriver

    def claim(self, seconds: float, rate: float = 0) -> ClaimedList | None:
        return self.store.write(
            claim_list, "main", requests_per_second=rate, every=EVERY, now=at(seconds), token=self.store.token()
        )

    def record(
        self, claimed: ClaimedList | None, found: LiveRooms | Failure, seconds: float, *globs: str
    ) -> RecordedList:
        assert claimed is not None
        return self.store.write(
            record_list,
            claimed,
            found,
            globs=globs or ("*",),
            every=EVERY,
            now=at(seconds),
            jitter=0.5,
            new_id=self.store.new_id,
        )

    def take(self, seconds: float, *globs: str, **counts: int | None) -> RecordedList:
        """Ask for the list at this time: it names these rooms."""
        return self.record(self.claim(seconds), LiveRooms(peer_counts=counts), seconds, *globs)


@pytest.fixture
def lists(store: StoreDriver) -> Lists:
    store.settings = DISCOVERING
    store.write(configure_discovery, {"main"}, at(0))
    return Lists(store)


def tracked(store: StoreDriver) -> dict[str, str]:
    return {row.upstream_id: row.origin for row in store.rooms() if row.tracked}


def due(store: StoreDriver, seconds: float) -> list[str]:
    claimed = store.claim(seconds)
    store.lose_claims()
    return [room.upstream_id for room in claimed]


def test_a_live_room_is_tracked_and_polled_at_once(lists: Lists) -> None:
    lists.store.track("known")
    recorded = lists.take(0, "known", "team-*", **{"team-1": 2, "other": 1, "known": 1})

    assert (recorded.new, recorded.due) == (("team-1",), 1)
    assert tracked(lists.store) == {"known": "manual", "team-1": "discovered"}
    assert sorted(due(lists.store, 0)) == ["known", "team-1"]


def test_a_room_is_polled_when_its_place_on_the_list_changes(lists: Lists) -> None:
    lists.take(0, a=1, b=None)
    lists.store.poll(0, a=seen("p"), b=seen("q"))
    assert lists.take(10, a=1, b=None) == RecordedList()
    lists.store.poll(10, a=seen("p"), b=seen("q"))

    assert lists.take(20, a=2, b=None).due == 1
    lists.store.poll(20, a=seen("p", "r"), b=seen("q"))
    assert due(lists.store, 29) == []
    lists.store.poll(30, a=seen("p"), b=seen("q"))
    assert lists.take(32, a=2).due == 1
    assert due(lists.store, 32) == ["b"]
    assert lists.store.room("b").live_until == at(32)
    assert lists.store.event_types("b") == ["room.occupied", "peer.joined"], "a list ends no visit"


def test_a_change_of_the_list_brings_at_most_one_poll_a_second(lists: Lists) -> None:
    lists.store.track("a", interval=timedelta(minutes=1))
    lists.take(0, a=1)
    lists.store.poll(9.5, a=seen("p"))
    lists.take(10, a=2)
    assert (due(lists.store, 10.4), due(lists.store, 10.5)) == ([], ["a"])


def test_idle_rooms_are_polled_rarely_while_the_source_lists_live_ones(lists: Lists) -> None:
    lists.store.track("idle", "listed", "occupied", "slow", "failing")
    lists.take(0, "none", listed=1)
    lists.store.poll(0, idle=seen(), listed=seen(), occupied=seen("p"), slow=seen(), failing=failed())
    waits = {row.upstream_id: row.next_poll_at - at(0) for row in lists.store.rooms()}

    assert waits["idle"] == timedelta(minutes=2)
    assert waits["listed"] == waits["occupied"] == timedelta(seconds=10)
    assert waits["failing"] == timedelta(seconds=10), "it is not known to be empty yet"
    lists.store.poll(10, listed=seen(), occupied=seen(), failing=seen())
    waits = {row.upstream_id: row.next_poll_at - at(10) for row in lists.store.rooms()}
    assert waits["occupied"] == waits["failing"] == timedelta(minutes=2), "now they are empty"
    lists.store.settings = PollingSettings()
    lists.store.poll(130, **dict.fromkeys(["idle", "slow", "occupied", "failing"], seen()))
    assert lists.store.room("idle").next_poll_at == at(140), "no list, no idle rooms"


def test_sql_and_plan_agree_which_rooms_are_idle(store: StoreDriver) -> None:
    cases = list(product((False, True), (False, True), (False, True), ("main", "other"), (None, 30.0, 300.0)))
    for number, (listed, occupied, known, source, interval) in enumerate(cases):
        store.track(f"r{number}", source=source, interval=None if interval is None else timedelta(seconds=interval))
        columns: dict[str, Any] = {
            "listed": listed,
            "session_key": 1 if occupied else None,
            "complete_at": at(0) if known else None,
            "next_poll_at": at(100_000),
        }
        store.write(_set_columns, f"r{number}", columns)
    store.write(apply_shorter_intervals, DISCOVERING, at(0))

    for number, (listed, occupied, known, source, interval) in enumerate(cases):
        seconds = interval or 10
        is_idle = source == "main" and known and not (listed or occupied)
        assert store.room(f"r{number}").next_poll_at == at(max(seconds, 120) if is_idle else seconds), cases[number]


def _set_columns(connection: Any, room: str, columns: dict[str, Any]) -> None:  # noqa: ANN401 - a connection
    connection.execute(update(rooms).where(rooms.c.upstream_id == room).values(**columns))


def test_rooms_that_are_live_are_claimed_first(lists: Lists) -> None:
    lists.store.track("idle-1", "idle-2", "listed")
    lists.take(0, "none")
    lists.store.poll(0, **{"idle-1": seen(), "idle-2": seen(), "listed": seen()})
    lists.take(150, "none", listed=1)
    found = lists.store.write(
        claim_rooms, "main", requests_per_second=1, limit=9, now=at(151), token="t", live_first=True
    )
    assert [room.upstream_id for room in found] == ["listed"], "though it has been due for a shorter time"


def test_one_list_at_a_time_and_one_per_interval(lists: Lists) -> None:
    assert lists.store.database.read_now(find_due_work, at(0)).lists
    claimed = lists.claim(0)
    assert lists.claim(1) is None
    assert not lists.store.database.read_now(find_due_work, at(1)).lists
    lists.record(claimed, LiveRooms(peer_counts={}), 2)
    assert lists.claim(11) is None
    assert lists.claim(12) is not None


def test_a_list_whose_claim_was_freed_is_fenced(lists: Lists) -> None:
    claimed = lists.claim(0)
    lists.store.lose_claims()
    assert lists.record(claimed, LiveRooms(peer_counts={"a": 1}), 1) == RecordedList(fenced=True)
    assert tracked(lists.store) == {}
    assert lists.claim(2) is not None


def test_a_list_that_is_given_back_is_due(lists: Lists) -> None:
    claimed = lists.claim(0)
    assert claimed is not None
    lists.store.write(release_list, claimed)
    assert lists.claim(0) is not None


def test_a_list_takes_from_the_budget_of_the_source(lists: Lists) -> None:
    lists.store.track("a")
    assert len(lists.store.claim(0, rate=1)) == 1
    assert lists.claim(0, rate=1) is None
    assert lists.claim(1, rate=1) is not None
    assert lists.store.claim(1, rate=1) == []


def test_rooms_leave_a_request_for_the_list_that_is_due(lists: Lists) -> None:
    lists.store.track("a", "b")

    def rooms_at(seconds: float) -> list[str]:
        limits: dict[str, Any] = {"requests_per_second": 1, "limit": 9, "now": at(seconds), "live_first": True}
        return [room.upstream_id for room in lists.store.write(claim_rooms, "main", token="t", **limits)]

    assert rooms_at(0) == [], "else a source with too small a budget would never be asked for its list"
    lists.record(lists.claim(0, rate=1), LiveRooms(peer_counts={}), 0)
    assert (rooms_at(1), rooms_at(2)) == (["a"], ["b"])


def test_without_rooms_the_list_decides_whether_the_source_works(lists: Lists) -> None:
    lists.record(lists.claim(0), failed(FailureKind.UNAUTHORIZED), 0)
    (source,) = lists.store.rows(sources)
    assert source.condition == "unauthorized"
    assert lists.store.event_types(None) == ["source.unavailable"]
    assert lists.claim(10) is None
    claimed = lists.claim(61)
    assert claimed is not None
    assert claimed.is_probe
    lists.record(claimed, LiveRooms(peer_counts={}), 61)
    assert lists.store.rows(sources)[0].condition == "ok"
    assert lists.store.event_types(None) == ["source.unavailable", "source.recovered"]


def test_without_rooms_lists_that_fail_now_and_then_make_no_source_unavailable(lists: Lists) -> None:
    for seconds in range(0, 300, 30):
        lists.record(lists.claim(seconds), failed(), seconds)
        for later in (10, 20):
            lists.take(seconds + later)
    assert lists.store.rows(sources)[0].condition == "ok"


@pytest.mark.parametrize("kind", [FailureKind.UNAUTHORIZED, FailureKind.SERVER_ERROR, FailureKind.TIMEOUT])
def test_a_list_that_fails_beside_rooms_that_are_well_stops_no_poll(lists: Lists, kind: FailureKind) -> None:
    lists.store.track("a")
    lists.store.poll(0, a=seen())
    for seconds in range(0, 200, 10):
        lists.record(lists.claim(seconds), failed(kind), seconds)
    assert lists.store.rows(sources)[0].condition == "ok"
    assert due(lists.store, 120) == ["a"]


def test_too_many_requests_for_the_list_are_too_many_for_the_source(lists: Lists) -> None:
    lists.store.track("a")
    lists.store.poll(0, a=seen())
    lists.record(lists.claim(0), failed(FailureKind.RATE_LIMITED, retry_after=500), 0)
    assert due(lists.store, 499) == []
    assert lists.claim(499) is None, "the probe of a source with rooms is a room"
    assert due(lists.store, 500) == ["a"]


def test_a_discovered_room_is_forgotten_and_found_again(lists: Lists) -> None:
    store = lists.store

    def forget(seconds: float, *, is_listed: bool = True) -> list[str]:
        now = at(seconds)
        return store.write(forget_rooms, "main", is_listed=is_listed, before=now - EVERY, now=now, new_id=store.new_id)

    store.track("manual")
    lists.take(0, gone=1, stays=1, occupied=1)
    store.poll(0, gone=seen("p"), stays=seen(), occupied=seen("q"), manual=seen())
    lists.take(10, stays=1)
    assert forget(20) == [], "last live ten seconds ago"
    store.poll(20, gone=seen(), stays=seen(), occupied=seen("q"))
    assert forget(29) == [], "the last session ended less than ten seconds ago"
    assert forget(40) == ["gone"]
    assert tracked(store) == {"manual": "manual", "stays": "discovered", "occupied": "discovered"}
    assert store.event_types("gone") == ["room.occupied", "peer.joined", "peer.left", "room.empty"], "its log stays"
    assert forget(40, is_listed=False) == ["stays"], "the list is not requested any more"
    lists.take(50, gone=1)
    store.poll(50, gone=seen("r"), occupied=seen("q"))
    assert tracked(store)["gone"] == "discovered"
    assert store.log("gone")[-1]["data"]["sequence"] == 6


def test_a_room_that_is_being_polled_is_not_forgotten(lists: Lists) -> None:
    store = lists.store
    lists.take(0, a=1)
    store.poll(0, a=seen())
    lists.take(10)
    claimed = store.claim(1000)
    forgetting: dict[str, Any] = {"is_listed": True, "before": at(900), "now": at(1000), "new_id": store.new_id}
    assert store.write(forget_rooms, "main", **forgetting) == []
    store.record(claimed, lambda _: seen("p"), 1001)
    assert store.write(forget_rooms, "main", **forgetting) == [], "it is occupied"
    assert store.event_types("a") == ["room.occupied", "peer.joined"]


def test_a_room_that_is_found_again_was_not_last_live_before_that(lists: Lists) -> None:
    store = lists.store
    forgetting: dict[str, Any] = {"is_listed": False, "new_id": store.new_id}
    lists.take(0, a=1)
    lists.take(10)
    assert store.write(forget_rooms, "main", before=at(900), now=at(1000), **forgetting) == ["a"]
    store.write(discover_rooms, "main", {"a": 1}, at(1000))
    assert store.write(forget_rooms, "main", before=at(910), now=at(1010), **forgetting) == []


def test_what_an_operator_adds_is_not_forgotten(lists: Lists) -> None:
    lists.take(0, a=1)
    lists.store.track("a")
    lists.take(10)
    now = at(1000)
    assert lists.store.write(
        forget_rooms, "main", is_listed=True, before=now, now=now, new_id=lists.store.new_id
    ) == []  # fmt: skip
    assert tracked(lists.store) == {"a": "manual"}


def test_discovery_that_is_turned_off_asks_for_no_list(lists: Lists) -> None:
    lists.store.write(configure_discovery, (), at(5))
    assert lists.store.rows(jobs) == []
    assert lists.claim(100) is None
    lists.store.write(configure_discovery, {"main"}, at(6))
    assert lists.claim(6) is not None
    lists.store.write(configure_discovery, {"main"}, at(7))
    assert len(lists.store.rows(jobs)) == 1


def test_many_rooms_at_once(lists: Lists) -> None:
    names = {f"room-{number}": number for number in range(2_500)}
    assert len(lists.take(0, **names).new) == 2_500
    assert lists.take(10, **names) == RecordedList()
    lists.take(20)
    assert not [row for row in lists.store.rooms() if row.listed]


def test_a_list_takes_as_many_statements_whatever_its_length(lists: Lists) -> None:
    def forget_all(connection: Connection) -> None:
        connection.execute(update(rooms).where(rooms.c.source == "main").values(tracked=False, next_poll_at=None))

    def statements(seconds: float, *lengths: int) -> int:
        for number, length in enumerate(lengths):
            claimed = lists.claim(seconds + number * 10)
            found = LiveRooms(peer_counts={f"{length}-{room}": room for room in range(length)})
            with executed_statements(lists.store.database) as executed:
                lists.record(claimed, found, seconds + number * 10)
            if number:
                lists.store.write(forget_all)
        return len(executed)

    assert statements(0, 2, 3, 2, 3) == statements(100, 40, 50, 40, 50)


def test_a_room_of_a_poke_is_tracked_only_once(store: StoreDriver) -> None:
    for seconds in (0, 1):
        store.write(discover_rooms, "main", {"a": None}, at(seconds))
    assert [row.added_at for row in store.rooms() if row.upstream_id == "a"] == [at(0)]


def test_pokes_of_one_room_bring_one_poll_a_second(store: StoreDriver) -> None:
    store.track("a")
    polls = []
    for tenth in range(100):
        seconds = tenth / 10
        store.write(make_due, "main", "a", at(seconds))
        claimed = store.claim(seconds)
        if claimed:
            polls.append(seconds)
            store.write(make_due, "main", "a", at(seconds + 0.01))
            store.record(claimed, lambda _: seen(), seconds + 0.02)
    assert 8 <= len(polls) <= 10
    assert all(later - earlier >= 1 for earlier, later in pairwise(polls))


def test_a_poke_during_a_poll_that_was_not_due_brings_another(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen())
    claimed = store.write(claim_room, "a", "main", requests_per_second=0, now=at(9.5), token="by-hand")
    assert claimed is not None
    store.write(make_due, "main", "a", at(9.6))
    store.record([claimed], lambda _: seen(), 9.7)
    assert store.room("a").next_poll_at == at(10.6)


@pytest.mark.parametrize("by_file", [True, False])
def test_a_room_that_is_discovered_while_it_is_added_belongs_to_who_added_it(
    postgresql_store: StoreDriver, *, by_file: bool
) -> None:
    store, room = postgresql_store, RoomSpec(source="main", upstream_id="a")

    def add() -> None:
        if by_file:
            settings: dict[str, Any] = {"sources": ["main"], "endpoints": [], "context": store.context()}
            store.write(apply_configuration, rooms=[room], **settings)
        else:
            store.write(add_room, room, at(0), store.new_id)

    with meeting(store.database, add) as (connection, _):
        discover_rooms(connection, "main", {"a": 1}, at(0))
    assert tracked(store) == {"a": "config" if by_file else "manual"}

"""One order of locks on PostgreSQL (docs/architecture.md): whoever meets whom, both get to their end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from bridge.db.clock import forgive_clock
from sqlalchemy import Connection, select, update

from bridge.db.engine import Database
from bridge.db.tables import cursors, endpoints, rooms
from bridge.delivery.claim import ClaimedCursor, claim_cursors, release_cursors
from bridge.delivery.endpoints import EndpointSpec, remove_endpoint
from bridge.delivery.record import Tried, settle
from bridge.delivery.redeliver import ClaimedRedeliveries, Redelivered, claim_redeliveries, record_redelivery
from bridge.delivery.replay import Range, find_range, request_some
from bridge.delivery.snapshots import append_snapshots
from bridge.polling.plan import ClaimedRoom
from bridge.polling.record import record_polls
from bridge.polling.rooms import RoomSpec, add_room
from bridge.rules.presence import FailureKind
from tests.harness import postgres
from tests.harness.builders import at, seen
from tests.harness.deadlocks import crossings, meeting
from tests.harness.store_driver import RETRYABLE, SECRET, StoreDriver, busy, failed, polled_room, tried

NOW = 100
CRM, ERP = (
    EndpointSpec(name=name, url=f"https://{name}.example.com/", secret=SECRET, events=("*",)) for name in ("crm", "erp")
)
A, B = (RoomSpec(source="main", upstream_id=upstream_id) for upstream_id in ("a", "b"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Three rooms of two sources, three endpoints, and everything under way that a transaction may be about.

    T1 has claimed all rooms. The source of `c`, which was added by hand, is in trouble: its recovery is news of the
    bridge's own.
    """

    store: StoreDriver
    rooms: list[ClaimedRoom]
    lines: list[ClaimedCursor]
    replay: ClaimedRedeliveries

    def record(self, connection: Connection, *upstream_ids: str) -> None:
        polled = [polled_room(one, seen("q"), NOW) for one in self.rooms if one.upstream_id in upstream_ids]
        recorded = record_polls(connection, polled, settings=self.store.settings, new_id=self.store.new_id)
        assert [one.event_count for one in recorded] == [2] * len(upstream_ids)

    def poll(self, connection: Connection) -> None:
        self.record(connection, "a", "b", "c")

    def poll_others(self, connection: Connection) -> None:
        """Rooms that the file does not change."""
        self.record(connection, "a", "c")

    def reconcile(self, connection: Connection) -> None:
        """A room, a source and an endpoint that the file names no more, and an endpoint that it changes."""
        crm = replace(CRM, max_concurrency=3)
        reconcile(connection, sources=["main"], rooms=[A], endpoints=[crm], context=self.store.context(NOW))

    def forgive(self, connection: Connection) -> None:
        forgive_clock(connection, at(NOW - 3600))

    def add(self, connection: Connection) -> None:
        add_room(connection, RoomSpec(source="second", upstream_id="c", name="C"), at(NOW), self.store.new_id)

    def snapshots(self, connection: Connection) -> None:
        assert append_snapshots(connection, at(NOW), self.store.new_id)

    def claim(self, connection: Connection) -> None:
        assert claim_cursors(
            connection, slots=9, now=at(NOW), timeout=self.store.policy.timeout, token="t", cipher=self.store.cipher
        )

    def settle(self, connection: Connection) -> None:
        """Lines of two endpoints; one of them is back, and a line that waited is due again."""
        settlements = [tried(line, NOW) for line in self.lines]
        settled = settle(connection, settlements, policy=self.store.policy, new_id=self.store.new_id)
        assert any(one.released for one in settled)

    def request(self, connection: Connection) -> None:
        wanted = find_range(connection, self.replay.target.key, Range())
        assert request_some(connection, wanted, 0, at(NOW)).added

    def claim_replays(self, connection: Connection) -> None:
        timeout = self.store.policy.timeout
        assert claim_redeliveries(
            connection, lines=9, now=at(NOW), timeout=timeout, token="t", cipher=self.store.cipher
        )

    def replay_one(self, connection: Connection) -> None:
        redelivery = self.replay.redeliveries[0]
        done = Redelivered(
            line=self.replay,
            redelivery=redelivery,
            tried=Tried(event=redelivery.event, result=busy(60), started_at=at(NOW)),
            retry_at=at(NOW + 60),
            lease_until=at(NOW + 60),
        )
        record_redelivery(connection, done)

    def remove(self, connection: Connection) -> None:
        remove_endpoint(connection, "hand")


def scene_of(store: StoreDriver) -> Scene:
    store.write(reconcile, sources=["main", "second"], rooms=[A, B], endpoints=[CRM, ERP], context=store.context())
    store.track("c", source="second")
    hand = store.subscribe("hand")
    store.poll(0, a=seen("p"), b=seen("p"))
    store.record(store.claim(0, source="second"), lambda _: seen("p"), 0)
    store.record(store.claim(10, source="second"), lambda _: failed(FailureKind.UNAUTHORIZED), 10)

    lines = store.owed(20)
    (failing,) = (line for line in lines if (line.target.name, line.room_id) == ("crm", "a"))
    store.settle(20, tried(failing, 20, RETRYABLE))
    store.write(release_cursors, [line for line in lines if line.target.name == "erp"], at(20))
    lines = [line for line in lines if line is not failing and line.target.name != "erp"]

    hour = timedelta(hours=1)
    ask(store, hand)
    (replay,) = store.write(claim_redeliveries, lines=1, now=at(20), timeout=hour, token="mine", cipher=store.cipher)
    ask(store, failing.target.key)
    waiting = update(endpoints).where(endpoints.c.name == "erp").values(snapshots_after=0)
    store.write(lambda connection: connection.execute(waiting))
    claimed = [*store.claim(NOW, lease=hour), *store.claim(NOW, source="second", lease=hour)]
    return Scene(store=store, rooms=claimed, lines=lines, replay=replay)


def ask(store: StoreDriver, endpoint: int) -> None:
    """Some of what has happened, to be sent again."""
    wanted = store.database.read_now(find_range, endpoint, Range(until=at(1)))
    store.write(request_some, wanted, 0, at(20))


@pytest.fixture(scope="module")
def scene(postgres_url: str, postgresql_template: str) -> Iterator[Scene]:
    """One for all: whatever is done in it is undone."""
    url = postgres.create_database(postgres_url, template=postgresql_template)
    store = StoreDriver(database=Database(url))
    yield scene_of(store)
    store.database.close()
    postgres.drop_database(url)


PAIRS = [
    ("poll", "reconcile"),
    ("poll_others", "reconcile"),
    ("snapshots", "reconcile"),
    ("snapshots", "poll"),
    ("snapshots", "settle"),
    ("settle", "reconcile"),
    ("settle", "poll"),
    ("poll", "settle"),
    ("settle", "remove"),
    ("settle", "claim"),
    ("claim", "poll"),
    ("claim", "reconcile"),
    ("claim", "remove"),
    ("request", "settle"),
    ("request", "claim"),
    ("request", "claim_replays"),
    ("request", "remove"),
    ("claim_replays", "reconcile"),
    ("claim_replays", "replay_one"),
    ("replay_one", "reconcile"),
    ("replay_one", "remove"),
    ("replay_one", "settle"),
    ("add", "poll"),
    ("add", "reconcile"),
    ("forgive", "poll"),
    ("poll", "forgive"),
    ("forgive", "settle"),
    ("forgive", "reconcile"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_that_meet_never_wait_for_each_other(scene: Scene, first: str, second: str) -> None:
    assert crossings(scene.store.database, getattr(scene, first), getattr(scene, second)) == []


def test_rows_that_are_locked_the_other_way_round_are_found(scene: Scene) -> None:
    """So that the test above means something."""

    crm, a = (select(table.c.id).where(table.c.id == 1).with_for_update() for table in (endpoints, rooms))

    def endpoint_first(connection: Connection) -> None:
        connection.execute(crm)
        connection.execute(a)

    def room_first(connection: Connection) -> None:
        connection.execute(a)
        connection.execute(crm)

    (place,) = crossings(scene.store.database, endpoint_first, room_first)
    assert place.startswith("2: SELECT rooms.id")


def test_a_poll_that_waited_for_the_removal_of_an_endpoint_owes_it_nothing(postgresql_store: StoreDriver) -> None:
    store = postgresql_store
    store.track("a")
    kept = store.subscribe("kept")
    store.subscribe("hand")
    polled = [polled_room(one, seen("p"), 0) for one in store.claim(0)]

    def poll() -> object:
        return store.write(record_polls, polled, settings=store.settings, new_id=store.new_id)

    with meeting(store.database, poll) as (connection, _):
        remove_endpoint(connection, "hand")

    assert [row.endpoint_key for row in store.rows(cursors, "endpoint_key")] == [kept]
    assert store.event_types("a") == ["room.occupied", "peer.joined"]

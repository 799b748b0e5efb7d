"""The order of locks on PostgreSQL: no two transactions can deadlock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from bridge.admin.clock import make_everything_due
from bridge.admin.configured import apply_configuration
from bridge.db.cursors import Offer
from bridge.db.engine import Database
from bridge.db.tables import HOOK, cursors, endpoints, rooms
from bridge.delivery.claim import ClaimedCursor, ClaimedRedeliveries, claim_cursors, claim_redeliveries, release_cursors
from bridge.delivery.endpoints import EndpointSpec, remove_endpoint
from bridge.delivery.plan import Attempt, Removed
from bridge.delivery.record import record_attempts
from bridge.delivery.redeliver import Redelivered, record_redelivery
from bridge.delivery.replay import Range, find_range, request_some
from bridge.delivery.snapshots import append_snapshots
from bridge.delivery.targets import TargetCache
from bridge.polling.discovery import ClaimedList, claim_list, record_list
from bridge.polling.plan import ClaimedRoom
from bridge.polling.record import record_polls
from bridge.polling.rooms import RoomSpec, add_room, discover_rooms, remove_room
from bridge.rules.delivery import PostResult
from bridge.rules.live_rooms import LiveRooms
from bridge.rules.presence import FailureKind
from tests.harness import postgres
from tests.harness.builders import at, seen
from tests.harness.deadlocks import crossings, meeting
from tests.harness.store_driver import GONE, RETRYABLE, SECRET, StoreDriver, attempted, busy, failed, polled_room

NOW = 100
EVERY = timedelta(seconds=10)
CRM, ERP = (
    EndpointSpec(name=name, url=f"https://{name}.example.com/", secret=SECRET, events=("*",)) for name in ("crm", "erp")
)
A, B = (RoomSpec(source="main", upstream_id=upstream_id) for upstream_id in ("a", "b"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Transactions:
    """Three rooms of two sources, three endpoints, and every kind of transaction on them; `hand` is a REST hook.

    Before them is `old`, which was forgotten. The last list of live rooms named `b`. T1 has claimed all rooms. The
    source of `c`, which was added by hand, is unavailable, so that its recovery is an event of the bridge's own log.
    """

    store: StoreDriver
    rooms: list[ClaimedRoom]
    live_rooms: ClaimedList
    cursors: list[ClaimedCursor]
    redeliveries: ClaimedRedeliveries
    targets: TargetCache

    def record(self, connection: Connection, *upstream_ids: str, offer: Offer | None = None) -> None:
        polled = [polled_room(one, seen("q"), NOW) for one in self.rooms if one.upstream_id in upstream_ids]
        recorded = record_polls(connection, polled, settings=self.store.settings, new_id=self.store.new_id, offer=offer)
        assert [one.event_count for one in recorded] == [2] * len(upstream_ids)

    def poll(self, connection: Connection) -> None:
        self.record(connection, "a", "b", "c")

    def poll_for_sender(self, connection: Connection) -> None:
        """A sender of the same process would take over what is raised."""
        self.record(connection, "a", "b", "c", offer=self.targets.offer(token="mine", now=at(NOW), slots=9))

    def poll_others(self, connection: Connection) -> None:
        """Rooms that `configure` does not change."""
        self.record(connection, "a", "c")

    def configure(self, connection: Connection) -> None:
        """Remove a room, a source and an endpoint; change an endpoint."""
        crm = replace(CRM, max_concurrency=3)
        apply_configuration(connection, sources=["main"], rooms=[A], endpoints=[crm], context=self.store.context(NOW))

    def adopt(self, connection: Connection) -> None:
        """Rooms that the list names become the configuration's, and a new one is added before them."""
        specs = [RoomSpec(source="main", upstream_id=one, name="N") for one in ("new-2", "new-1", "old", "a", "b")]
        apply_configuration(
            connection, sources=["main"], rooms=specs, endpoints=[CRM, ERP], context=self.store.context(NOW)
        )

    def discover(self, connection: Connection) -> None:
        """A list with a forgotten room, new ones, and a change of a tracked room; another room is gone."""
        found = LiveRooms(peer_counts={"new-1": 1, "old": 1, "a": 2, "new-2": 1})
        new_id = self.store.new_id
        recorded = record_list(
            connection, self.live_rooms, found, globs=("*",), every=EVERY, now=at(NOW), jitter=0.5, new_id=new_id
        )
        assert (set(recorded.new), recorded.due) == ({"new-1", "old", "new-2"}, 2)

    def discover_by_hand(self, connection: Connection) -> None:
        """`bridge rooms discover`."""
        discover_rooms(connection, "main", {"new-2": 1, "new-1": 1, "old": 1}, at(NOW))

    def make_due(self, connection: Connection) -> None:
        make_everything_due(connection, at(NOW - 3600))

    def add(self, connection: Connection) -> None:
        add_room(connection, RoomSpec(source="second", upstream_id="c", name="C"), at(NOW), self.store.new_id)

    def snapshots(self, connection: Connection) -> None:
        assert append_snapshots(connection, at(NOW), self.store.new_id)

    def claim(self, connection: Connection) -> None:
        assert claim_cursors(connection, self.store.terms(NOW, slots=9)).items

    def attempts(self, connection: Connection) -> None:
        """Successes of two endpoints; the circuit of one closes, so that its waiting cursor is due."""
        reports = [attempted(cursor, NOW) for cursor in self.cursors]
        record_attempts(connection, reports, policy=self.store.policy, new_id=self.store.new_id)

    def gone(self, connection: Connection) -> None:
        """The REST hook responds 410 for every room, and is removed."""
        reports = [attempted(cursor, NOW, GONE) for cursor in self.cursors if cursor.target.name == "hand"]
        assert Removed() in record_attempts(connection, reports, policy=self.store.policy, new_id=self.store.new_id)

    def request(self, connection: Connection) -> None:
        wanted = find_range(connection, self.redeliveries.target.key, Range())
        assert request_some(connection, wanted, 0, at(NOW)).added

    def claim_redeliveries(self, connection: Connection) -> None:
        assert claim_redeliveries(connection, self.store.terms(NOW, slots=9)).items

    def redelivery(self, connection: Connection, result: PostResult | None = None) -> None:
        redelivery = self.redeliveries.redeliveries[0]
        done = Redelivered(
            claimed=self.redeliveries,
            redelivery=redelivery,
            attempt=Attempt(event=redelivery.event, result=result or busy(60), started_at=at(NOW)),
            retry_at=at(NOW + 60),
        )
        record_redelivery(connection, done)

    def redelivery_gone(self, connection: Connection) -> None:
        self.redelivery(connection, GONE)

    def remove(self, connection: Connection) -> None:
        remove_endpoint(connection, "hand")


def prepare(store: StoreDriver) -> Transactions:
    context = store.context()
    store.track("old")
    store.write(remove_room, "old", None, at(0), store.new_id)
    configured: dict[str, Any] = {"rooms": [A, B], "endpoints": [CRM, ERP], "context": context}
    store.write(apply_configuration, sources=["main", "second"], discovering={"main"}, **configured)
    store.track("c", source="second")
    hand = store.subscribe("hand")
    store.poll(0, a=seen("p"), b=seen("p"))
    store.record(store.claim(0, source="second"), lambda _: seen("p"), 0)
    store.record(store.claim(10, source="second"), lambda _: failed(FailureKind.UNAUTHORIZED), 10)

    claimed = store.owed(20)
    (failing,) = (one for one in claimed if (one.target.name, one.room_id) == ("hand", "a"))
    store.report(20, attempted(failing, 20, RETRYABLE))
    store.write(release_cursors, [one for one in claimed if one.target.name == "erp"])
    mine = [one for one in claimed if one is not failing and one.target.name != "erp"]

    request_replay(store, hand)
    (redeliveries,) = store.write(claim_redeliveries, store.terms(20, slots=1)).items
    (crm,) = {one.target.key for one in mine if one.target.name == "crm"}
    request_replay(store, crm)
    open_circuit = update(endpoints).where(endpoints.c.name == "hand").values(circuit="open", origin=HOOK)
    store.write(lambda connection: connection.execute(open_circuit))
    waiting = update(endpoints).where(endpoints.c.name == "erp").values(snapshots_after=0)
    store.write(lambda connection: connection.execute(waiting))
    listed = {"listed": True, "listed_count": 1}
    store.write(lambda connection: connection.execute(update(rooms).where(rooms.c.upstream_id == "b").values(listed)))
    claimed_list = store.write(claim_list, "main", requests_per_second=0, every=EVERY, now=at(NOW), token=store.token())
    assert claimed_list is not None
    claimed_rooms = [*store.claim(NOW), *store.claim(NOW, source="second")]
    targets = TargetCache(store.cipher)
    store.write(lambda connection: targets.load(connection, connection.execute(select(endpoints)).all(), at(NOW)))
    return Transactions(
        store=store,
        rooms=claimed_rooms,
        live_rooms=claimed_list,
        cursors=mine,
        redeliveries=redeliveries,
        targets=targets,
    )


def request_replay(store: StoreDriver, endpoint: int) -> None:
    wanted = store.database.read_now(find_range, endpoint, Range(until=at(1)))
    store.write(request_some, wanted, 0, at(20))


@pytest.fixture(scope="module")
def transactions(postgres_url: str, postgresql_template: str) -> Iterator[Transactions]:
    """One database for all tests: every transaction is rolled back."""
    url = postgres.create_database(postgres_url, template=postgresql_template)
    store = StoreDriver(database=Database(url))
    yield prepare(store)
    store.database.close()
    postgres.drop_database(url)


PAIRS = [
    ("poll", "configure"),
    ("poll_others", "configure"),
    ("snapshots", "configure"),
    ("snapshots", "poll"),
    ("snapshots", "attempts"),
    ("attempts", "configure"),
    ("attempts", "poll"),
    ("poll", "attempts"),
    ("poll_for_sender", "attempts"),
    ("attempts", "poll_for_sender"),
    ("poll_for_sender", "claim"),
    ("claim", "poll_for_sender"),
    ("poll_for_sender", "configure"),
    ("poll_for_sender", "remove"),
    ("attempts", "remove"),
    ("attempts", "claim"),
    ("claim", "poll"),
    ("claim", "configure"),
    ("claim", "remove"),
    ("request", "attempts"),
    ("request", "claim"),
    ("request", "claim_redeliveries"),
    ("request", "remove"),
    ("claim_redeliveries", "configure"),
    ("claim_redeliveries", "redelivery"),
    ("redelivery", "configure"),
    ("redelivery", "remove"),
    ("redelivery", "attempts"),
    ("gone", "poll"),
    ("poll", "gone"),
    ("gone", "poll_for_sender"),
    ("poll_for_sender", "gone"),
    ("gone", "snapshots"),
    ("gone", "claim"),
    ("claim", "gone"),
    ("gone", "attempts"),
    ("attempts", "gone"),
    ("gone", "configure"),
    ("gone", "redelivery"),
    ("request", "gone"),
    ("redelivery_gone", "attempts"),
    ("redelivery_gone", "poll"),
    ("redelivery_gone", "claim"),
    ("redelivery_gone", "configure"),
    ("add", "poll"),
    ("add", "configure"),
    ("make_due", "poll"),
    ("poll", "make_due"),
    ("make_due", "attempts"),
    ("make_due", "configure"),
    ("discover", "configure"),
    ("discover", "adopt"),
    ("discover", "poll"),
    ("discover", "make_due"),
    ("discover", "discover_by_hand"),
    ("discover_by_hand", "adopt"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_transactions_never_deadlock(transactions: Transactions, first: str, second: str) -> None:
    database = transactions.store.database

    assert crossings(database, getattr(transactions, first), getattr(transactions, second)) == []


def test_locks_in_the_opposite_order_are_found(transactions: Transactions) -> None:
    """Checks the test above."""
    crm, a = (select(table.c.id).where(table.c.id == 1).with_for_update() for table in (endpoints, rooms))

    def endpoint_first(connection: Connection) -> None:
        connection.execute(crm)
        connection.execute(a)

    def room_first(connection: Connection) -> None:
        connection.execute(a)
        connection.execute(crm)

    (point,) = crossings(transactions.store.database, endpoint_first, room_first)
    assert point.startswith("2: SELECT rooms.id")


@pytest.mark.parametrize("has_cursor", [True, False])
def test_a_poll_that_waits_for_the_removal_of_an_endpoint_is_repeated_without_it(
    postgresql_store: StoreDriver, *, has_cursor: bool
) -> None:
    """The cursor that it raises refers to a removed endpoint: a foreign key violation, as by a deadlock."""
    store = postgresql_store
    store.track("a")
    kept = store.subscribe("kept")
    store.subscribe("removed")
    if has_cursor:
        store.poll(0, a=seen())
        store.poll(10, a=seen("o"))
    polled = [polled_room(one, seen("p"), 20) for one in store.claim(20)]
    runs: list[int] = []

    def record(connection: Connection) -> object:
        runs.append(len(polled))
        return record_polls(connection, polled, settings=store.settings, new_id=store.new_id)

    with meeting(store.database, lambda: store.write(record)) as (connection, _):
        remove_endpoint(connection, "removed")

    assert runs == [1, 1]
    assert [row.endpoint_key for row in store.rows(cursors, "endpoint_key")] == [kept]
    assert store.event_types("a")[-1] == "peer.joined"
    assert store.chain_problems() == []

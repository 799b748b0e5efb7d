"""Random histories through the database: batches, restarts and stale polls."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.db.engine import Database
from bridge.db.tables import visits
from bridge.polling.claim import release_rooms
from bridge.polling.plan import PollingSettings
from bridge.rules.presence import Failure, Peer, PresencePolicy, Snapshot
from tests.harness import postgres
from tests.harness.builders import peer, seen
from tests.harness.log import log_problems, replay
from tests.harness.store_driver import StoreDriver, copied_sqlite, failed

ROOMS = ("r0", "r1", "r2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """After a while, perhaps after a restart, some rooms are polled together."""

    after: float
    restart: bool
    stale: bool
    results: dict[str, Snapshot | Failure]


PEERS = st.dictionaries(
    st.sampled_from("abc"), st.tuples(st.none() | st.integers(-100, 900), st.integers(0, 1)), max_size=3
).map(lambda named: [peer(name, joined, {"v": version}) for name, (joined, version) in named.items()])


def result_of(kind: str, peers: list[Peer]) -> Snapshot | Failure:
    match kind:
        case "failed":
            return failed()
        case "no_session":
            return seen(no_session=True)
        case _:
            return seen(*peers, complete=kind == "complete")


RESULTS = st.builds(
    result_of, st.sampled_from(["complete", "complete", "complete", "incomplete", "no_session", "failed"]), PEERS
)
ROUNDS = st.builds(
    Round,
    after=st.sampled_from([70, 100.5]),
    restart=st.booleans(),
    stale=st.booleans(),
    results=st.dictionaries(st.sampled_from(ROOMS), RESULTS, min_size=1),
)


@contextmanager
def fresh(kind: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database per example; a fixture would be one per test."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as directory:
            yield copied_sqlite(request.getfixturevalue("sqlite_template"), Path(directory))
        return
    template = request.getfixturevalue("postgresql_template")
    url = postgres.create_database(request.getfixturevalue("postgres_url"), template=template)
    try:
        yield url
    finally:
        postgres.drop_database(url)


def run(url: str, history: list[Round], missed: int) -> None:
    store = StoreDriver(database=Database(url))
    store.settings = PollingSettings(policy=PresencePolicy(leave_after_missed=missed))
    crm = store.subscribe("crm", events=["peer.*", "room.*"])
    store.subscribe("narrow", events=["peer.left"], rooms=["r1"])
    store.track(*ROOMS)
    now, last_complete, delivered = 0.0, {}, []
    for turn in history:
        now += turn.after
        if turn.restart:
            store.database.close()
            store.database = Database(url)
        stale = store.claim(now) if turn.stale else []
        now += 30
        if turn.stale:
            store.lose_claims()
        due = store.claim(now)
        claimed = [room for room in due if room.upstream_id in turn.results]
        store.write(release_rooms, [room for room in due if room not in claimed])
        recorded = store.record(stale, lambda _: seen("ghost"), now)
        assert all(one.fenced for one in recorded)
        store.record(claimed, turn.results.__getitem__, now)
        for room in claimed:
            result = turn.results[room.upstream_id]
            if isinstance(result, Snapshot) and result.complete:
                last_complete[room.upstream_id] = {one.peer_id for one in result.peers}
            elif isinstance(result, Snapshot):
                last_complete.pop(room.upstream_id, None)
        delivered += store.deliver(now)
        check(store, last_complete if missed == 1 else {})
    logged = [event["id"] for room in ROOMS for event in store.log(room)]
    assert sorted({*delivered}) == sorted(logged)
    assert all(row.acked == row.head for row in [store.cursor(crm, room) for room in ROOMS] if row is not None)
    store.database.close()


def check(store: StoreDriver, last_complete: dict[str, set[str]]) -> None:
    assert store.chain_problems() == []
    stored = store.rows(visits, "id")
    for room in ROOMS:
        log = store.log(room)
        assert log_problems(log) == []
        key = store.room(room).id
        present = {one.peer_id for one in stored if one.room_key == key and one.left_at is None}
        assert replay(log).get(room, set()) == present
        if room in last_complete:
            assert present == last_complete[room]


@pytest.mark.parametrize(
    ("kind", "examples"),
    [
        ("sqlite", 15),
        ("postgresql", 6),
        pytest.param("sqlite", 500, marks=pytest.mark.campaign),
        pytest.param("postgresql", 200, marks=pytest.mark.campaign),
    ],
)
def test_the_log_replays_to_the_rows_and_every_event_is_delivered_once(
    kind: str, examples: int, request: pytest.FixtureRequest
) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(ROUNDS, min_size=1, max_size=7), st.sampled_from([1, 1, 2]))
    def histories(history: list[Round], missed: int) -> None:
        with fresh(kind, request) as url:
            run(url, history, missed)

    histories()

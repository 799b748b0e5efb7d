"""T2: the rows and events that polls write."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import cycle
from typing import Any

import pytest

from bridge.db.tables import events, sessions, sources, visits
from bridge.errors import DatabaseError
from bridge.polling.plan import PollingSettings, Skipped
from bridge.polling.record import record_polls
from bridge.polling.rooms import remove_other_sources, remove_room
from bridge.rules.polling import failure_limit
from bridge.rules.presence import Failure, FailureKind, FirstSnapshot, Json, PresencePolicy, Snapshot
from tests.harness.builders import at, peer, seen
from tests.harness.log import log_problems
from tests.harness.statements import executed_statements
from tests.harness.store_driver import StoreDriver, failed, polled_room


def test_a_first_snapshot_writes_session_visits_events_and_the_next_poll(store: StoreDriver) -> None:
    store.track("a")
    recorded = store.poll(1, a=seen(peer("p", 0.5, {"name": "P"}), peer("q")))["a"]

    assert (recorded.fenced, recorded.event_count) == (False, 3)
    assert store.event_types("a") == ["room.occupied", "peer.joined", "peer.joined"]
    row = store.room("a")
    assert (row.last_sequence, row.polled_at, row.complete_at, row.claim_token) == (3, at(1), at(1), None)
    assert row.next_poll_at == at(10)
    assert {(one.peer_id, one.joined_at, one.left_at) for one in store.rows(visits, "id")} == {
        ("p", at(0.5), None),
        ("q", at(1), None),
    }
    (session,) = store.rows(sessions, "id")
    assert (session.visit_count, session.unique_peers, session.peak_peer_count, session.ended_at) == (2, 2, 2, None)
    assert row.session_key == session.id


def test_the_end_of_a_session_is_written(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen("p"))
    store.poll(10, a=seen(no_session=True))

    (session,) = store.rows(sessions, "id")
    (visit,) = store.rows(visits, "id")
    assert (session.ended_at, session.empty_reason) == (at(10), "no_session")
    assert (visit.left_at, visit.leave_reason, visit.last_seen_at) == (at(10), "session_ended", at(0))
    assert store.room("a").session_key is None
    store.poll(20, a=seen("p"))
    assert [one["data"]["session_id"] for one in store.log("a") if one["type"] == "room.occupied"] == [
        session.public_id,
        store.rows(sessions, "id")[1].public_id,
    ]


def test_a_failed_poll_writes_no_presence_and_does_not_count_for_last_seen(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen("p"))
    before = (store.rows(visits, "id"), store.rows(sessions, "id"), store.log("a"))

    for turn, kind in enumerate([FailureKind.TIMEOUT, FailureKind.BAD_RESPONSE, FailureKind.SERVER_ERROR]):
        store.poll(100 * (turn + 1), a=failed(kind))

    assert (store.rows(visits, "id"), store.rows(sessions, "id"), store.log("a")) == before
    row = store.room("a")
    assert (row.failures, row.last_failure) == (3, "server_error: it was server_error")
    assert row.complete_at == at(0)
    store.poll(400, a=seen())
    assert (store.room("a").failures, store.room("a").last_failure) == (0, None)
    left = store.log("a")[-2]["data"]
    assert (left["last_seen_at"], left["uncertainty_seconds"]) == ("2026-11-23T09:00:00.000Z", 400.0)


def test_a_skipped_poll_leaves_the_room_as_it_was(store: StoreDriver) -> None:
    store.track("a")
    (recorded,) = store.record(store.claim(5), lambda _: Skipped(), 6)

    row = store.room("a")
    assert recorded.source_paused_until is None
    assert (row.next_poll_at, row.failures, row.polled_at, row.claim_token) == (at(0), 0, None, None)


def test_a_quiet_poll_writes_no_visit_but_counts_for_last_seen(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen("p", "q"))
    before = store.rows(visits, "id")
    for now, peers in ((10, "pq"), (20, "qp"), (30, "qp")):
        assert store.poll(now, a=seen(*peers))["a"].changes == ()

    assert store.rows(visits, "id") == before
    store.poll(40, a=seen("p"))
    left = store.log("a")[-1]["data"]
    assert (left["last_seen_at"], left["left_at"]) == ("2026-11-23T09:00:30.000Z", "2026-11-23T09:00:40.000Z")
    assert left["uncertainty_seconds"] == 10.0


def test_incomplete_polls_count_for_last_seen_of_the_peers_in_them(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen("p", "q"))
    store.poll(10, a=seen("p", complete=False))
    store.poll(20, a=seen("p", complete=False))
    store.poll(30, a=seen())

    left = {one["data"]["peer_id"]: one["data"]["last_seen_at"] for one in store.log("a") if one["type"] == "peer.left"}
    assert left == {"p": "2026-11-23T09:00:20.000Z", "q": "2026-11-23T09:00:00.000Z"}


def test_suspected_leaves_are_stored_and_confirmed_early(store: StoreDriver) -> None:
    store.settings = PollingSettings(policy=PresencePolicy(leave_after_missed=3))
    store.track("a")
    store.poll(0, a=seen("p", "q"))
    store.poll(10, a=seen("q"))
    assert store.room("a").next_poll_at == at(12)
    store.poll(12, a=seen("q"))
    assert store.event_types("a")[-1] == "peer.joined"
    store.poll(14, a=seen("q"))

    left = store.log("a")[-1]["data"]
    assert (left["left_at"], left["last_seen_at"]) == ("2026-11-23T09:00:10.000Z", "2026-11-23T09:00:00.000Z")
    assert store.room("a").next_poll_at == at(24)


def test_a_suspected_leave_ends_when_the_peer_is_seen_again(store: StoreDriver) -> None:
    store.settings = PollingSettings(policy=PresencePolicy(leave_after_missed=2))
    store.track("a")
    store.poll(0, a=seen("p", "q"))
    store.poll(10, a=seen("q"))
    store.poll(12, a=seen("p", "q"))
    store.poll(22, a=seen("p", "q"))
    store.poll(32, a=seen("q"))
    store.poll(34, a=seen("q"))

    left = store.log("a")[-1]["data"]
    assert (left["left_at"], left["last_seen_at"]) == ("2026-11-23T09:00:32.000Z", "2026-11-23T09:00:22.000Z")


def test_a_room_can_have_its_own_interval_and_leave_after_missed(store: StoreDriver) -> None:
    store.track("a", interval=timedelta(seconds=3), leave_after_missed=2)
    store.poll(0, a=seen("p"))
    assert store.room("a").next_poll_at == at(3)
    store.poll(3, a=seen())

    assert store.event_types("a")[-1] == "peer.joined"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"v": 1}, {"v": 2}),
        ({"muted": 1}, {"muted": True}),
        ({"v": [0]}, {"v": [False]}),
        ({"v": 1}, None),
        (None, 0),
        (["a"], ["a", [0.5]]),
    ],
)
def test_an_update_is_reported_once(store: StoreDriver, before: Json, after: Json) -> None:
    store.track("a")
    store.poll(0, a=seen(peer("p", 0, before)))
    store.poll(10, a=seen(peer("p", 0, after)))
    store.poll(20, a=seen(peer("p", 0, after), peer("q", 15)))
    store.poll(30, a=seen(peer("p", 0, after)))

    updates = [one["data"] for one in store.log("a") if one["type"] == "peer.updated"]
    assert [(one["previous_metadata"], one["metadata"]) for one in updates] == [(before, after)]
    assert json.dumps(store.rows(visits, "id")[0].metadata) == json.dumps(after)


def test_polls_are_recorded_after_more_upserts_than_an_integer_of_32_bits_counts(
    postgresql_store: StoreDriver,
) -> None:
    store = postgresql_store
    for table in ("sessions", "visits", "cursors"):
        store.write(
            lambda connection, name: connection.exec_driver_sql(f"SELECT setval('{name}', 2147483647)"),
            f"{table}_id_seq",
        )
    store.subscribe()
    store.track("a", "b")
    store.poll(0, a=seen("p"))
    store.poll(10, a=seen("p", "q"), b=seen("p"))
    store.poll(20, a=seen(), b=seen())

    assert store.event_types("a")[-1] == "room.empty"
    assert len(store.deliver(30)) == len(store.log("a")) + len(store.log("b"))


def test_a_rejoin_and_a_return_are_no_new_peers(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen(peer("p", -1), peer("q", -1)))
    store.poll(10, a=seen(peer("p", 5), peer("q", -1)))
    store.poll(20, a=seen(peer("p", 5)))
    store.poll(30, a=seen(peer("p", 5), peer("q", 25)))
    store.poll(40, a=seen())

    empty = store.log("a")[-1]["data"]
    assert (empty["visit_count"], empty["unique_peers"], empty["peak_peer_count"]) == (4, 2, 2)


def test_baseline_logs_the_peers_present_at_the_start_but_does_not_deliver_them(store: StoreDriver) -> None:
    store.settings = PollingSettings(policy=PresencePolicy(first_snapshot=FirstSnapshot.BASELINE))
    store.track("a")
    key = store.subscribe()
    store.poll(0, a=seen("p"))

    assert store.event_types("a") == ["room.occupied", "peer.joined"]
    assert store.cursor(key, "a") is None
    store.poll(10, a=seen("p", "q"))
    assert store.log("a")[-1]["data"]["peer_count"] == 2
    assert store.deliver(10) == [store.log("a")[-1]["id"]]


def test_a_poll_whose_claim_was_lost_writes_nothing(store: StoreDriver) -> None:
    store.track("a")
    stale = store.claim(0)
    store.lose_claims()
    (current,) = store.claim(21)

    (recorded,) = store.record(stale, lambda _: seen("p"), 22)

    assert recorded.fenced
    assert (store.rows(visits, "id"), store.log("a"), store.room("a").polled_at) == ([], [], None)
    assert store.room("a").claim_token == current.token


def test_a_poll_of_a_removed_room_writes_nothing(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen("p"))
    claimed = store.claim(10)
    store.write(remove_room, "a", None, at(11), store.new_id)
    (recorded,) = store.record(claimed, lambda _: seen("p", "q"), 12)

    assert recorded.fenced
    assert store.event_types("a") == ["room.occupied", "peer.joined", "peer.left", "room.empty"]
    assert store.log("a")[-1]["data"]["empty_reason"] in {"unwatched", "absent"}
    assert store.log("a")[-2]["data"]["leave_reason"] == "unwatched"
    assert store.claim(1000) == []


def test_a_room_that_is_tracked_again_continues_its_sequence(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen("p"))
    store.write(remove_room, "a", None, at(5), store.new_id)
    store.track("a", seconds=100)
    store.poll(100, a=seen("p"))

    assert [one["data"]["sequence"] for one in store.log("a")] == [1, 2, 3, 4, 5, 6]
    assert store.log("a")[-1]["data"]["initial"] is True
    assert store.chain_problems() == []
    assert log_problems(store.log("a")) == []


def test_an_exception_in_the_middle_writes_nothing(store: StoreDriver) -> None:
    store.track("a", "b")
    store.subscribe()
    store.poll(0, a=seen("p"), b=seen("q"))
    before = [store.rooms(), store.rows(visits, "id"), store.rows(events, "id"), store.rows(sessions, "id")]
    claimed = store.claim(10)
    taken = store.log("a")[0]["id"]
    event_ids = ["evt_1", "evt_2", taken, "evt_4"]  # each time that it is run again
    names = {"vis": cycle(f"vis_{n}" for n in range(4)), "evt": cycle(event_ids), "salt": cycle("1234")}
    polled = [polled_room(room, seen("p", "q", "r"), 10) for room in claimed]

    with pytest.raises(DatabaseError):
        store.write(record_polls, polled, settings=store.settings, new_id=lambda prefix: next(names[prefix]))

    after = [store.rooms(), store.rows(visits, "id"), store.rows(events, "id"), store.rows(sessions, "id")]
    assert after[1:] == before[1:]
    assert [(row.last_sequence, row.chain_head) for row in after[0]] == [
        (row.last_sequence, row.chain_head) for row in before[0]
    ]


@pytest.mark.parametrize(
    "result",
    [
        seen("p"),
        seen("p", "q"),
        seen("q"),
        seen(),
        seen("p", complete=False),
        failed(FailureKind.RATE_LIMITED),
        Skipped(),
    ],
    ids=["quiet", "join", "join and leave", "empty", "incomplete", "failed", "skipped"],
)
def test_a_batch_of_a_hundred_rooms_executes_as_many_statements_as_one_of_two(
    store: StoreDriver, result: Snapshot | Failure | Skipped
) -> None:
    store.subscribe()
    counts = []
    for size in (2, 100):
        source = f"source of {size}"
        store.track(*(f"room{number}" for number in range(size)), source=source)
        store.record(store.claim(0, source=source), lambda _: seen("p"), 0)
        claimed = store.claim(10, source=source)
        with executed_statements(store.database) as statements:
            store.record(claimed, lambda _: result, 10)
        counts.append((len(claimed), len(statements)))

    (two, few), (hundred, many) = counts
    assert (two, hundred) == (2, 100)
    assert few == many <= 16


def test_a_batch_in_which_everything_happens_takes_few_statements(store: StoreDriver) -> None:
    """PostgreSQL writes visits and rooms with one; on SQLite, where a statement costs little, they have one each."""
    store.subscribe()
    later = {"begins": seen("p"), "grows": seen("p", "q"), "changes": seen("q"), "ends": seen(), "stays": seen("p")}
    store.track(*later)
    store.record(store.claim(0), lambda room: seen() if room == "begins" else seen("p"), 0)
    claimed = store.claim(10)
    with executed_statements(store.database) as statements:
        store.record(claimed, later.__getitem__, 10)

    expected = {"postgresql": 7, "sqlite": 9}
    assert len([one for one in statements if one != "BEGIN IMMEDIATE"]) == expected[store.database.dialect]
    assert store.chain_problems() == []


def facts(store: StoreDriver, event_type: str) -> list[dict[str, Any]]:
    return [one["data"] for one in store.log(None) if one["type"] == event_type]


def test_a_source_that_fails_and_recovers_is_reported_in_the_bridges_own_log(store: StoreDriver) -> None:
    store.track("a", "b")
    store.record(store.claim(0), lambda _: failed(FailureKind.UNAUTHORIZED), 1)
    store.record(store.claim(61), lambda _: failed(FailureKind.UNAUTHORIZED), 61)
    store.record(store.claim(121), lambda _: seen(), 121)

    assert store.event_types(None) == ["source.unavailable", "source.recovered"]
    (away,), (back,) = facts(store, "source.unavailable"), facts(store, "source.recovered")
    assert (away["affected_source"], away["condition"]) == ("main", "unauthorized")
    assert (back["since"], back["room_id"]) == ("2026-11-23T09:00:01.000Z", None)
    assert store.chain_problems() == []


@pytest.mark.parametrize(("count", "rounds"), [(1, 3), (2, 2), (3, 2), (20, 1)])
def test_a_source_of_any_size_is_unavailable_when_all_of_it_fails(store: StoreDriver, count: int, rounds: int) -> None:
    store.track(*(f"room{number:02}" for number in range(count)))
    now, limit = 0.0, failure_limit(count)
    for _ in range(rounds):
        assert store.rows(sources, "name")[0].condition == "ok"
        while claimed := store.claim(now, limit=limit):
            store.record(claimed, lambda _: failed(), now)
        now += 100

    assert store.event_types(None) == ["source.unavailable"]
    store.record(store.claim(now), lambda _: seen(), now)
    assert store.event_types(None) == ["source.unavailable", "source.recovered"]


def test_a_failed_follow_up_is_repeated_soon(store: StoreDriver) -> None:
    store.settings = PollingSettings(interval=timedelta(seconds=40), policy=PresencePolicy(leave_after_missed=2))
    store.track("a")
    store.poll(0, a=seen("p"))
    store.poll(40, a=seen())
    assert store.room("a").next_poll_at == at(42)
    store.poll(42, a=failed())
    assert at(43) < store.room("a").next_poll_at < at(45)
    store.poll(45, a=seen("p"))
    store.poll(90, a=failed())
    assert store.room("a").next_poll_at > at(120), "no leave waits for its confirmation any more"


def test_a_source_whose_row_another_process_removed_is_still_polled(store: StoreDriver) -> None:
    store.track("a")
    claimed = store.claim(0)
    store.write(remove_other_sources, [])

    store.record(claimed, lambda _: seen("p"), 0)
    store.write(remove_other_sources, [])
    assert [room.upstream_id for room in store.claim(10)] == ["a"]

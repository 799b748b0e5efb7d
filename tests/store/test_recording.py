"""T2: what polls write, what they leave alone, and for whom."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from bridge.errors import DatabaseError
from bridge.pacing import Condition, trouble_limit
from bridge.presence import FailureKind, FirstSnapshot, Json, PresencePolicy
from bridge.store.polls import Held, PollingSettings, record_polls
from bridge.store.rooms import forget_sources, remove_room
from bridge.store.tables import events, sessions, sources, visits
from tests.harness.log import log_problems
from tests.store.stage import Stage, at, failed, peer, polled_room, seen


def test_a_first_snapshot_writes_session_visits_events_and_the_next_poll(stage: Stage) -> None:
    stage.track("a")
    recorded = stage.poll(1, a=seen(peer("p", 0.5, {"name": "P"}), peer("q")))["a"]

    assert (recorded.fenced, recorded.event_count) == (False, 3)
    assert stage.told("a") == ["room.occupied", "peer.joined", "peer.joined"]
    row = stage.room("a")
    assert (row.last_sequence, row.polled_at, row.complete_at, row.claim_token) == (3, at(1), at(1), None)
    assert row.next_poll_at == at(10)
    assert {(one.peer_id, one.joined_at, one.left_at) for one in stage.rows(visits, "id")} == {
        ("p", at(0.5), None),
        ("q", at(1), None),
    }
    (session,) = stage.rows(sessions, "id")
    assert (session.visit_count, session.unique_peers, session.peak_peer_count, session.ended_at) == (2, 2, 2, None)
    assert row.session_key == session.id


def test_the_end_of_a_session_is_written_too(stage: Stage) -> None:
    stage.track("a")
    stage.poll(0, a=seen("p"))
    stage.poll(10, a=seen(no_session=True))

    (session,) = stage.rows(sessions, "id")
    (visit,) = stage.rows(visits, "id")
    assert (session.ended_at, session.empty_reason) == (at(10), "no_session")
    assert (visit.left_at, visit.leave_reason, visit.last_seen_at) == (at(10), "session_ended", at(0))
    assert stage.room("a").session_key is None
    stage.poll(20, a=seen("p"))
    assert [one["data"]["session_id"] for one in stage.log("a") if one["type"] == "room.occupied"] == [
        session.public_id,
        stage.rows(sessions, "id")[1].public_id,
    ]


def test_a_failed_poll_writes_no_presence(stage: Stage) -> None:
    stage.track("a")
    stage.poll(0, a=seen("p"))
    before = (stage.rows(visits, "id"), stage.rows(sessions, "id"), stage.log("a"))

    for turn, kind in enumerate([FailureKind.TIMEOUT, FailureKind.BAD_ANSWER, FailureKind.SERVER_ERROR]):
        stage.poll(100 * (turn + 1), a=failed(kind))

    assert (stage.rows(visits, "id"), stage.rows(sessions, "id"), stage.log("a")) == before
    row = stage.room("a")
    assert (row.failures, row.last_failure) == (3, "server_error: it was server_error")
    assert row.complete_at == at(0)
    stage.poll(400, a=seen("p"))
    assert (stage.room("a").failures, stage.room("a").last_failure) == (0, None)


def test_a_room_that_was_held_back_waits_and_counts_no_failure(stage: Stage) -> None:
    stage.track("a")
    (recorded,) = stage.record(stage.claim(0), lambda _: Held(until=at(30)), 1)

    row = stage.room("a")
    assert recorded.source_held_until == at(30)
    assert (row.next_poll_at, row.failures, row.polled_at, row.claim_token) == (at(30), 0, None, None)


def test_a_quiet_poll_writes_no_visit_and_yet_the_last_sighting_is_known(stage: Stage) -> None:
    stage.track("a")
    stage.poll(0, a=seen("p", "q"))
    before = stage.rows(visits, "id")
    for now in (10, 20, 30):
        assert stage.poll(now, a=seen("p", "q"))["a"].changes == ()

    assert stage.rows(visits, "id") == before
    stage.poll(40, a=seen("p"))
    left = stage.log("a")[-1]["data"]
    assert (left["last_seen_at"], left["left_at"]) == ("2026-11-23T09:00:30.000Z", "2026-11-23T09:00:40.000Z")
    assert left["uncertainty_seconds"] == 10.0


def test_a_poll_in_which_only_the_order_changed_writes_no_visit(stage: Stage) -> None:
    stage.track("a")
    stage.poll(0, a=seen("p", "q"))
    before = stage.rows(visits, "id")
    stage.poll(10, a=seen("q", "p"))

    assert stage.rows(visits, "id") == before


def test_failures_between_do_not_count_as_sightings(stage: Stage) -> None:
    stage.track("a")
    stage.poll(0, a=seen("p"))
    stage.poll(10, a=failed())
    stage.poll(20, a=seen())

    assert stage.log("a")[-2]["data"]["last_seen_at"] == "2026-11-23T09:00:00.000Z"
    assert stage.log("a")[-2]["data"]["uncertainty_seconds"] == 20.0


def test_incomplete_polls_are_sightings_of_those_they_list(stage: Stage) -> None:
    stage.track("a")
    stage.poll(0, a=seen("p", "q"))
    stage.poll(10, a=seen("p", complete=False))
    stage.poll(20, a=seen("p", complete=False))
    stage.poll(30, a=seen())

    left = {one["data"]["peer_id"]: one["data"]["last_seen_at"] for one in stage.log("a") if one["type"] == "peer.left"}
    assert left == {"p": "2026-11-23T09:00:20.000Z", "q": "2026-11-23T09:00:00.000Z"}


def test_an_incomplete_answer_is_never_taken_for_the_last_complete_one(stage: Stage) -> None:
    stage.track("a")
    answer = seen("p", complete=False)
    stage.poll(0, a=answer)
    stage.poll(10, a=answer)

    assert stage.room("a").complete_at is None
    assert stage.room("a").fingerprint is None


def test_suspects_survive_in_the_database_and_are_confirmed_early(stage: Stage) -> None:
    stage.settings = PollingSettings(policy=PresencePolicy(leave_after_missed=3))
    stage.track("a")
    stage.poll(0, a=seen("p", "q"))
    stage.poll(10, a=seen("q"))
    assert stage.room("a").next_poll_at == at(12)
    stage.poll(12, a=seen("q"))
    assert stage.told("a")[-1] == "peer.joined"
    stage.poll(14, a=seen("q"))

    left = stage.log("a")[-1]["data"]
    assert (left["left_at"], left["last_seen_at"]) == ("2026-11-23T09:00:10.000Z", "2026-11-23T09:00:00.000Z")
    assert stage.room("a").next_poll_at == at(24)


def test_a_suspect_that_was_seen_again_starts_anew(stage: Stage) -> None:
    stage.settings = PollingSettings(policy=PresencePolicy(leave_after_missed=2))
    stage.track("a")
    stage.poll(0, a=seen("p", "q"))
    stage.poll(10, a=seen("q"))
    stage.poll(12, a=seen("p", "q"))
    stage.poll(22, a=seen("p", "q"))
    stage.poll(32, a=seen("q"))
    stage.poll(34, a=seen("q"))

    left = stage.log("a")[-1]["data"]
    assert (left["left_at"], left["last_seen_at"]) == ("2026-11-23T09:00:32.000Z", "2026-11-23T09:00:22.000Z")


def test_a_room_can_have_an_interval_and_a_patience_of_its_own(stage: Stage) -> None:
    stage.track("a", interval=timedelta(seconds=3), leave_after_missed=2)
    stage.poll(0, a=seen("p"))
    assert stage.room("a").next_poll_at == at(3)
    stage.poll(3, a=seen())

    assert stage.told("a")[-1] == "peer.joined"


@pytest.mark.parametrize(
    ("before", "after"),
    [({"v": 1}, {"v": 2}), ({"muted": 1}, {"muted": True}), ({"v": [0]}, {"v": [False]}), ({"v": 1}, None), (None, 0)],
)
def test_an_update_is_told_once(stage: Stage, before: Json, after: Json) -> None:
    stage.track("a")
    stage.poll(0, a=seen(peer("p", 0, before)))
    stage.poll(10, a=seen(peer("p", 0, after)))
    stage.poll(20, a=seen(peer("p", 0, after), peer("q", 15)))
    stage.poll(30, a=seen(peer("p", 0, after)))

    updates = [one["data"] for one in stage.log("a") if one["type"] == "peer.updated"]
    assert [(one["previous_metadata"], one["metadata"]) for one in updates] == [(before, after)]
    assert json.dumps(stage.rows(visits, "id")[0].metadata) == json.dumps(after)


def test_a_rejoin_and_a_return_are_no_new_people(stage: Stage) -> None:
    stage.track("a")
    stage.poll(0, a=seen(peer("p", -1), peer("q", -1)))
    stage.poll(10, a=seen(peer("p", 5), peer("q", -1)))
    stage.poll(20, a=seen(peer("p", 5)))
    stage.poll(30, a=seen(peer("p", 5), peer("q", 25)))
    stage.poll(40, a=seen())

    empty = stage.log("a")[-1]["data"]
    assert (empty["visit_count"], empty["unique_peers"], empty["peak_peer_count"]) == (4, 2, 2)


def test_baseline_writes_the_visits_and_tells_nothing(stage: Stage) -> None:
    stage.settings = PollingSettings(policy=PresencePolicy(first_snapshot=FirstSnapshot.BASELINE))
    stage.track("a")
    stage.poll(0, a=seen("p"))

    assert stage.log("a") == []
    assert len(stage.rows(visits, "id")) == 1
    stage.poll(10, a=seen("p", "q"))
    assert stage.told("a") == ["peer.joined"]
    assert stage.log("a")[0]["data"]["peer_count"] == 2


def test_a_token_that_is_gone_writes_nothing(stage: Stage) -> None:
    stage.track("a")
    stale = stage.claim(0)
    stage.claim(21)

    (recorded,) = stage.record(stale, lambda _: seen("p"), 22)

    assert recorded.fenced
    assert (stage.rows(visits, "id"), stage.log("a"), stage.room("a").polled_at) == ([], [], None)
    assert stage.room("a").next_poll_at == at(42)


def test_a_lease_that_ran_out_without_another_claim_is_still_ours(stage: Stage) -> None:
    stage.track("a")
    late = stage.claim(0)

    (recorded,) = stage.record(late, lambda _: seen("p"), 100)

    assert not recorded.fenced
    assert stage.told("a") == ["room.occupied", "peer.joined"]


@pytest.mark.parametrize("stale_first", [True, False])
def test_a_stale_and_a_current_poll_in_one_batch(stage: Stage, stale_first: bool) -> None:  # noqa: FBT001 - a table's column
    stage.track("a")
    (stale,) = stage.claim(0)
    (current,) = stage.claim(21)
    polled = [polled_room(stale, seen("old"), 22), polled_room(current, seen("new"), 22)]
    if not stale_first:
        polled.reverse()

    recorded = stage.write(record_polls, polled, settings=stage.settings, new_id=stage.new_id)

    assert [one.fenced for one in recorded] == ([True, False] if stale_first else [False, True])
    assert [one["data"].get("peer_id") for one in stage.log("a")] == [None, "new"]


def test_a_stale_poll_says_nothing_of_its_source(stage: Stage) -> None:
    stage.track("a")
    stale = stage.claim(0)
    stage.claim(21)
    stage.record(stale, lambda _: failed(FailureKind.UNAUTHORIZED), 22)

    assert stage.rows(sources, "name")[0].condition == Condition.OK


def test_a_removed_room_is_written_no_more(stage: Stage) -> None:
    stage.track("a")
    stage.poll(0, a=seen("p"))
    claimed = stage.claim(10)
    stage.write(remove_room, "a", None, at(11), stage.new_id)
    (recorded,) = stage.record(claimed, lambda _: seen("p", "q"), 12)

    assert recorded.fenced
    assert stage.told("a") == ["room.occupied", "peer.joined", "peer.left", "room.empty"]
    assert stage.log("a")[-1]["data"]["empty_reason"] in {"unwatched", "absent"}
    assert stage.log("a")[-2]["data"]["leave_reason"] == "unwatched"
    assert stage.claim(1000) == []


def test_a_room_that_is_tracked_again_goes_on_with_its_numbers(stage: Stage) -> None:
    stage.track("a")
    stage.poll(0, a=seen("p"))
    stage.write(remove_room, "a", None, at(5), stage.new_id)
    stage.track("a", seconds=100)
    stage.poll(100, a=seen("p"))

    assert [one["data"]["sequence"] for one in stage.log("a")] == [1, 2, 3, 4, 5, 6]
    assert stage.log("a")[-1]["data"]["initial"] is True
    assert stage.chain_problems() == []
    assert log_problems(stage.log("a")) == []


def test_an_exception_in_the_middle_writes_nothing(stage: Stage) -> None:
    stage.track("a", "b")
    stage.subscribe()
    stage.poll(0, a=seen("p"), b=seen("q"))
    before = [stage.rooms(), stage.rows(visits, "id"), stage.rows(events, "id"), stage.rows(sessions, "id")]
    claimed = stage.claim(10)
    taken = stage.log("a")[0]["id"]
    names = iter(["vis_1", "vis_2", "evt_1", "evt_2", "vis_3", "vis_4", taken, "evt_4"])
    polled = [polled_room(room, seen("p", "q", "r"), 10) for room in claimed]

    with pytest.raises(DatabaseError):
        stage.write(record_polls, polled, settings=stage.settings, new_id=lambda _: next(names))

    after = [stage.rooms(), stage.rows(visits, "id"), stage.rows(events, "id"), stage.rows(sessions, "id")]
    assert after[1:] == before[1:]
    assert [(row.last_sequence, row.chain_head) for row in after[0]] == [
        (row.last_sequence, row.chain_head) for row in before[0]
    ]


def test_many_rooms_in_one_batch_keep_apart(stage: Stage) -> None:
    stage.track(*(f"r{number}" for number in range(20)))
    stage.poll(0, **{f"r{number}": seen(*(f"p{peer}" for peer in range(number % 4))) for number in range(20)})
    stage.poll(10, **{f"r{number}": seen(*(f"p{peer}" for peer in range(number % 3))) for number in range(20)})

    assert stage.chain_problems() == []
    for number in range(20):
        log = stage.log(f"r{number}")
        assert log_problems(log) == []
        present = {
            one.peer_id
            for one in stage.rows(visits, "id")
            if one.room_key == stage.room(f"r{number}").id and one.left_at is None
        }
        assert present == {f"p{peer}" for peer in range(number % 3)}


def facts(stage: Stage, event_type: str) -> list[dict[str, Any]]:
    return [one["data"] for one in stage.log(None) if one["type"] == event_type]


def test_a_source_that_fails_and_recovers_is_told_in_the_bridges_own_log(stage: Stage) -> None:
    stage.track("a", "b")
    stage.record(stage.claim(0), lambda _: failed(FailureKind.UNAUTHORIZED), 1)
    stage.record(stage.claim(61), lambda _: failed(FailureKind.UNAUTHORIZED), 61)
    stage.record(stage.claim(121), lambda _: seen(), 121)

    assert stage.told(None) == ["source.unavailable", "source.recovered"]
    (away,), (back,) = facts(stage, "source.unavailable"), facts(stage, "source.recovered")
    assert (away["affected_source"], away["condition"]) == ("main", "unauthorized")
    assert (back["since"], back["room_id"]) == ("2026-11-23T09:00:01.000Z", None)
    assert stage.chain_problems() == []


@pytest.mark.parametrize(("count", "rounds"), [(1, 3), (2, 2), (3, 2), (20, 1)])
def test_a_source_of_any_size_is_unavailable_when_all_of_it_fails(stage: Stage, count: int, rounds: int) -> None:
    stage.track(*(f"room{number:02}" for number in range(count)))
    now, limit = 0.0, trouble_limit(count)
    for _ in range(rounds):
        assert stage.rows(sources, "name")[0].condition == "ok"
        while claimed := stage.claim(now, limit=limit):
            stage.record(claimed, lambda _: failed(), now)
        now += 100

    assert stage.told(None) == ["source.unavailable"]
    stage.record(stage.claim(now), lambda _: seen(), now)
    assert stage.told(None) == ["source.unavailable", "source.recovered"]


def test_a_room_that_always_fails_beside_a_good_one_is_its_own_trouble(stage: Stage) -> None:
    stage.track("good", "bad")
    for turn in range(20):
        stage.record(stage.claim(turn * 100), lambda name: failed() if name == "bad" else seen(), turn * 100)

    assert stage.room("bad").failures == 20
    assert stage.rows(sources, "name")[0].condition == "ok"


def test_a_server_error_that_asks_for_patience_gets_it(stage: Stage) -> None:
    stage.track("a")
    stage.poll(0, a=failed(FailureKind.SERVER_ERROR, 300))

    assert stage.room("a").next_poll_at == at(300)


def test_a_failed_follow_up_is_made_up_for_soon(stage: Stage) -> None:
    stage.settings = PollingSettings(interval=timedelta(seconds=40), policy=PresencePolicy(leave_after_missed=2))
    stage.track("a")
    stage.poll(0, a=seen("p"))
    stage.poll(40, a=seen())
    assert stage.room("a").next_poll_at == at(42)
    stage.poll(42, a=failed())
    assert at(43) < stage.room("a").next_poll_at < at(45)
    stage.poll(45, a=seen("p"))
    stage.poll(90, a=failed())
    assert stage.room("a").next_poll_at > at(120), "nobody is missing any more"


def test_a_source_that_another_process_does_not_know_is_polled_all_the_same(stage: Stage) -> None:
    stage.track("a")
    claimed = stage.claim(0)
    stage.write(forget_sources, [])

    stage.record(claimed, lambda _: seen("p"), 0)
    stage.write(forget_sources, [])
    assert [room.upstream_id for room in stage.claim(10)] == ["a"]


def test_a_rate_limit_is_no_failure_of_the_source(stage: Stage) -> None:
    stage.track("a")
    stage.record(stage.claim(0), lambda _: failed(FailureKind.RATE_LIMITED, 30), 0)

    assert stage.room("a").next_poll_at == at(30)
    assert [room.upstream_id for room in stage.rooms()] == ["a"], "nothing is told, so there is no log of our own yet"


def test_two_sources_are_judged_apart(stage: Stage) -> None:
    stage.track("a")
    stage.track("b", source="second")
    claimed = [*stage.claim(0), *stage.claim(0, source="second")]
    stage.record(claimed, lambda name: failed(FailureKind.UNAUTHORIZED) if name == "a" else seen(), 0)

    assert {row.name: row.condition for row in stage.rows(sources, "name")} == {"main": "unauthorized", "second": "ok"}

"""The plan of T2, without a database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from bridge.events.subscription import NO_ENDPOINT
from bridge.polling.plan import (
    ClaimedRoom,
    FailedRoom,
    LoadedPolls,
    Poll,
    PollingSettings,
    PollPlan,
    QuietRoom,
    RecordedPoll,
    Skipped,
    StoredRoom,
    StoredSource,
    plan_polls,
)
from bridge.rules.chain import GENESIS
from bridge.rules.pokes import Expected
from bridge.rules.polling import Condition, SourceHealth
from bridge.rules.presence import (
    Failure,
    FailureKind,
    FirstSnapshot,
    PeerJoined,
    Presence,
    PresencePolicy,
    RoomOccupied,
    Snapshot,
    diff,
)
from tests.harness.builders import START, at, ids, seen
from tests.harness.store_driver import failed

SETTINGS = PollingSettings()
FAILING = SourceHealth(condition=Condition.FAILING, since=at(-60), paused_until=at(0), failure_score=8, pauses=3)


def room(key: int = 1, **columns: Any) -> StoredRoom:  # noqa: ANN401 - columns of a room
    fields: dict[str, Any] = {
        "id": key,
        "source": "main",
        "upstream_id": f"room{key}",
        "name": None,
        "interval": None,
        "leave_after_missed": None,
        "claim_token": "mine",
        "tracked_since": START,
        "complete_at": None,
        "fingerprint": None,
        "failures": 0,
        "session_key": None,
        "last_sequence": 0,
        "chain_head": GENESIS,
    }
    return StoredRoom(**fields | columns)


def poll(
    result: Snapshot | Failure | Skipped, key: int = 1, *, seconds: float = 1, source: str = "main", probe: bool = False
) -> Poll:
    claimed = ClaimedRoom(key=key, source=source, upstream_id=f"room{key}", due_at=START, token="mine", is_probe=probe)
    return Poll(room=claimed, started_at=START, at=at(seconds), result=result, jitter=0.5)


def plan(
    polls: Sequence[Poll],
    *rooms: StoredRoom,
    health: SourceHealth | None = None,
    presence: Presence | None = None,
    suspects: frozenset[int] = frozenset(),
    healthy_room: bool = False,
    settings: PollingSettings = SETTINGS,
) -> PollPlan:
    stored = rooms or (room(),)
    before = presence or Presence(tracked_since=START)
    source = StoredSource(health=health or SourceHealth(), room_count=2, has_healthy_room=healthy_room)
    loaded = LoadedPolls(
        rooms={one.id: one for one in stored},
        sources={one.source: source for one in stored},
        presence={one.id: before for one in stored},
        with_suspects=suspects,
    )
    return plan_polls(polls, loaded, settings, ids())


def presence_of(*peers: str) -> Presence:
    return diff(Presence(tracked_since=START), seen(*peers), PresencePolicy(), START, ids()).after


@pytest.mark.parametrize("stored", [room(claim_token="another's"), room(claim_token=None), room(key=2)])
@pytest.mark.parametrize("result", [seen("p"), failed(FailureKind.UNAUTHORIZED), Skipped()])
def test_nothing_of_a_fenced_poll_is_written(stored: StoredRoom, result: Snapshot | Failure | Skipped) -> None:
    assert plan([poll(result)], stored) == PollPlan(recorded=[RecordedPoll(fenced=True)])


def test_a_changed_snapshot_numbers_its_events_after_the_last_of_the_room() -> None:
    planned = plan([poll(seen("p"))], room(last_sequence=7))

    (recorded,) = planned.recorded
    assert [type(change) for change in recorded.changes] == [RoomOccupied, PeerJoined]
    assert [(one.type, one.sequence, one.audience) for one in planned.events] == [
        ("room.occupied", 8, None),
        ("peer.joined", 9, None),
    ]
    (after,) = planned.seen
    assert (after.log.last_sequence, after.log.chain_head) == (9, planned.events[-1].hash)
    assert (after.polled_at, after.complete_at, after.next_poll_at) == (at(1), at(1), at(10))
    assert after.session_id is not None
    assert after.fingerprint == seen("p").fingerprint


def test_the_snapshot_that_is_stored_only_moves_the_times() -> None:
    planned = plan([poll(seen("p"))], room(fingerprint=seen("p").fingerprint))

    assert planned == PollPlan(
        recorded=[RecordedPoll()], quiet=[QuietRoom(key=1, polled_at=at(1), next_poll_at=at(10))]
    )


@pytest.mark.parametrize("fingerprint", [None, seen("q").fingerprint])
@pytest.mark.parametrize(("expected", "again"), [("+p", True), ("-p", False), ("-q", True), ("-", True), ("+q", False)])
def test_a_poll_that_contradicts_a_poke_is_repeated_soon(
    fingerprint: bytes | None, expected: str, *, again: bool
) -> None:
    stored = room(fingerprint=fingerprint, session_key=1, expected=Expected.parse(expected), next_poll_at=START)
    planned = plan([poll(seen("q"))], stored, presence=presence_of("q"))

    (after,) = planned.quiet or planned.seen
    assert after.next_poll_at == at(1 + 2 if again else 10)
    assert planned.answered == [1]


def test_a_poke_during_a_poll_is_left_to_the_next_one() -> None:
    stored = room(expected=Expected.parse("+p"), next_poll_at=at(1.5))
    planned = plan([poll(seen())], stored)

    assert planned.seen[0].next_poll_at == at(1.5)
    assert planned.answered == []


def test_an_incomplete_snapshot_is_compared_and_leaves_no_fingerprint() -> None:
    (after,) = plan([poll(seen("p", complete=False))], room(complete_at=at(-9), fingerprint=b"1")).seen

    assert (after.fingerprint, after.complete_at) == (None, None)


def test_a_suspected_leave_is_polled_again_soon_and_leaves_no_fingerprint() -> None:
    planned = plan([poll(seen())], room(leave_after_missed=2), presence=presence_of("p"))

    (after,) = planned.seen
    assert planned.events == []
    assert (after.fingerprint, after.next_poll_at) == (None, at(1 + 2))


def test_the_end_of_a_session_leaves_the_room_without_one() -> None:
    planned = plan([poll(seen())], presence=presence_of("p"))

    assert [one.type for one in planned.events] == ["peer.left", "room.empty"]
    assert planned.seen[0].session_id is None


@pytest.mark.parametrize(("suspects", "wait"), [(frozenset({1}), 8), (frozenset({2}), 40)])
def test_a_failed_poll_backs_off_from_the_interval_or_from_the_follow_up(suspects: frozenset[int], wait: float) -> None:
    planned = plan([poll(failed())], room(failures=2), suspects=suspects, healthy_room=True)

    assert planned.failed == [
        FailedRoom(
            key=1,
            polled_at=at(1),
            next_poll_at=at(1 + wait),
            failures=3,
            last_failure="server_error: it was server_error",
        )
    ]
    assert (planned.seen, planned.events, planned.sources) == ([], [], {})


def test_a_skipped_poll_leaves_the_room_due_and_its_source_as_it_is() -> None:
    planned = plan([poll(Skipped())], health=FAILING)

    assert planned.skipped == [1]
    assert planned.sources == {}


def test_the_interval_of_a_room_comes_before_that_of_the_settings() -> None:
    planned = plan([poll(seen(), key) for key in (1, 2)], room(1, interval=timedelta(seconds=3)), room(2))

    assert [after.next_poll_at for after in planned.seen] == [at(3), at(10)]


def test_the_events_of_each_poll_have_its_own_time() -> None:
    planned = plan([poll(seen("p"), 1, seconds=1), poll(seen("q"), 2, seconds=5)], room(1), room(2))

    assert [(one.room_key, one.recorded_at) for one in planned.events] == [
        (1, at(1)), (1, at(1)), (2, at(5)), (2, at(5)),
    ]  # fmt: skip


def test_under_baseline_the_peers_present_at_the_start_are_addressed_to_no_endpoint() -> None:
    settings = PollingSettings(policy=PresencePolicy(first_snapshot=FirstSnapshot.BASELINE))
    first = plan([poll(seen("p"))], settings=settings)
    present = presence_of("p")
    second = plan([poll(seen("p", "q"))], presence=present, settings=settings)

    assert [(one.type, one.audience) for one in first.events] == [
        ("room.occupied", NO_ENDPOINT),
        ("peer.joined", NO_ENDPOINT),
    ]
    assert [(one.type, one.audience) for one in second.events] == [("peer.joined", None)]


def test_two_rooms_of_one_source_count_for_it_one_after_the_other() -> None:
    score = SourceHealth(since=at(-9), failure_score=2)
    planned = plan([poll(failed(), 1), poll(failed(), 2)], room(1), room(2), health=score)

    assert planned.sources["main"].condition is Condition.FAILING
    assert planned.sources["main"].paused_until == at(1 + 2)
    assert [one.source_paused_until for one in planned.recorded] == [at(3), at(3)]
    (notice,) = planned.notices
    assert (notice.type, notice.audience) == ("source.unavailable", None)


def test_a_success_in_the_same_batch_keeps_the_source_from_failing() -> None:
    score = SourceHealth(since=at(-9), failure_score=3)
    planned = plan([poll(seen(), 1), poll(failed(), 2)], room(1), room(2), health=score)

    assert (planned.sources, planned.notices) == ({}, [])


def test_a_room_that_failed_before_does_not_count_beside_a_healthy_one() -> None:
    score = SourceHealth(since=at(-9), failure_score=3)

    assert plan([poll(failed())], room(failures=1), health=score, healthy_room=True).sources == {}
    assert plan([poll(failed())], room(failures=1), health=score).sources["main"].condition is Condition.FAILING


def test_a_successful_probe_recovers_the_source_and_is_announced() -> None:
    planned = plan([poll(seen(), probe=True)], health=FAILING)

    assert planned.sources == {"main": SourceHealth()}
    assert planned.recovered == ["main"]
    (notice,) = planned.notices
    assert (notice.type, notice.audience) == ("source.recovered", None)


def test_a_rate_limit_pauses_the_source_without_a_notice() -> None:
    planned = plan([poll(failed(FailureKind.RATE_LIMITED, 30))])

    assert planned.sources["main"].paused_until == at(31)
    assert (planned.notices, planned.recovered) == ([], [])


def test_sources_of_one_batch_are_independent() -> None:
    polls = [poll(failed(FailureKind.UNAUTHORIZED), 1), poll(seen(), 2, source="second")]
    planned = plan(polls, room(1), room(2, source="second"))

    assert planned.sources.keys() == {"main"}
    assert [one.source_paused_until for one in planned.recorded] == [at(61), None]

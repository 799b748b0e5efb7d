from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import pytest

from bridge.rules.presence import (
    ABSENT,
    Absent,
    FirstSnapshot,
    Json,
    LeaveReason,
    Peer,
    PeerJoined,
    PeerLeft,
    PeerUpdated,
    Presence,
    RoomEmptied,
    RoomOccupied,
    TimeSource,
    diff,
    display_name,
    end_tracking,
    is_announced,
    same_json,
)
from tests.harness.builders import START, Room, at, brief, ids, peer, policy, seen

T = TypeVar("T")


def only(kind: type[T], changes: tuple[object, ...]) -> T:
    (found,) = (change for change in changes if isinstance(change, kind))
    return found


def test_first_peers_occupy_the_room_and_join_by_time_then_id() -> None:
    changes = Room().see(100, peer("c", 50), peer("b", 20), peer("a", 50))

    assert brief(changes) == ["occupied 3", "joined b 1", "joined a 2", "joined c 3"]


def test_a_session_starts_when_its_first_peer_joined() -> None:
    occupied = Room().see(100, peer("b", 50), peer("a", 20))[0]

    assert isinstance(occupied, RoomOccupied)
    assert occupied.session.started_at == at(20)


def test_an_empty_room_has_no_changes() -> None:
    room = Room()

    assert room.see(0) == ()
    assert room.see(10, no_session=True) == ()
    assert room.presence == Presence(tracked_since=START, complete_at=at(10))


def test_the_last_leave_empties_the_room() -> None:
    room = Room()
    room.see(0, "a", "b")

    assert brief(room.see(10, "a")) == ["left b absent 1"]
    assert brief(room.see(20)) == ["left a absent 0", "empty absent"]
    assert room.presence.session is None


def test_no_session_ends_the_session() -> None:
    room = Room()
    room.see(0, "a", "b")

    assert brief(room.see(10, no_session=True)) == [
        "left a session_ended 1",
        "left b session_ended 0",
        "empty no_session",
    ]


def test_an_incomplete_snapshot_adds_and_never_removes() -> None:
    room = Room()
    room.see(0, "a", "b")

    assert brief(room.see(10, "c", complete=False)) == ["joined c 3"]
    assert room.see(20, complete=False) == ()
    assert set(room.presence.visits) == {"a", "b", "c"}


@pytest.mark.parametrize("missed", [1, 2, 3])
def test_a_leave_takes_leave_after_missed_misses_and_is_dated_at_the_first(missed: int) -> None:
    room = Room(policy=policy(missed))
    room.see(0, "a", "b")
    for turn in range(1, missed):
        assert room.see(10 * turn, "b") == ()
        assert room.presence.has_suspects

    left = only(PeerLeft, room.see(10 * missed, "b"))

    assert (left.left_at, left.left_at_source, left.visit.last_seen_at) == (at(10), TimeSource.OBSERVED, at(0))
    assert left.reason is LeaveReason.ABSENT
    assert not room.presence.has_suspects


def test_the_end_of_a_session_is_dated_at_the_first_miss_too() -> None:
    room = Room(policy=policy(3))
    room.see(0, "a")
    room.see(10)
    room.see(12)

    emptied = only(RoomEmptied, room.see(14))

    assert (emptied.ended_at, emptied.last_seen_at) == (at(10), at(0))


@pytest.mark.parametrize("complete", [True, False])
def test_a_peer_that_is_seen_again_before_the_confirmation_never_left(complete: bool) -> None:  # noqa: FBT001 - a table's column
    room = Room(policy=policy(2))
    room.see(0, peer("a", 0))
    room.see(10)

    assert room.see(12, peer("a", 0), complete=complete) == ()
    assert not room.presence.has_suspects
    assert room.see(20) == ()
    assert only(PeerLeft, room.see(22)).left_at == at(20)


def test_the_first_miss_decides_the_reason() -> None:
    room = Room(policy=policy(2))
    room.see(0, "a")
    room.see(10, no_session=True)

    changes = room.see(12)

    assert brief(changes) == ["left a session_ended 0", "empty no_session"]


def test_a_later_join_time_is_a_leave_and_a_join() -> None:
    room = Room()
    room.see(0, peer("a", -5))

    changes = room.see(10, peer("a", 7))

    left, joined = only(PeerLeft, changes), only(PeerJoined, changes)
    assert brief(changes) == ["left a rejoined 0", "joined a 1"]
    assert (left.left_at, left.left_at_source) == (at(7), TimeSource.UPSTREAM)
    assert left.visit.last_seen_at == at(0)
    assert joined.visit.joined_at == at(7)
    assert joined.visit.visit_id != left.visit.visit_id


@pytest.mark.parametrize("step", [0.001, 0.999, -0.999])
def test_a_join_time_that_wavers_by_less_than_a_second_is_the_same_visit(step: float) -> None:
    room = Room()
    room.see(0, peer("a", -60))

    changes = [room.see(10 * poll, peer("a", -60 + step * (poll % 2))) for poll in range(1, 5)]
    changes += [room.see(100 + 10 * poll, peer("a", -60 + step * poll)) for poll in range(5)]  # it may drift, too

    assert changes == [()] * 9
    assert brief(room.see(200, peer("a", 150))) == ["left a rejoined 0", "joined a 1"]


def test_a_join_time_that_is_a_second_later_is_a_rejoin() -> None:
    room = Room()
    room.see(0, peer("a", -60))

    assert brief(room.see(10, peer("a", -59))) == ["left a rejoined 0", "joined a 1"]


def test_an_incomplete_snapshot_can_show_a_rejoin() -> None:
    room = Room()
    room.see(0, peer("a", -5))

    assert brief(room.see(10, peer("a", 7), complete=False)) == ["left a rejoined 0", "joined a 1"]


def test_a_rejoin_after_a_miss_ends_the_old_visit_at_the_miss() -> None:
    room = Room(policy=policy(3))
    room.see(0, peer("a", -5))
    room.see(10)

    left = only(PeerLeft, room.see(12, peer("a", 11)))

    assert (left.left_at, left.left_at_source, left.reason) == (at(10), TimeSource.OBSERVED, LeaveReason.REJOINED)


@pytest.mark.parametrize("join_time", [None, -5, -50])
def test_a_join_time_that_is_not_later_changes_nothing(join_time: float | None) -> None:
    room = Room()
    room.see(0, peer("a", -5))

    assert room.see(10, peer("a", join_time)) == ()
    assert room.presence.visits["a"].joined_at == at(-5)


def test_a_join_time_that_arrives_late_is_no_rejoin() -> None:
    room = Room()
    room.see(0, "a")

    assert room.see(10, peer("a", -3)) == ()
    assert room.presence.visits["a"].joined_at == at(0)
    assert brief(room.see(20, peer("a", 15))) == ["left a rejoined 0", "joined a 1"]


def test_a_join_time_that_arrives_late_and_is_later_than_last_seen_is_a_rejoin() -> None:
    room = Room()
    room.see(0, "a")

    assert brief(room.see(10, peer("a", 5))) == ["left a rejoined 0", "joined a 1"]


@pytest.mark.parametrize(
    ("ahead", "joined_at", "source"),
    [
        (300, 400, TimeSource.UPSTREAM),
        (300.001, 100, TimeSource.OBSERVED),
        (86_400, 100, TimeSource.OBSERVED),
    ],
)
def test_a_join_time_up_to_five_minutes_in_the_future_is_accepted(
    ahead: float, joined_at: float, source: TimeSource
) -> None:
    joined = only(PeerJoined, Room().see(100, peer("a", 100 + ahead)))

    assert (joined.visit.joined_at, joined.visit.joined_at_source) == (at(joined_at), source)


def test_a_join_time_too_far_in_the_future_does_not_become_a_rejoin_later() -> None:
    room = Room()
    room.see(0, peer("a", 600))

    changes = [brief(room.see(now, peer("a", 600))) for now in range(60, 1200, 60)]

    assert changes == [[] for _ in changes]


def test_a_rejoin_is_still_found_after_a_join_time_too_far_in_the_future() -> None:
    room = Room()
    room.see(0, peer("a", 86_400))
    room.see(10, peer("a", 86_400))

    assert brief(room.see(20, peer("a", 15))) == ["left a rejoined 0", "joined a 1"]


def test_a_missing_join_time_is_the_time_of_the_poll() -> None:
    joined = only(PeerJoined, Room().see(100, "a"))

    assert (joined.visit.joined_at, joined.visit.joined_at_source) == (at(100), TimeSource.OBSERVED)


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({"name": "A"}, {"name": "A"}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
        ({"name": "A"}, {"name": "B"}, True),
        ({"name": "A"}, None, True),
        ({"name": "A"}, ABSENT, False),
        (None, ABSENT, False),
        (ABSENT, None, False),
        (ABSENT, {"name": "A"}, True),
        ({"muted": True}, {"muted": 1}, True),
        ([0], [False], True),
        (1, 1.0, False),
        ("1", 1, True),
    ],
)
def test_changed_metadata_is_an_update(
    before: Json | Absent,
    after: Json | Absent,
    changed: bool,  # noqa: FBT001 - a table's column
) -> None:
    room = Room()
    room.see(0, peer("a", 0, before))

    changes = room.see(10, peer("a", 0, after))

    assert brief(changes) == (["updated a 1"] if changed else [])


def test_an_update_has_both_metadata_and_is_reported_once() -> None:
    room = Room()
    room.see(0, peer("a", 0, {"v": 1}))

    (update,) = room.see(10, peer("a", 0, {"v": 2}))

    assert isinstance(update, PeerUpdated)
    assert (update.previous_metadata, update.visit.metadata) == ({"v": 1}, {"v": 2})
    assert room.see(20, peer("a", 0, {"v": 2})) == ()


def test_a_leave_carries_the_metadata_seen_last() -> None:
    room = Room()
    room.see(0, peer("a", 0, {"v": 1}))
    room.see(10, peer("a", 0, {"v": 2}))

    assert only(PeerLeft, room.see(20)).visit.metadata == {"v": 2}


def test_order_of_the_changes_of_one_poll() -> None:
    room = Room(policy=policy(2))
    room.see(0, peer("a", 0), peer("b", 0), peer("d", -9), peer("u", -1, {"v": 1}))
    room.see(10, peer("b", 0), peer("d", -9), peer("u", -1, {"v": 1}))

    changes = room.see(12, peer("b", 11), peer("d", 10.5), peer("y", 4), peer("x", 4), peer("u", -1, {"v": 2}))

    assert brief(changes) == [
        "left a absent 3",
        "left d rejoined 2",
        "left b rejoined 1",
        "joined x 2",
        "joined y 3",
        "joined d 4",
        "joined b 5",
        "updated u 5",
    ]


def announced(room: Room, seconds: float, *peers: Peer | str, complete: bool = True) -> list[str]:
    difference = room.diff(seconds, *peers, complete=complete)
    return brief(tuple(change for change in difference.changes if is_announced(change, difference, room.policy)))


def test_emit_announces_every_change() -> None:
    assert announced(Room(), 0, peer("a", -5)) == ["occupied 1", "joined a 1"]


def test_baseline_does_not_announce_peers_who_were_there_first() -> None:
    room = Room(policy=policy(first=FirstSnapshot.BASELINE))

    assert announced(room, 0, "a", "b") == []
    assert announced(room, 10, "a", "b", "c") == ["joined c 3"]
    assert announced(room, 20, "c") == ["left a absent 2", "left b absent 1"]


def test_baseline_of_an_empty_room_announces_the_first_join() -> None:
    room = Room(policy=policy(first=FirstSnapshot.BASELINE))
    room.see(0)

    assert announced(room, 10, "a") == ["occupied 1", "joined a 1"]


def test_baseline_announces_peers_who_came_after_tracking_started_but_before_the_first_poll() -> None:
    room = Room(policy=policy(first=FirstSnapshot.BASELINE))

    assert announced(room, 600, peer("a", -5), peer("b", 300)) == ["joined b 2"]
    assert not room.presence.visits["b"].initial
    assert announced(room, 610) == ["left a absent 1", "left b absent 0", "empty absent"]


def test_baseline_ends_even_if_no_snapshot_is_complete() -> None:
    room = Room(policy=policy(first=FirstSnapshot.BASELINE))

    assert announced(room, 0, peer("a", -5), complete=False) == []
    assert announced(room, 10, peer("a", -5), peer("b", 7), complete=False) == ["joined b 2"]
    assert announced(room, 20, "c", complete=False) == ["joined c 3"]
    assert announced(room, 30, peer("b", 7)) == ["left a absent 2", "left c absent 1"]


def test_baseline_does_not_announce_peers_that_an_incomplete_first_snapshot_missed() -> None:
    room = Room(policy=policy(first=FirstSnapshot.BASELINE))
    room.see(0, peer("a", -5), complete=False)

    assert announced(room, 10, peer("a", -5), peer("b", -60)) == []
    assert announced(room, 20, peer("b", -60), peer("a", 15)) == ["left a rejoined 1", "joined a 2"]


@pytest.mark.parametrize(("joined", "initial"), [(-1, True), (0, True), (1, False)])
def test_the_join_time_decides_who_was_there_when_tracking_started(joined: float, initial: bool) -> None:  # noqa: FBT001 - a table's column
    late, after_incomplete = Room(), Room()
    after_incomplete.see(0, "other", complete=False)

    for room in (late, after_incomplete):
        (visit,) = (one for one in room.diff(60, "other", peer("a", joined)).arrived if one.peer_id == "a")
        assert visit.initial is initial


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"displayName": "A", "name": "B"}, "A"),
        ({"name": "B"}, "B"),
        ({"displayName": 7, "name": "B"}, "B"),
        ({"displayName": ""}, ""),
        ({"displayName": None}, None),
        ({}, None),
        (None, None),
        ("A", None),
        (["displayName"], None),
        ({"_truncated": True}, None),
    ],
)
def test_the_display_name_is_the_first_text(metadata: Json, name: str | None) -> None:
    assert display_name(metadata) == name


def test_the_display_name_of_a_visit_is_the_newest_one_or_else_the_peer_id() -> None:
    room = Room()
    names = [
        room.diff(seconds, one).after.visits["a"].display_name
        for seconds, one in enumerate(
            [
                peer("a"),
                replace(peer("a", metadata={"_truncated": True}), display_name="Ann"),
                peer("a"),
                replace(peer("a", metadata={"displayName": "Anna"}), display_name="Anna"),
                peer("a", metadata=None),
            ]
        )
    ]

    assert names == ["a", "Ann", "Ann", "Anna", "a"]


def test_the_next_session_starts_its_counts_at_zero() -> None:
    after = diff(Presence(), seen("a"), policy(), at(0), ids()).after
    after = diff(after, seen(), policy(), at(10), ids()).after
    after = diff(after, seen("a"), policy(), at(20), ids()).after

    assert after.session is not None
    assert after.session.unique_peers == 1


def test_the_end_of_tracking_ends_visits_and_session() -> None:
    room = Room()
    room.see(0, "a", "b")

    difference = end_tracking(room.presence, at(30))

    assert brief(difference.changes) == ["left a unwatched 1", "left b unwatched 0", "empty absent"]
    assert {change.left_at for change in difference.changes if isinstance(change, PeerLeft)} == {at(30)}
    assert difference.after == Presence()


def test_the_end_of_tracking_of_an_empty_room_changes_nothing() -> None:
    assert end_tracking(Presence(complete_at=at(0)), at(30)).changes == ()


def test_the_end_of_tracking_dates_a_suspected_leave_at_the_first_miss() -> None:
    room = Room(policy=policy(3))
    room.see(0, "a")
    room.see(10)

    changes = end_tracking(room.presence, at(300)).changes

    assert only(PeerLeft, changes).left_at == at(10)
    assert only(RoomEmptied, changes).ended_at == at(10)


def test_a_clock_set_back_dates_no_leave_before_the_peer_was_last_seen() -> None:
    room = Room()
    room.see(0, peer("a", 0))

    changes = room.see(-3600)

    left, emptied = only(PeerLeft, changes), only(RoomEmptied, changes)
    assert left.left_at >= left.visit.last_seen_at
    assert emptied.ended_at >= emptied.last_seen_at


def test_lists_are_compared_item_by_item() -> None:
    assert same_json([{"a": [1, True]}], [{"a": [1, True]}])
    assert not same_json([{"a": [1, True]}], [{"a": [1, 1]}])
    assert not same_json([1], [1, 2])
    assert not same_json({"a": 1}, {"b": 1})
    assert same_json(timedelta(0).total_seconds(), 0)

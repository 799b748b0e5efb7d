"""Random histories: what is told must add up to what was seen, judged by a second, simpler account of the rules."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.events.bodies import RoomName, draft, encode
from bridge.rules.presence import (
    ABSENT,
    Change,
    FirstSnapshot,
    LeaveReason,
    Peer,
    PeerJoined,
    PeerLeft,
    PeerUpdated,
    RoomEmptied,
    RoomOccupied,
)
from tests.harness.log import log_problems, replay
from tests.harness.presence_builders import Room, at, peer, policy

NAME = RoomName(source="main", room_id="room", room_name=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One poll; a failed one says nothing."""

    after: float
    kind: str
    peers: tuple[Peer, ...]

    @property
    def complete(self) -> bool:
        return self.kind in {"complete", "no_session"}


def peers_of(named: dict[str, tuple[int | None, int | None]]) -> tuple[Peer, ...]:
    return tuple(
        peer(peer_id, joined, ABSENT if version is None else {"v": version})
        for peer_id, (joined, version) in named.items()
    )


LISTS = st.dictionaries(
    st.sampled_from("abcd"),
    st.tuples(st.none() | st.integers(-100, 900), st.none() | st.integers(0, 2)),
    max_size=4,
).map(peers_of)
LOOKS = st.builds(
    Look,
    after=st.sampled_from([0.25, 2, 10, 60]),
    kind=st.sampled_from(["complete", "complete", "complete", "incomplete", "no_session", "failed"]),
    peers=LISTS,
).map(
    lambda read_health: (
        Look(after=read_health.after, kind=read_health.kind, peers=())
        if read_health.kind == "no_session"
        else read_health
    )
)
HISTORIES = st.lists(LOOKS, min_size=1, max_size=25)


@dataclass(slots=True)
class Account:
    """Who must be there, kept without a read_health at the code under test: by peer, when it was first missed, how often."""

    leave_after_missed: int
    present: dict[str, tuple[float, int]] = field(default_factory=dict)
    last_seen: dict[str, float] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    """Those whom this read_health removed, and when they must be said to have left."""

    def read_health(self, now: float, read_health: Look) -> None:
        self.left = {}
        for one in read_health.peers:
            self.present[one.peer_id] = (0, 0)
            self.last_seen[one.peer_id] = now
        if not read_health.complete:
            return
        for missing in self.present.keys() - {one.peer_id for one in read_health.peers}:
            since, times = self.present[missing]
            since = since if times else now
            if times + 1 >= self.leave_after_missed:
                del self.present[missing]
                self.left[missing] = since
            else:
                self.present[missing] = (since, times + 1)


def as_events(told: list[tuple[float, tuple[Change, ...]]]) -> list[dict[str, Any]]:
    changes = [(now, change) for now, some in told for change in some]
    return [
        json.loads(encode(draft(change, at(now)), NAME, event_id=f"evt_{number}", sequence=number))
        for number, (now, change) in enumerate(changes, start=1)
    ]


def place_in_order(change: Change) -> tuple[object, ...]:
    match change:
        case RoomOccupied():
            return (0,)
        case PeerLeft():
            return (1, change.left_at, change.visit.peer_id)
        case PeerJoined():
            return (2, change.visit.joined_at, change.visit.peer_id)
        case PeerUpdated():
            return (3,)
        case RoomEmptied():
            return (4,)


@settings(max_examples=200, deadline=None)
@given(HISTORIES, st.sampled_from([1, 1, 2, 3]))
def test_what_is_told_adds_up_to_what_was_seen(history: list[Look], missed: int) -> None:
    room, account = Room(policy=policy(missed)), Account(missed)
    told: list[tuple[float, tuple[Change, ...]]] = []
    now = 0.0
    for read_health in history:
        now += read_health.after
        if read_health.kind == "failed":
            continue
        changes = room.see(
            now, *read_health.peers, complete=read_health.complete, no_session=read_health.kind == "no_session"
        )
        account.read_health(now, read_health)
        told.append((now, changes))

        assert room.presence.visits.keys() == account.present.keys()
        assert room.presence.has_suspects == any(times for _, times in account.present.values())
        assert {place_in_order(one)[0] for one in changes if not read_health.complete} <= {0, 1, 2, 3}
        assert list(changes) == sorted(changes, key=lambda one: place_in_order(one)[:1])
        for kind in (1, 2):
            places = [place for one in changes if (place := place_in_order(one))[0] == kind]
            assert places == sorted(places)
        absent = {
            one.visit.peer_id: one
            for one in changes
            if isinstance(one, PeerLeft) and one.reason is not LeaveReason.REJOINED
        }
        assert {peer_id: one.left_at for peer_id, one in absent.items()} == {
            peer_id: at(since) for peer_id, since in account.left.items()
        }
        for peer_id, gone in absent.items():
            assert gone.visit.last_seen_at == at(account.last_seen[peer_id])
        for change in changes:
            if isinstance(change, PeerLeft):
                assert change.visit.last_seen_at <= change.left_at <= at(now)
        events = as_events(told)
        assert replay(events).get("room", set()) == set(room.presence.visits)
    assert log_problems(as_events(told)) == []


@settings(max_examples=100, deadline=None)
@given(HISTORIES)
def test_with_one_miss_the_log_replays_to_the_last_complete_snapshot(history: list[Look]) -> None:
    room, now, told = Room(), 0.0, []
    for read_health in history:
        now += read_health.after
        if read_health.kind == "failed":
            continue
        told.append(
            (
                now,
                room.see(
                    now, *read_health.peers, complete=read_health.complete, no_session=read_health.kind == "no_session"
                ),
            )
        )
        if read_health.complete:
            assert replay(as_events(told)).get("room", set()) == {one.peer_id for one in read_health.peers}


@settings(max_examples=100, deadline=None)
@given(HISTORIES)
def test_an_incomplete_snapshot_ends_nothing_but_the_visit_of_one_who_came_back(history: list[Look]) -> None:
    room, now = Room(), 0.0
    for read_health in history:
        now += read_health.after
        if read_health.kind == "failed":
            continue
        changes = room.see(
            now, *read_health.peers, complete=read_health.complete, no_session=read_health.kind == "no_session"
        )
        if not read_health.complete:
            assert not any(isinstance(one, RoomEmptied) for one in changes)
            assert all(one.reason is LeaveReason.REJOINED for one in changes if isinstance(one, PeerLeft))


@settings(max_examples=100, deadline=None)
@given(HISTORIES, st.sampled_from([1, 2]))
def test_a_baseline_hides_only_those_who_were_there(history: list[Look], missed: int) -> None:
    room = Room(policy=policy(missed, FirstSnapshot.BASELINE))
    following: set[str] = set()
    now = 0.0
    for read_health in history:
        now += read_health.after
        if read_health.kind == "failed":
            continue
        known = room.presence.complete_at is not None
        difference = room.read_health(
            now, *read_health.peers, complete=read_health.complete, no_session=read_health.kind == "no_session"
        )
        hidden = {visit.peer_id for visit in difference.arrived if visit.initial}
        assert not (known and hidden)
        for change in difference.changes:
            match change:
                case PeerLeft():
                    following.remove(change.visit.peer_id)
                    assert hidden or change.peer_count == len(following)
                case PeerJoined():
                    assert change.visit.peer_id not in following
                    following.add(change.visit.peer_id)
                    assert hidden or change.peer_count == len(following)
                case RoomEmptied():
                    assert not following
                case _:
                    pass
        following |= hidden
        assert following == set(room.presence.visits)

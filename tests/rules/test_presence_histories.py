"""Random histories: the changes must add up to the snapshots, by a second, simpler statement of the rules."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
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
    is_announced,
)
from tests.harness.builders import Room, at, peer, policy
from tests.harness.log import log_problems, replay

NAME = RoomName(source="main", room_id="room", room_name=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPoll:
    """One poll, `after` so many seconds."""

    after: float
    kind: str
    peers: tuple[Peer, ...]

    @property
    def complete(self) -> bool:
        return self.kind in {"complete", "no_session"}

    @property
    def no_session(self) -> bool:
        return self.kind == "no_session"


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
POLLS = st.builds(
    RandomPoll,
    after=st.sampled_from([0.25, 2, 10, 60]),
    kind=st.sampled_from(["complete", "complete", "complete", "incomplete", "no_session", "failed"]),
    peers=LISTS,
).map(lambda poll: replace(poll, peers=()) if poll.kind == "no_session" else poll)
HISTORIES = st.lists(POLLS, min_size=1, max_size=25)


@dataclass(slots=True)
class ExpectedPresence:
    """The expected presence, kept without the code under test: by peer, when it was first missed and how often."""

    leave_after_missed: int
    present: dict[str, tuple[float, int]] = field(default_factory=dict)
    last_seen: dict[str, float] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    """Peers that this poll removed, with the expected times of their leaves."""

    def apply(self, now: float, poll: RandomPoll) -> None:
        self.left = {}
        for one in poll.peers:
            self.present[one.peer_id] = (0, 0)
            self.last_seen[one.peer_id] = now
        if not poll.complete:
            return
        for missing in self.present.keys() - {one.peer_id for one in poll.peers}:
            since, times = self.present[missing]
            since = since if times else now
            if times + 1 >= self.leave_after_missed:
                del self.present[missing]
                self.left[missing] = since
            else:
                self.present[missing] = (since, times + 1)


def as_events(polled: list[tuple[float, tuple[Change, ...]]]) -> list[dict[str, Any]]:
    changes = [(now, change) for now, some in polled for change in some]
    return [
        json.loads(encode(draft(change, at(now)), NAME, event_id=f"evt_{number}", sequence=number))
        for number, (now, change) in enumerate(changes, start=1)
    ]


def order(change: Change) -> tuple[object, ...]:
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
def test_the_changes_add_up_to_the_snapshots(history: list[RandomPoll], missed: int) -> None:
    room, expected = Room(policy=policy(missed)), ExpectedPresence(missed)
    polled: list[tuple[float, tuple[Change, ...]]] = []
    now = 0.0
    for poll in history:
        now += poll.after
        if poll.kind == "failed":
            continue
        changes = room.see(now, *poll.peers, complete=poll.complete, no_session=poll.no_session)
        expected.apply(now, poll)
        polled.append((now, changes))

        assert room.presence.visits.keys() == expected.present.keys()
        assert room.presence.has_suspects == any(times for _, times in expected.present.values())
        assert {order(one)[0] for one in changes if not poll.complete} <= {0, 1, 2, 3}
        assert list(changes) == sorted(changes, key=lambda one: order(one)[:1])
        for kind in (1, 2):
            keys = [key for one in changes if (key := order(one))[0] == kind]
            assert keys == sorted(keys)
        absent = {
            one.visit.peer_id: one
            for one in changes
            if isinstance(one, PeerLeft) and one.reason is not LeaveReason.REJOINED
        }
        assert {peer_id: one.left_at for peer_id, one in absent.items()} == {
            peer_id: at(since) for peer_id, since in expected.left.items()
        }
        for peer_id, gone in absent.items():
            assert gone.visit.last_seen_at == at(expected.last_seen[peer_id])
        for change in changes:
            if isinstance(change, PeerLeft):
                assert change.visit.last_seen_at <= change.left_at <= at(now)
        events = as_events(polled)
        assert replay(events).get("room", set()) == set(room.presence.visits)
    assert log_problems(as_events(polled)) == []


@settings(max_examples=100, deadline=None)
@given(HISTORIES, st.sampled_from([1, 2]))
def test_a_baseline_hides_only_peers_who_were_there_first(history: list[RandomPoll], missed: int) -> None:
    room = Room(policy=policy(missed, FirstSnapshot.BASELINE))
    following: set[str] = set()
    now = 0.0
    for poll in history:
        now += poll.after
        if poll.kind == "failed":
            continue
        known = room.presence.complete_at is not None
        difference = room.diff(now, *poll.peers, complete=poll.complete, no_session=poll.no_session)
        hidden = {visit.peer_id for visit in difference.arrived if visit.initial}
        assert not (known and hidden)
        for change in difference.changes:
            if not is_announced(change, difference, room.policy):
                continue
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

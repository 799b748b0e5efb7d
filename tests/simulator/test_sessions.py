"""When sessions begin and end, and what stays on record of them: the rules of rooms.py, without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import NotFoundError
from bridge.simulator import DEFAULT_API_KEY, Simulation
from bridge.simulator.documents import Response
from bridge.simulator.rooms import Room
from bridge.simulator.routes import API_PATH, read_target
from bridge.simulator.upstream import respond
from tests.harness.clock import StoppedClock

NOW = 1_795_000_000_000


def participants(simulation: Simulation, room: str = "r") -> Response:
    target = read_target(f"{API_PATH}/live-sessions/participants/{room}", api_key=DEFAULT_API_KEY)
    return respond(simulation, target)


def visits(room: Room) -> list[tuple[str, int, int | None]]:
    """Return peer, join and leave of every visit, in milliseconds since NOW."""
    return [
        (visit.peer_id, visit.joined_at - NOW, None if visit.left_at is None else visit.left_at - NOW)
        for session in room.sessions
        for visit in session.visits
    ]


def test_an_empty_room_stays_live_for_the_lag(simulation: Simulation, clock: StoppedClock) -> None:
    simulation.end_lag_seconds = 2
    simulation.join("r", peer_id="a")
    simulation.leave("r", "a")
    clock.advance(1999)
    assert participants(simulation).body == b'{"count":0,"participants":[]}'
    clock.advance(1)
    assert participants(simulation).status == 404
    clock.advance(5000)
    assert simulation.room("r").sessions[0].ended_at == NOW + 2000


def test_a_join_within_the_lag_continues_the_session_and_a_later_one_starts_another(
    simulation: Simulation, clock: StoppedClock
) -> None:
    simulation.end_lag_seconds = 2
    simulation.join("r", peer_id="a")
    simulation.leave("r", "a")
    clock.advance(1000)
    simulation.join("r", peer_id="b")
    assert len(simulation.room("r").sessions) == 1

    simulation.leave("r", "b")
    clock.advance(2000)
    simulation.join("r", peer_id="c")
    first, second = simulation.room("r").sessions
    assert first.session_id != second.session_id
    assert (first.ended_at, second.started_at, second.ended_at) == (NOW + 3000, NOW + 3000, None)


def test_ending_a_session_lets_all_peers_go_whatever_the_lag(simulation: Simulation) -> None:
    simulation.end_lag_seconds = 60
    simulation.join("r", peer_id="a")
    simulation.join("r", peer_id="b")
    simulation.end("r")
    assert participants(simulation).status == 404
    assert visits(simulation.room("r")) == [("a", 0, 0), ("b", 0, 0)]


def test_joining_again_under_the_same_peer_id_is_leaving_and_joining(
    simulation: Simulation, clock: StoppedClock
) -> None:
    simulation.join("r", peer_id="a")
    clock.advance(5)
    simulation.join("r", peer_id="a")
    assert visits(simulation.room("r")) == [("a", 0, 5), ("a", 5, None)]
    assert len(simulation.room("r").sessions) == 1


def test_the_same_seed_and_calls_give_the_same_ids() -> None:
    def ids() -> list[str]:
        simulation = Simulation(seed=1)
        peers = [simulation.join("r").peer_id for _ in range(3)]
        return [*peers, *(session.session_id for session in simulation.room("r").sessions)]

    assert ids() == ids()


def test_an_absent_peer_or_room_is_named(simulation: Simulation) -> None:
    simulation.join("r", peer_id="a")
    with pytest.raises(NotFoundError, match=r"peer 'x' is not in room 'r' \(peers in it: a\)"):
        simulation.leave("r", "x")
    with pytest.raises(NotFoundError, match="no room 'other'"):
        simulation.end("other")


moves = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["toggle", "end"]), st.integers(0, 3)))


@given(moves=moves, lag=st.sampled_from([0.0, 0.002]))
def test_the_record_of_the_sessions_has_every_visit_with_its_times(
    moves: list[tuple[str, str, int]], lag: float
) -> None:
    clock = StoppedClock(NOW)
    simulation = Simulation(seed=1, now=clock, end_lag_seconds=lag)
    room = simulation.add_room("r")
    arrived: dict[str, int] = {}
    expected: list[tuple[str, int, int | None]] = []

    def leave(peer: str) -> None:
        expected.append((peer, arrived.pop(peer) - NOW, clock.now - NOW))

    for peer, move, pause in moves:
        if move == "end":
            for gone in list(arrived):
                leave(gone)
            simulation.end("r")
        elif peer in arrived:
            leave(peer)
            simulation.leave("r", peer)
        else:
            arrived[peer] = clock.now
            simulation.join("r", peer_id=peer)
        clock.advance(pause)

    expected += [(peer, joined - NOW, None) for peer, joined in arrived.items()]
    assert sorted(visits(room), key=str) == sorted(expected, key=str)
    for session in room.sessions:
        assert session.started_at == min(visit.joined_at for visit in session.visits)
        if session.ended_at is not None:
            assert session.ended_at >= max(visit.left_at or session.ended_at + 1 for visit in session.visits)

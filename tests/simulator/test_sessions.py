"""When sessions begin and end, and that the past can be looked up: the rules of rooms.py, without a socket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.simulator import Clock, Simulation
from bridge.simulator.model import EmptyAs
from bridge.simulator.rooms import Room, What
from bridge.simulator.routes import API_PATH, read_request
from bridge.simulator.upstream import answer_with

NOW = 1_795_000_000_000


def simulate(**settings: float) -> Simulation:
    simulation = Simulation(seed=1, clock=Clock.stopped(NOW))
    simulation.settings.end_lag_seconds = settings.get("end_lag_seconds", 0.0)
    return simulation


def status(simulation: Simulation, room: str = "r") -> int:
    target = read_request("GET", f"{API_PATH}/live-sessions/participants/{room}", api_key="simulated-key")
    return answer_with(simulation, target, []).status


def body(simulation: Simulation, room: str = "r") -> bytes:
    target = read_request("GET", f"{API_PATH}/live-sessions/participants/{room}", api_key="simulated-key")
    return answer_with(simulation, target, []).body


def history(room: Room) -> list[tuple[int, What, str | None]]:
    return [(happening.at - NOW, happening.what, happening.peer_id) for happening in room.history]


def test_a_session_lasts_from_the_first_join_to_the_last_leave() -> None:
    simulation = simulate()
    simulation.join("r", peer_id="a")
    simulation.clock.advance(10)
    simulation.join("r", peer_id="b")
    simulation.leave("r", "a")
    assert status(simulation) == 200
    simulation.clock.advance(10)
    simulation.leave("r", "b")
    assert status(simulation) == 404

    assert history(simulation.room("r")) == [
        (0, What.JOIN, "a"),
        (10, What.JOIN, "b"),
        (10, What.LEAVE, "a"),
        (20, What.LEAVE, "b"),
        (20, What.END, None),
    ]


def test_an_empty_room_stays_live_for_the_lag() -> None:
    simulation = simulate(end_lag_seconds=2)
    simulation.join("r", peer_id="a")
    simulation.leave("r", "a")
    simulation.clock.advance(1999)
    assert body(simulation) == b'{"count":0,"participants":[]}'
    simulation.clock.advance(1)
    assert status(simulation) == 404
    simulation.clock.advance(5000)
    assert simulation.room("r").sessions[0].ended_at == NOW + 2000


def test_a_join_within_the_lag_goes_on_with_the_session_and_one_after_it_starts_another() -> None:
    simulation = simulate(end_lag_seconds=2)
    simulation.join("r", peer_id="a")
    simulation.leave("r", "a")
    simulation.clock.advance(1000)
    simulation.join("r", peer_id="b")
    assert len(simulation.room("r").sessions) == 1

    simulation.leave("r", "b")
    simulation.clock.advance(2000)
    simulation.join("r", peer_id="c")
    first, second = simulation.room("r").sessions
    assert first.session_id != second.session_id
    assert (first.ended_at, second.started_at, second.ended_at) == (NOW + 3000, NOW + 3000, None)


def test_ending_a_session_sends_everybody_home_whatever_the_lag() -> None:
    simulation = simulate(end_lag_seconds=60)
    simulation.join("r", peer_id="a")
    simulation.join("r", peer_id="b")
    simulation.end("r")
    assert status(simulation) == 404
    assert [what for _, what, _ in history(simulation.room("r"))][2:] == [What.LEAVE, What.LEAVE, What.END]


def test_ending_where_nothing_is_under_way_is_nothing() -> None:
    simulation = simulate()
    simulation.add_room("r")
    simulation.end("r")
    assert history(simulation.room("r")) == []


def test_joining_again_under_the_same_peer_id_is_leaving_and_joining() -> None:
    simulation = simulate()
    simulation.join("r", peer_id="a")
    simulation.clock.advance(5)
    simulation.join("r", peer_id="a")
    assert history(simulation.room("r"))[1:] == [(5, What.LEAVE, "a"), (5, What.JOIN, "a")]
    assert len(simulation.room("r").sessions) == 1
    assert list(simulation.room("r").present) == ["a"]
    assert simulation.room("r").present["a"].join_time == NOW + 5


def test_no_session_can_be_said_as_an_empty_list_but_only_of_rooms_that_exist() -> None:
    simulation = simulate()
    simulation.settings.empty_as = EmptyAs.EMPTY_LIST
    simulation.add_room("r")
    assert body(simulation) == b'{"count":0,"participants":[]}'
    assert status(simulation, "unknown") == 404


def test_the_same_seed_and_calls_give_the_same_world() -> None:
    def live() -> tuple[bytes, list[str]]:
        simulation = simulate()
        for _ in range(3):
            simulation.join("r")
        room = simulation.add_room()
        return body(simulation), [room.room_id, *(session.session_id for session in simulation.room("r").sessions)]

    assert live() == live()


def test_polling_does_not_change_the_ids_to_come() -> None:
    quiet, polled = simulate(), simulate()
    for simulation in (quiet, polled):
        simulation.join("r")
    for _ in range(5):
        body(polled)
    assert quiet.join("r").peer_id == polled.join("r").peer_id


moves = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["toggle", "metadata", "end"]), st.integers(0, 3)))


@given(moves=moves, lag=st.sampled_from([0.0, 0.002]))
def test_any_moment_of_the_past_looks_as_it_did_then(moves: list[tuple[str, str, int]], lag: float) -> None:
    simulation = simulate(end_lag_seconds=lag)
    room = simulation.add_room("r")
    seen: dict[int, list[tuple[str, object]] | None] = {}

    def read_health() -> list[tuple[str, object]] | None:
        simulation.settle(room)
        return None if room.session is None else [(peer, visit.metadata) for peer, visit in room.present.items()]

    for turn, (peer, move, pause) in enumerate(moves):
        there = peer in simulation.room("r").present
        match move:
            case "toggle" if there:
                simulation.leave("r", peer)
            case "toggle":
                simulation.join("r", peer_id=peer, metadata=turn)
            case "metadata" if there:
                simulation.change_metadata("r", peer, turn)
            case "end":
                simulation.end("r")
            case _:
                pass  # nobody to change the metadata of
        for _ in range(pause + 1):
            seen[simulation.clock.now()] = read_health()
            simulation.clock.advance(1)

    for when, then in seen.items():
        visits = room.visits_at(when)
        now = None if visits is None else [(visit.peer_id, visit.metadata_at(when)) for visit in visits]
        assert now == then

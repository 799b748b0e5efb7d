"""The demo's source_update: it must see every kind of lie, or its last line is worth nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from bridge.cli.demo.check import Findings, delay, examine
from bridge.cli.demo.receiver import BUSY_AT, Received, Receiver
from bridge.cli.receiver import Delivery
from bridge.simulator import Simulation
from tests.harness.clock import StoppedClock

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ROOM = "abc"
NOW = 1_795_000_000_000
Told = tuple[str, str | None]
"""The type of an event, and whom it is about."""

MEETING: list[Told] = [
    ("room.occupied", None), ("peer.joined", "ann"), ("peer.joined", "ben"), ("peer.left", "ann"),
]  # fmt: skip


@pytest.fixture
def simulation() -> Simulation:
    """A room in which Ann and Ben were, and Ben still is."""
    clock = StoppedClock(NOW)
    runtime = Simulation(seed=1, now=clock)
    runtime.join(ROOM, peer_id="ann", metadata={"displayName": "Ann"})
    runtime.join(ROOM, peer_id="ben", metadata={"displayName": "Ben"})
    clock.advance(1000)
    runtime.leave(ROOM, "ann")
    return runtime


def body_of(sequence: int, told: Told, note: str = "") -> bytes:
    kind, peer_id = told
    facts = {"room_id": ROOM, "sequence": sequence, "note": note, **({} if peer_id is None else {"peer_id": peer_id})}
    return json.dumps({"id": f"evt_{sequence}", "type": kind, "data": facts}).encode()


def post(receiver: Receiver, body: bytes, *, secret: str = SECRET) -> int:
    event_id, now = json.loads(body)["id"], datetime.now(UTC)
    headers = {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(event_id, now, body.decode()),
    }
    return receiver.take(Delivery(path="/", headers=headers, body=body))


def deliver(*bodies: bytes) -> list[Received]:
    """What a receiver has after these, each sent until it is accepted."""
    receiver = Receiver(SECRET, lambda _: None)
    for body in bodies:
        while post(receiver, body) != 204:
            pass
    return receiver.received


def judge(simulation: Simulation, received: Sequence[Received], head: int = len(MEETING)) -> Findings:
    return examine(simulation.rooms, {ROOM: "Stand-up"}, {ROOM: head}, received)


def story(*told: Told) -> list[bytes]:
    return [body_of(sequence, one) for sequence, one in enumerate(told, start=1)]


def test_the_truth_is_called_the_truth(simulation: Simulation) -> None:
    findings = judge(simulation, deliver(*story(*MEETING)))
    assert findings.problems == ()
    assert findings.good
    assert findings.rooms[0].names == ("Ben",)
    assert findings.told == {"room.occupied": 1, "peer.joined": 2, "peer.left": 1}


def test_a_missing_event_is_seen(simulation: Simulation) -> None:
    bodies = story(*MEETING)
    assert judge(simulation, deliver(*bodies[:1], *bodies[2:])).problems[0] == "Stand-up: never delivered: #2"
    assert not judge(simulation, deliver(*bodies), head=5).good


def test_a_wrong_order_is_seen(simulation: Simulation) -> None:
    first, second, third, fourth = story(*MEETING)
    assert "not in order" in judge(simulation, deliver(first, third, second, fourth)).problems[0]


def test_an_invention_is_seen(simulation: Simulation) -> None:
    invented: list[Told] = [*MEETING, ("peer.joined", "eve"), ("peer.left", "eve")]
    assert any("eve" in problem for problem in judge(simulation, deliver(*story(*invented)), head=6).problems)


def test_a_leave_too_many_is_seen(simulation: Simulation) -> None:
    twice: list[Told] = [*MEETING, ("peer.joined", "ann"), ("peer.left", "ann")]
    assert any("ann" in problem for problem in judge(simulation, deliver(*story(*twice)), head=6).problems)


def test_who_is_there_untold_and_who_is_told_but_not_there_are_seen(simulation: Simulation) -> None:
    simulation.join(ROOM, peer_id="eve")
    simulation.leave(ROOM, "ben")
    problems = judge(simulation, deliver(*story(*MEETING))).problems
    assert problems == (
        "Stand-up: eve is there, but no delivery says so",
        "Stand-up: ben is there by the deliveries, but not in truth",
    )


def test_another_body_under_the_same_id_is_seen(simulation: Simulation) -> None:
    received = deliver(*story(*MEETING), body_of(2, MEETING[1], note="changed"))
    assert judge(simulation, received).problems == ("evt_2 came again with another body",)


def test_silence_is_not_good() -> None:
    simulation = Simulation(seed=1)
    simulation.add_room(ROOM)
    assert judge(simulation, [], head=0).problems == ("nothing was delivered",)


def test_the_receiver_refuses_what_does_not_verify_and_says_so(simulation: Simulation) -> None:
    heard: list[Received] = []
    receiver = Receiver(SECRET, heard.append)
    assert post(receiver, body_of(1, MEETING[0]), secret="whsec_" + "QUJD" * 10) == 401
    assert receiver.take(Delivery(path="/", headers={}, body=b"\xff")) == 401
    assert [one.unverified is not None for one in heard] == [True, True]
    findings = judge(simulation, receiver.received, head=0)
    assert findings.unverified == 2
    assert not findings.good


def test_the_receiver_is_busy_once_and_knows_what_comes_again() -> None:
    receiver = Receiver(SECRET, lambda _: None)
    bodies = [body_of(sequence, MEETING[1]) for sequence in range(1, BUSY_AT + 1)]
    assert [post(receiver, body) for body in [*bodies, bodies[-1]]] == [204] * (BUSY_AT - 1) + [503, 204]
    assert [one.again for one in receiver.received] == [False] * BUSY_AT + [True]


def test_the_delay_is_from_the_true_happening(simulation: Simulation) -> None:
    for one, seconds in zip(deliver(*story(*MEETING)), (None, 0, 0, 1), strict=False):
        counted = delay(simulation.rooms, one)
        happened = None if seconds is None else datetime.fromtimestamp(NOW / 1000 + seconds, tz=UTC)
        assert counted == (None if happened is None else one.at - happened)

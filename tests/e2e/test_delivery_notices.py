"""What the bridge tells of itself: to those who ask for it, and never to the endpoint that it is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.config import write_config
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Event, Receiver, Response
from tests.harness.simulator import SimulatorClient
from tests.harness.tables import change
from tests.harness.waiting import wait_until

ROOMS = [f"room-{assign_sequences}" for assign_sequences in range(6)]
OWN = ["endpoint.*", "source.*"]
KINDS = ("endpoint.disabled", "endpoint.recovered", "source.unavailable", "source.recovered")


def notices(receiver: Receiver) -> list[tuple[str, object]]:
    return [
        (event["type"], event["data"].get("reason", event["data"].get("condition")))
        for event in receiver.events(*KINDS)
    ]


def wait_for_notice(receiver: Receiver, *expected: tuple[str, object]) -> Event:
    wait_until(lambda: notices(receiver) == [*expected], what=lambda: f"{expected}; there is {notices(receiver)}")
    return receiver.events(*KINDS)[-1]


def let_a_minute_pass(database_url: str) -> None:
    """For a source that is asked once a minute while it refuses the key."""
    change(database_url, "UPDATE sources SET paused_until = since")
    change(database_url, "UPDATE rooms SET next_poll_at = added_at WHERE source IS NOT NULL AND claim_token IS NULL")


@pytest.mark.slow
def test_those_who_ask_are_told_what_is_broken_and_what_works_again(
    tmp_path: Path, ready_url: str, simulator: SimulatorClient, receiver: Receiver
) -> None:
    with Receiver() as broken, Receiver() as incurious:
        config = write_config(
            tmp_path / "bridge.toml",
            database_url=ready_url,
            upstream=simulator.url,
            rooms=ROOMS,
            endpoints=[
                receiver.endpoint("watcher", events=OWN),
                broken.endpoint("broken", events=["peer.*", *OWN]),
                incurious.endpoint("incurious"),
            ],
        )
        broken.script(Response(status=503))
        with BridgeProcess(config) as program:
            for room in ROOMS:
                simulator.join(room, "anna")
            wait_until(lambda: len({one.room for one in broken.deliveries}) >= 5, what="five rooms in trouble")
            broken.script()
            recovered = ("endpoint.recovered", None)
            told = wait_for_notice(receiver, recovered)
            assert told["data"]["endpoint"] == "broken"
            assert (told["data"]["room_id"], told["data"]["since"] is None) == (None, False)
            broken.wait_for_count(len(ROOMS))

            simulator.faults({"kind": "unauthorized"})
            refused = ("source.unavailable", "unauthorized")
            told = wait_for_notice(receiver, recovered, refused)
            assert told["data"]["affected_source"] == "main"
            broken.wait_for(lambda events: events[-1]["type"] == "source.unavailable", "what is not about itself")
            simulator.faults()
            let_a_minute_pass(ready_url)
            back = ("source.recovered", "unauthorized")
            wait_for_notice(receiver, recovered, refused, back)
            simulator.join(ROOMS[0], "bert")
            incurious.wait_for_count(3, room=ROOMS[0])

            broken.wait_for(lambda events: events[-1]["data"].get("peer_id") == "bert", "Bert")
            broken.script(Response(status=410))
            simulator.leave(ROOMS[0], "bert")
            gone = ("endpoint.disabled", "gone")
            wait_for_notice(receiver, recovered, refused, back, gone)
            assert program.stop() == 0
        assert {event["type"] for event in broken.events(*KINDS)} == {"source.unavailable", "source.recovered"}
        assert incurious.events(*KINDS) == []
    assert [one.unverified for one in receiver.deliveries if one.unverified] == []
    assert [event["data"]["sequence"] for event in receiver.events()] == [1, 2, 3, 4]

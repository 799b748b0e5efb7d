"""The bridge's own events: for endpoints that subscribe to them, but never for the endpoint that they are about."""

from __future__ import annotations

import pytest

from tests.harness.config import Configure
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Event, Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.tables import end_pauses
from tests.harness.waiting import wait_until

ROOMS = [f"room-{number}" for number in range(6)]
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


@pytest.mark.slow
def test_subscribers_get_what_is_broken_and_what_has_recovered(
    configure: Configure, migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    with Receiver() as broken, Receiver() as indifferent:
        config = configure(
            rooms=ROOMS,
            endpoints=[
                receiver.endpoint("watcher", events=OWN),
                broken.endpoint("broken", events=["peer.*", *OWN]),
                indifferent.endpoint("indifferent"),
            ],
        )
        broken.script(Response(status=503))
        with BridgeProcess(config) as program:
            for room in ROOMS:
                simulator.join(room, "anna")
            wait_until(lambda: len({one.room for one in broken.deliveries}) >= 5, what="five rooms that fail")
            broken.script()
            recovered = ("endpoint.recovered", None)
            notice = wait_for_notice(receiver, recovered)
            assert notice["data"]["endpoint"] == "broken"
            assert (notice["data"]["room_id"], notice["data"]["since"] is None) == (None, False)
            broken.wait_for_count(len(ROOMS))

            simulator.faults({"kind": "unauthorized"})
            refused = ("source.unavailable", "unauthorized")
            notice = wait_for_notice(receiver, recovered, refused)
            assert notice["data"]["affected_source"] == "main"
            broken.wait_for(lambda events: events[-1]["type"] == "source.unavailable", "the event about the source")
            simulator.faults()
            end_pauses(migrated_url, ["main"])
            back = ("source.recovered", "unauthorized")
            wait_for_notice(receiver, recovered, refused, back)
            simulator.join(ROOMS[0], "bert")
            indifferent.wait_for_count(3, room=ROOMS[0])

            broken.wait_for(lambda events: events[-1]["data"].get("peer_id") == "bert", "Bert")
            broken.script(Response(status=410))
            simulator.leave(ROOMS[0], "bert")
            gone = ("endpoint.disabled", "gone")
            wait_for_notice(receiver, recovered, refused, back, gone)
            assert program.stop() == 0
        assert {event["type"] for event in broken.events(*KINDS)} == {"source.unavailable", "source.recovered"}
        assert indifferent.events(*KINDS) == []
    assert [one.unverified for one in receiver.deliveries if one.unverified] == []
    assert [event["data"]["sequence"] for event in receiver.events()] == [1, 2, 3, 4]

"""Every format through the real program, with peers whose metadata is as odd as can be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.harness.config import Configure
from tests.harness.oracles import node, require_oracles
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Delivery, Receiver
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

KEY = "any text: ☃ that both sides know"
ROOM = "abc-defg-hij"
HOSTILE: list[Any] = [
    {"displayName": '\u2028\u2029\x7f\u0085\ufeff\b\f\n\r\t"\\/</script>', "10": 1, "9": 2},
    {"__proto__": {"x": 1}, "constructor": None, "float": 1.0, "small": 1e-7, "large": 1e21, "integer": 2**53 + 1},
    {"😀": ["\U0010ffff", [[[[]]]]], "sequence": 0, "id": "evt_forged", "type": "room.empty"},
    "{not json",
    None,
    17,
    [],
]


def of_path(deliveries: list[Delivery], name: str) -> list[Delivery]:
    return [one for one in deliveries if one.path == f"/{name}"]


@pytest.mark.slow
@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_hostile_metadata_in_every_format(configure: Configure, simulator: Simulator, receiver: Receiver) -> None:
    require_oracles()
    formats = ["standard", "flat", "cloudevents"]
    config = configure(
        rooms=[ROOM],
        endpoints=[
            *(receiver.endpoint(style, style=style) for style in formats),
            receiver.endpoint("huddle01", style="huddle01", secret=KEY),
        ],
    )
    count = 1 + 2 * len(HOSTILE) + 1
    with BridgeProcess(config) as program:
        for number, metadata in enumerate(HOSTILE):
            simulator.join(ROOM, f"peer-{number}", metadata=metadata)
        simulator.wait_for_polls(2, ROOM)
        simulator.leave(ROOM, *(f"peer-{number}" for number in range(len(HOSTILE))))
        wait_until(
            lambda: all(len(of_path(list(receiver.accepted), name)) >= count for name in [*formats, "huddle01"]),
            what=lambda: f"{count} events in each format, not {len(receiver.accepted)}",
        )
        assert program.stop() == 0
    deliveries = {name: of_path(list(receiver.accepted), name) for name in [*formats, "huddle01"]}
    assert [one.unverified for name in formats for one in deliveries[name] if one.unverified] == []
    standard = [one.event for one in deliveries["standard"]]
    for name, found in deliveries.items():
        assert [one.event_id for one in found] == [event["id"] for event in standard], name
        assert [one.event["id"] for one in found] == [event["id"] for event in standard], name
    check_flat(deliveries["flat"], standard)
    check_cloudevents(deliveries["cloudevents"], standard)
    check_huddle01(deliveries["huddle01"], standard)


def check_flat(found: list[Delivery], standard: list[dict[str, Any]]) -> None:
    for delivery, event in zip(found, standard, strict=True):
        flat = delivery.event
        assert not any(isinstance(value, dict | list) for value in flat.values())
        assert (flat["type"], flat["timestamp"]) == (event["type"], event["timestamp"])
        plain = {key: value for key, value in event["data"].items() if not isinstance(value, dict | list)}
        assert {key: flat[key] for key in plain} == plain
        assert delivery.headers["content-type"] == "application/json"


def check_cloudevents(found: list[Delivery], standard: list[dict[str, Any]]) -> None:
    for delivery, event in zip(found, standard, strict=True):
        wrapped = delivery.event
        assert (wrapped["specversion"], wrapped["type"], wrapped["time"]) == ("1.0", event["type"], event["timestamp"])
        assert int(wrapped["sequence"]) == event["data"]["sequence"]
        assert wrapped["data"] == event["data"]
        assert delivery.headers["content-type"] == "application/cloudevents+json"


def check_huddle01(found: list[Delivery], standard: list[dict[str, Any]]) -> None:
    lines = [
        json.dumps({"body": one.body.decode(), "header": one.headers["huddle01-signature"]}, ensure_ascii=True)
        for one in found
    ]
    assert node("receive_huddle01.mjs", KEY, input="\n".join(lines)).splitlines() == ["accepted"] * len(found)
    assert node("receive_huddle01.mjs", "another", input="\n".join(lines)).splitlines() != ["accepted"] * len(found)
    assert [one.event["event"] for one in found] == [event["type"].replace(".", ":") for event in standard]
    assert all("webhook-signature" not in one.headers for one in found)

"""The JSON Schemas: what they accept, and what they do not. Every delivery of other tests is validated too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bridge.events.bodies import encode
from bridge.events.samples import draft_sample
from bridge.events.schemas import event_schema
from bridge.events.types import EventType
from tests.docs import examples
from tests.events.builders import LEFT, ROOM
from tests.harness.schemas import schema_problems


def sample(kind: EventType) -> dict[str, Any]:
    drafted = draft_sample(kind, LEFT, lambda prefix: f"{prefix}_01")
    event: dict[str, Any] = json.loads(encode(drafted, ROOM, event_id="evt_01", sequence=1))
    return event


@pytest.mark.parametrize("kind", EventType)
def test_the_schema_of_each_type_takes_its_samples_and_examples(kind: EventType) -> None:
    Draft202012Validator.check_schema(event_schema(kind))
    shown = [event for event in map(json.loads, examples.bodies()) if event["type"] == kind]

    assert shown
    assert [problem for event in (sample(kind), *shown) for problem in schema_problems(event)] == []


@pytest.mark.parametrize("kind", EventType)
def test_every_key_is_required(kind: EventType) -> None:
    for key in sample(kind)["data"]:
        event = sample(kind)
        del event["data"][key]

        assert schema_problems(event) == [f"{kind}: data: {key!r} is a required property"]


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (EventType.PEER_LEFT, "leave_reason", "bored"),
        (EventType.PEER_LEFT, "left_at", "2026-11-23T09:29:59Z"),
        (EventType.PEER_LEFT, "session_id", None),
        (EventType.PEER_LEFT, "uncertainty_seconds", -1),
        (EventType.PEER_JOINED, "peer_count", "1"),
        (EventType.PEER_JOINED, "initial", None),
        (EventType.SESSION_RECONCILED, "visits", [{}]),
        (EventType.PERSON_ERASED, "visit_ids", [1]),
        (EventType.ENDPOINT_DISABLED, "reason", None),
    ],
)
def test_a_wrong_value_is_refused(kind: EventType, key: str, value: object) -> None:
    event = sample(kind)
    event["data"][key] = value

    assert schema_problems(event)


def test_unknown_keys_are_allowed_because_they_may_be_added() -> None:
    event = sample(EventType.PEER_JOINED)
    event["data"]["new"] = 1

    assert schema_problems(event) == ["peer.joined: data.new is not in the schema"]
    assert Draft202012Validator(event_schema(EventType.PEER_JOINED)).is_valid(event)

"""The bodies of events against the JSON Schemas that the bridge publishes, by the package `jsonschema`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache

from jsonschema import Draft202012Validator

from bridge.events.fields import TYPES
from bridge.events.schemas import event_schema
from bridge.events.types import EventType
from tests.harness.receiver import Delivery, Event

CHECKED = 20
"""The number of deliveries of each type that are validated: more would say the same."""


@cache
def validator(kind: str) -> Draft202012Validator:
    return Draft202012Validator(event_schema(EventType(kind)))


def schema_problems(event: Event) -> list[str]:
    """Return what the schema of its type finds in an event of style `standard`, and keys that it does not know."""
    found = [
        f"{event['type']}: {'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator(event["type"]).iter_errors(event)
    ]
    known = TYPES[EventType(event["type"])].fields
    unknown = [f"{event['type']}: data.{key} is not in the schema" for key in event["data"].keys() - set(known)]
    return [*found, *unknown]


def delivered_problems(deliveries: Iterable[Delivery]) -> list[str]:
    """Return the problems of the deliveries of style `standard` that were accepted."""
    counted: Counter[str] = Counter()
    problems: list[str] = []
    for delivery in deliveries:
        kind = delivery.event.get("type")
        if delivery.accepted and "data" in delivery.event and "specversion" not in delivery.event:
            counted[str(kind)] += 1
            problems += schema_problems(delivery.event) if counted[str(kind)] <= CHECKED else []
    return problems

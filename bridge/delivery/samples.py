"""Test deliveries: a signed sample with the header `bridge-test`, of which nothing is stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bridge.delivery.claim import OwedEvent
from bridge.delivery.sender import deliver
from bridge.delivery.targets import Target
from bridge.events.bodies import RoomName, encode
from bridge.events.samples import DEFAULT_IDENTITY, draft_sample
from bridge.events.types import OF_BRIDGE, EventType
from bridge.rules.identity import IdentityPolicy
from bridge.runtime import Runtime

if TYPE_CHECKING:
    from bridge.delivery.client import WebhookClient


@dataclass(frozen=True, slots=True, kw_only=True)
class SentSample:
    """One test delivery and its outcome."""

    event_id: str
    type: str
    outcome: str
    status: int | None
    cause: str | None
    detail: str
    duration_seconds: float
    response: str


async def send_sample(
    client: WebhookClient,
    target: Target,
    kind: EventType,
    runtime: Runtime,
    timeout: timedelta,  # noqa: ASYNC109 - a time-out is a result, not an exception
) -> SentSample:
    """Send a sample of a type once; `timeout` is for endpoints without one of their own."""
    event = make_sample(kind, runtime)
    at, marks = runtime.now(), {"bridge-test": "true"}
    result = await deliver(client, target, event, at=at, timeout=target.timeout or timeout, marks=marks)
    return SentSample(
        event_id=event.public_id,
        type=event.type,
        outcome=result.outcome.value,
        status=result.status,
        cause=None if result.cause is None else result.cause.value,
        detail=result.detail,
        duration_seconds=result.duration.total_seconds(),
        response=result.response.decode("utf-8", "replace"),
    )


def make_sample(
    kind: EventType, runtime: Runtime, *, room_id: str = "test-room", identity: IdentityPolicy = DEFAULT_IDENTITY
) -> OwedEvent:
    """Return a sample, which is in no log: its sequence is 0."""
    event_id = runtime.new_id("evt")
    about_room = kind not in OF_BRIDGE
    room = RoomName(source="main", room_id=room_id, room_name="Test room") if about_room else RoomName()
    draft = draft_sample(kind, runtime.now(), runtime.new_id, identity)
    body = encode(draft, room, event_id=event_id, sequence=0)
    return OwedEvent(key=0, public_id=event_id, sequence=0, type=kind.value, body=body, acks_to=0)

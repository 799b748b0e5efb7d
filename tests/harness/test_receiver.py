"""The receiver and the checks of its deliveries find every fault of a request, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest
from standardwebhooks import Webhook

from tests.harness.deliveries import delivery_problems, difference_from_log, duplicates
from tests.harness.receiver import SECRET, Receiver, Response


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver whose events are invented here: no schema describes them."""
    with Receiver() as subscriber:
        yield subscriber


def body_of(sequence: int, room: str = "room", **more: object) -> bytes:
    event = {"id": f"evt_{room}_{sequence}", "type": "peer.joined", "data": {"room_id": room, "sequence": sequence}}
    return json.dumps({**event, **more}).encode()


def send(receiver: Receiver, body: bytes, *, secret: str = SECRET, event_id: str | None = None) -> int:
    name, now = event_id or json.loads(body)["id"], datetime.now(UTC)
    headers = {
        "webhook-id": name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(name, now, body.decode()),
    }
    return httpx.post(f"{receiver.url}/hook", content=body, headers=headers, trust_env=False).status_code


def test_an_event_before_its_predecessor_was_accepted_is_found(receiver: Receiver) -> None:
    receiver.script(Response(status=500, times=1))
    assert [send(receiver, body_of(1)), send(receiver, body_of(2)), send(receiver, body_of(1))] == [500, 200, 200]
    (problem,) = delivery_problems(receiver.deliveries)
    assert "request 2 (room #2) came before #1 was accepted" in problem


def test_different_bytes_and_another_id_are_found(receiver: Receiver) -> None:
    send(receiver, body_of(1))
    send(receiver, body_of(1, extra=1))
    send(receiver, body_of(1), event_id="evt_x")
    assert len(delivery_problems(receiver.deliveries)) == 2
    assert duplicates(receiver.deliveries) == ["evt_room_1"]


def test_missing_and_invented_events_are_found(receiver: Receiver) -> None:
    send(receiver, body_of(1))
    differences = difference_from_log(receiver.deliveries, [(body_of(2), json.loads(body_of(2)))])
    assert differences == ["never delivered: room #2 peer.joined", "not in the log: room #1 peer.joined"]
    assert difference_from_log(receiver.deliveries, [(body_of(1, x=1), json.loads(body_of(1)))]) == [
        "other bytes: evt_room_1"
    ]

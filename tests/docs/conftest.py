"""Requests as the bridge really sends them, for the snippets of the documentation."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest

from bridge.delivery.claim import OwedEvent
from bridge.delivery.client import WebhookClient
from bridge.delivery.sender import deliver
from bridge.delivery.targets import Target
from bridge.events.formats import Format
from bridge.rules.delivery import Outcome
from bridge.rules.egress import EgressPolicy
from tests.docs import examples
from tests.docs.requests import Send
from tests.harness.receiver import SECRET, Delivery, Receiver

LOOPBACK = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"),))


@pytest.fixture
def left() -> OwedEvent:
    body = next(body for body in examples.bodies() if json.loads(body)["type"] == "peer.left")
    return OwedEvent(key=1, public_id=json.loads(body)["id"], sequence=6, type="peer.left", body=body, acks_to=6)


@pytest.fixture
def send(left: OwedEvent) -> Send:
    async def send_one(
        *, secrets: tuple[str, ...] = (SECRET,), style: Format = Format.STANDARD, age: timedelta = timedelta()
    ) -> Delivery:
        with Receiver() as receiver:
            target = Target(
                key=1,
                name="docs",
                url=receiver.url,
                format=style.value,
                signature="v1",
                timeout=None,
                headers={},
                secrets=secrets,
            )
            at = datetime.now(UTC) - age
            async with WebhookClient(LOOPBACK, user_agent="presence-bridge/test", clock=lambda: at) as client:
                outcome = await deliver(client, target, left, at=at, timeout=timedelta(seconds=30))
            assert outcome.outcome is Outcome.DELIVERED
            return receiver.deliveries[0]

    return send_one

"""The `standardwebhooks` package of npm, as a second verifier of the requests that a receiver got."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import replace

from tests.harness.oracles import node
from tests.harness.receiver import Delivery


def npm_outcomes(deliveries: Iterable[Delivery], secret: str) -> list[str | None]:
    """Return one outcome for each request: None, or what is wrong."""
    requests = [
        {"secret": secret, "headers": delivery.headers, "body": base64.b64encode(delivery.body).decode()}
        for delivery in deliveries
    ]
    outcomes: list[str | None] = json.loads(node("verify_standard.mjs", input=json.dumps(requests)))
    assert len(outcomes) == len(requests)
    return outcomes


def with_flipped_byte(delivery: Delivery, position: int) -> Delivery:
    """Return the same request with one bit of its body flipped."""
    body = bytearray(delivery.body)
    body[position % len(body)] ^= 0x01
    return replace(delivery, body=bytes(body))

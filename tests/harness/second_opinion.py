"""What the `standardwebhooks` package of npm says of the requests that a receiver got."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pytest

from tests.harness.process import ROOT
from tests.harness.receiver import Delivery

ORACLES = ROOT / "tests" / "oracles"
CHUNK = 2000


def npm_verdicts(deliveries: Iterable[Delivery], secret: str) -> list[str | None]:
    """One verdict for each request: None, or what is wrong. Without Node the test is skipped; under CI it fails."""
    requests = [
        {"secret": secret, "headers": delivery.headers, "body": base64.b64encode(delivery.body).decode()}
        for delivery in deliveries
    ]
    verdicts: list[str | None] = []
    for start in range(0, len(requests), CHUNK):
        verdicts += _ask(requests[start : start + CHUNK])
    assert len(verdicts) == len(requests)
    return verdicts


def with_flipped_byte(delivery: Delivery, position: int) -> Delivery:
    """The same request with one bit of one byte of its body the other way round."""
    body = bytearray(delivery.body)
    body[position % len(body)] ^= 0x01
    return replace(delivery, body=bytes(body))


def _ask(requests: Sequence[Mapping[str, object]]) -> list[str | None]:
    done = subprocess.run(
        [_node(), ORACLES / "verify_standard.mjs"],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    verdicts: list[str | None] = json.loads(done.stdout)
    return verdicts


def _node() -> str:
    node = shutil.which("node")
    if node is not None and (ORACLES / "node_modules" / "standardwebhooks").is_dir():
        return node
    message = "needs Node.js 20 or newer and `npm ci --prefix tests/oracles` (make oracles)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)

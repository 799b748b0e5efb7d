"""The verification of deliveries in `bridge listen`, and the secrets for it."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from bridge.cli.parse_event import parse_event
from bridge.cli.receiver import Delivery
from bridge.config.secrets import read_secret_file
from bridge.errors import UsageError, VerificationError
from bridge.rules.signing import TOLERANCE, Huddle01Secret, parse_key, verify

Verify = Callable[[Delivery, datetime], str]
"""Returns the event's id, or raises a VerificationError with the reason."""

_REFERENCE: Final = "env:"
_HUDDLE01_SIGNATURE: Final = re.compile(r"t=(?P<timestamp>[0-9]{1,15}),sha256=[0-9a-f]{64}")


def gather_secrets(given: Iterable[str], files: Iterable[Path]) -> list[str]:
    """Return the secrets that were given in clear, as `env:NAME`, or in files.

    Raises:
        UsageError: there is none, or one cannot be read; the message repeats no secret.
    """
    secrets = [_resolve(text) for text in given]
    for file in files:
        try:
            secrets.append(read_secret_file(str(file)))
        except ValueError as error:
            raise UsageError(f"--secret-file {file}: {error}") from None
    if not secrets:
        raise UsageError("a secret is required: give --secret whsec_…, --secret env:NAME or --secret-file FILE")
    return secrets


def standard_verifier(secrets: Sequence[str]) -> Verify:
    """Verify Standard Webhooks, v1 and v1a, which sign every style but huddle01.

    Raises:
        UsageError: a secret is not one.
    """
    keys = [parse_key(text) for text in secrets]

    def verify_delivery(delivery: Delivery, now: datetime) -> str:
        if "webhook-signature" not in delivery.headers and "huddle01-signature" in delivery.headers:
            raise VerificationError("the signature is Huddle01's: start with --style huddle01")
        return verify(keys, headers=delivery.headers, body=delivery.body, now=now)

    return verify_delivery


def huddle01_verifier(secrets: Sequence[str]) -> Verify:
    """Verify as `WebhookReceiver` of `@huddle01/server-sdk` does, and the timestamp as its documentation asks."""
    keys = [Huddle01Secret(key=text.encode()) for text in secrets]

    def verify_delivery(delivery: Delivery, now: datetime) -> str:
        header = delivery.headers.get("huddle01-signature", "")
        parts = _HUDDLE01_SIGNATURE.fullmatch(header)
        if parts is None:
            raise VerificationError("the header huddle01-signature is missing or not t=…,sha256=…")
        timestamp = int(parts["timestamp"])
        age = now.timestamp() - timestamp / 1000
        if abs(age) > TOLERANCE.total_seconds():
            raise VerificationError(f"the timestamp is {abs(age):.0f} s in the {'past' if age > 0 else 'future'}")
        event_id = parse_event(delivery.body).event_id
        if not any(hmac.compare_digest(key.sign(event_id, timestamp, delivery.body), header) for key in keys):
            raise VerificationError("the signature does not match: compare the secret with the endpoint's")
        return event_id

    return verify_delivery


def _resolve(text: str) -> str:
    if not text.startswith(_REFERENCE):
        return text
    name = text.removeprefix(_REFERENCE)
    if not (value := os.environ.get(name)):
        raise UsageError(f"--secret env:{name}: the environment variable {name!r} is not set")
    return value

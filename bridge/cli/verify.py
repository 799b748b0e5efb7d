"""How `bridge listen` checks a delivery, and where its secrets come from."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from bridge.cli.parse_event import read_facts, read_json
from bridge.cli.receiver import Delivery
from bridge.config.secrets import read_secret_file
from bridge.errors import UsageError, VerificationError
from bridge.rules.signing import TOLERANCE, Huddle01Secret, parse_key, verify

Check = Callable[[Delivery, datetime], str]
"""Answers the event's id; raises VerificationError with why the delivery cannot be trusted."""

REFERENCE: Final = "env:"
_HUDDLE01_SIGNATURE: Final = re.compile(r"t=(?P<timestamp>[0-9]{1,15}),sha256=[0-9a-f]{64}")


def gather_secrets(given: Iterable[str], files: Iterable[Path]) -> list[str]:
    """The secrets themselves, from what was given: in clear, as `env:NAME`, or in files.

    Raises:
        UsageError: there is none, or one cannot be had; the message repeats no secret.
    """
    secrets = [_resolve(text) for text in given]
    for file in files:
        try:
            secrets.append(read_secret_file(str(file)))
        except ValueError as error:
            raise UsageError(f"--secret-file {file}: {error}") from None
    if not secrets:
        raise UsageError("which secret? give --secret whsec_…, --secret env:NAME or --secret-file FILE")
    return secrets


def standard_check(secrets: Sequence[str]) -> Check:
    """Standard Webhooks, v1 and v1a, as every style but huddle01 is signed.

    Raises:
        UsageError: a secret is none.
    """
    keys = [parse_key(text) for text in secrets]

    def check(delivery: Delivery, now: datetime) -> str:
        if "webhook-signature" not in delivery.headers and "huddle01-signature" in delivery.headers:
            raise VerificationError("it is signed as Huddle01 signs: start with --style huddle01")
        return verify(keys, headers=delivery.headers, body=delivery.body, now=now)

    return check


def huddle01_check(secrets: Sequence[str]) -> Check:
    """As `WebhookReceiver` of `@huddle01/server-sdk` checks, and the timestamp as its documentation does by hand."""
    keys = [Huddle01Secret(key=text.encode()) for text in secrets]

    def check(delivery: Delivery, now: datetime) -> str:
        header = delivery.headers.get("huddle01-signature", "")
        parts = _HUDDLE01_SIGNATURE.fullmatch(header)
        if parts is None:
            raise VerificationError("the header huddle01-signature is missing or not t=…,sha256=…")
        timestamp = int(parts["timestamp"])
        age = now.timestamp() - timestamp / 1000
        if abs(age) > TOLERANCE.total_seconds():
            raise VerificationError(f"its timestamp is {abs(age):.0f} s {'old' if age > 0 else 'in the future'}")
        event_id = read_facts(read_json(delivery.body)).event_id
        if not any(hmac.compare_digest(key.sign(event_id, timestamp, delivery.body), header) for key in keys):
            raise VerificationError("the signature does not match: compare the secret with the endpoint's")
        return event_id

    return check


def _resolve(text: str) -> str:
    if not text.startswith(REFERENCE):
        return text
    name = text.removeprefix(REFERENCE)
    value = os.environ.get(name)
    if not value:
        raise UsageError(f"--secret env:{name}: the environment variable {name!r} is not set")
    return value

"""The demo's receiver: an application that knows nothing of the bridge but its secret.

It verifies with `standardwebhooks` from PyPI, not with our own code, keeps what it got, and once says 503, to show
what becomes of a delivery that its receiver is too busy for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from bridge.cli.parse_event import Facts, read_facts, read_json
from bridge.cli.receiver import Delivery

ACCEPTED, UNVERIFIED, BUSY = 204, 401, 503
BUSY_AT = 5
"""Which of the deliveries is put off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A delivery, what it was found to be, and what it was answered."""

    at: datetime
    delivery: Delivery
    facts: Facts
    event: Mapping[str, Any] = field(repr=False)
    unverified: str | None
    """What `standardwebhooks` holds against it."""
    status: int
    again: bool
    """Whether the same id came before."""

    @property
    def accepted(self) -> bool:
        """Whether this is what the receiver works with."""
        return self.status == ACCEPTED


class Receiver:
    """Takes deliveries; `received` has all of them, in order of arrival."""

    def __init__(self, secret: str, tell: Callable[[Received], None]) -> None:
        self._webhook = Webhook(secret)
        self._tell = tell
        self._ids: set[str] = set()
        self.received: list[Received] = []

    def take(self, delivery: Delivery) -> int:
        """Verify, keep, tell, and choose the response."""
        document = read_json(delivery.body)
        facts = read_facts(document)
        unverified = self._verify(delivery)
        again = facts.event_id in self._ids
        received = Received(
            at=datetime.now(UTC),
            delivery=delivery,
            facts=facts,
            event=document if isinstance(document, dict) else {},
            unverified=unverified,
            status=self._response(unverified),
            again=again,
        )
        if unverified is None:
            self._ids.add(facts.event_id)
        self.received.append(received)
        self._tell(received)
        return received.status

    def _verify(self, delivery: Delivery) -> str | None:
        try:
            self._webhook.verify(delivery.body, dict(delivery.headers), json_parse=False)
        except (WebhookVerificationError, ValueError) as error:  # what is no signature at all is a ValueError to it
            return str(error)
        return None

    def _response(self, unverified: str | None) -> int:
        if unverified is not None:
            return UNVERIFIED
        return BUSY if len(self.received) + 1 == BUSY_AT else ACCEPTED

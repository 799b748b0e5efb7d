"""A request that the bridge sent, and forged ones."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from bridge.events.formats import Format
from tests.harness.receiver import Delivery


class Send(Protocol):
    """Sends one `peer.left` to a real socket; `age` is how long ago it was signed."""

    def __call__(
        self, *, secrets: tuple[str, ...] = ..., style: Format = ..., age: timedelta = ...
    ) -> Awaitable[Delivery]: ...


def flipped(delivery: Delivery) -> Delivery:
    """The same request with another name in its body, of the same length."""
    return replace(delivery, body=delivery.body.replace(b"Ann", b"Bob"))


def without(delivery: Delivery, header: str) -> Delivery:
    return replace(delivery, headers={name: value for name, value in delivery.headers.items() if name != header})

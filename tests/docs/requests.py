"""A request that the bridge sent, and forged ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from tests.harness.receiver import Delivery

Send = Callable[..., Awaitable[Delivery]]
"""Sends one `peer.left` to a real socket, with `secrets`, in a `style`, signed `age` ago."""


def flipped(delivery: Delivery) -> Delivery:
    """The same request with another name in its body, of the same length."""
    return replace(delivery, body=delivery.body.replace(b"Ann", b"Bob"))


def without(delivery: Delivery, header: str) -> Delivery:
    return replace(delivery, headers={name: value for name, value in delivery.headers.items() if name != header})

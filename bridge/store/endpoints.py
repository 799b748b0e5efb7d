"""Subscribers: which there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """A subscriber as somebody asked for it; a secret left out is generated, a time-out left out is `[delivery]`'s."""

    name: str
    url: str
    secret: str | None = field(default=None, repr=False)
    events: tuple[str, ...] = ("peer.joined", "peer.left", "room.empty")
    rooms: tuple[str, ...] = ("*",)
    style: str = "standard"
    signature: str = "v1"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    rate_per_second: float = 0.0
    max_concurrency: int = 8
    timeout: timedelta | None = None
    enabled: bool = True

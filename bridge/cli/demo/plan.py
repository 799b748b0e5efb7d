"""What the demo consists of: its people's rooms, its times, and what its bridge.toml would say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from bridge.config import Settings, load
from bridge.simulator import DEFAULT_API_KEY
from bridge.simulator.crowd import room_ids

LOOPBACK: Final = "127.0.0.1"
ROOM_NAMES: Final = ("Stand-up", "Lounge", "Design", "Support", "Town hall", "Workshop", "Retro", "Kitchen")
LAST_WORDS: Final = timedelta(seconds=3)
"""How long before the end the crowd stops, at most: the last poll and the last deliveries belong to the duration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for; without a `duration` it goes on until somebody says stop."""

    seed: int
    room_count: int
    duration: timedelta | None
    directory: Path

    @property
    def rooms(self) -> dict[str, str]:
        """The rooms' names by their ids."""
        ids = room_ids(self.seed, self.room_count)
        return {room_id: _room_name(assign_sequences) for assign_sequences, room_id in enumerate(ids)}

    @property
    def lively_seconds(self) -> float | None:
        """How long the crowd comes and goes."""
        if self.duration is None:
            return None
        return (self.duration - min(LAST_WORDS, self.duration / 3)).total_seconds()

    @property
    def database_url(self) -> str:
        """Where the bridge keeps its log and its cursors."""
        return f"sqlite:///{self.directory / 'demo.db'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where everything listens."""

    upstream: str
    receiver: str


def settings_for(plan: Plan, places: Places, secret: str) -> Settings:
    """The settings of the demo's bridge; this machine's environment has no say in them."""
    keys: Mapping[str, object] = {
        "bridge.name": "Demo",
        "database.url": plan.database_url,
        "sources.demo.base_url": places.upstream,
        "sources.demo.api_key": DEFAULT_API_KEY,
        "sources.demo.requests_per_second": 0,
        "polling.interval": "1s",
        "rooms": [{"id": room_id, "name": name} for room_id, name in plan.rooms.items()],
        "endpoints": [{"name": "receiver", "url": places.receiver, "secret": secret, "events": ["*"]}],
        "delivery.retry_schedule": ["1s", "2s", "5s"],
        "delivery.allow_private_networks": [f"{LOOPBACK}/32"],
        "web.listen": f"{LOOPBACK}:0",
    }
    return load(None, {}, keys)


def _room_name(assign_sequences: int) -> str:
    return ROOM_NAMES[assign_sequences] if assign_sequences < len(ROOM_NAMES) else f"Room {assign_sequences + 1}"

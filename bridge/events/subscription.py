"""Which endpoint gets which event: the one rule behind raising cursors, sending, counting and replaying.

An event can be addressed to fewer endpoints than want it. `events.audience` stores that as a number: null is every
endpoint, 0 is none, a positive key is that endpoint only, a negative one is every other endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from bridge.events.types import EventType, matches

NO_ENDPOINT: Final = 0


def only(endpoint_key: int) -> int:
    """The audience of one endpoint."""
    return endpoint_key


def all_but(endpoint_key: int) -> int:
    """The audience of every endpoint but one."""
    return -endpoint_key


def includes(audience: int | None, endpoint_key: int) -> bool:
    """Whether an endpoint belongs to an audience. `bridge.db.event_log.is_in_audience` is the same in SQL."""
    return audience is None or audience == endpoint_key or (audience < 0 and audience != -endpoint_key)


@dataclass(frozen=True, slots=True)
class Subscription:
    """The events that an endpoint wants: globs over event types and over room ids."""

    endpoint_key: int
    types: tuple[str, ...]
    rooms: tuple[str, ...]

    def wants(self, event_type: str, room_id: str | None, audience: int | None = None) -> bool:
        """Whether the endpoint gets an event; events of the bridge itself have no room (None)."""
        is_wanted = event_type in self.event_types and self.wants_room(room_id)
        return is_wanted and includes(audience, self.endpoint_key)

    def wants_room(self, room_id: str | None) -> bool:
        return room_id is None or matches(room_id, self.rooms)

    @property
    def event_types(self) -> tuple[str, ...]:
        """The types that its globs match."""
        return wanted_types(self.types)


@lru_cache(maxsize=1024)
def wanted_types(globs: tuple[str, ...]) -> tuple[str, ...]:
    """The event types that one of the globs matches."""
    return tuple(known.value for known in EventType if matches(known, globs))


def subscription(endpoint_key: int, types: Iterable[str], rooms: Iterable[str]) -> Subscription:
    """A subscription from the JSON lists of a row of `endpoints`."""
    return Subscription(endpoint_key, tuple(types), tuple(rooms))

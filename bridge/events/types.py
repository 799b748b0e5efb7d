"""Types of events, and globs over them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from fnmatch import fnmatchcase


class EventType(StrEnum):
    """The types of events (docs/events.md)."""

    PEER_JOINED = "peer.joined"
    PEER_LEFT = "peer.left"
    ROOM_EMPTY = "room.empty"
    ROOM_OCCUPIED = "room.occupied"
    PEER_UPDATED = "peer.updated"
    ROOM_SNAPSHOT = "room.snapshot"
    SESSION_RECONCILED = "session.reconciled"
    SOURCE_UNAVAILABLE = "source.unavailable"
    SOURCE_RECOVERED = "source.recovered"
    ENDPOINT_DISABLED = "endpoint.disabled"
    ENDPOINT_RECOVERED = "endpoint.recovered"
    AUDIT_CHECKPOINT = "audit.checkpoint"
    PERSON_ERASED = "person.erased"


DEFAULT_TYPES = (EventType.PEER_JOINED, EventType.PEER_LEFT, EventType.ROOM_EMPTY)
"""Types for an endpoint that names none."""


def matches(value: str, globs: Iterable[str]) -> bool:
    """Whether one of the globs matches a type or room id (case-sensitive)."""
    return any(glob in ("*", value) or fnmatchcase(value, glob) for glob in globs)


OWN_LOG = ("source.*", "endpoint.*", "audit.*", "person.*")
"""Types about the bridge itself, which belong to no room."""
OF_BRIDGE = frozenset(kind for kind in EventType if matches(kind, OWN_LOG))
"""The same, one by one."""

"""Checks of a receiver beside the signature: repeated ids, and sequences that do not go up by one.

Only verified deliveries are remembered, so that a forged one can neither cause nor hide a remark. Replays and tests
were requested by a person and are outside the order of their room.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from typing import TypeVar

from bridge.cli.parse_event import ParsedEvent
from bridge.cli.receiver import Delivery

REMEMBERED = 10_000
"""Event ids, and rooms."""

Value = TypeVar("Value")


class SeenDeliveries:
    """The bodies by event id, and the newest sequence of each room."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[str, bytes] = OrderedDict()
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._gap_is_explained = False

    def add(self, event_id: str, event: ParsedEvent, delivery: Delivery) -> list[str]:
        """Remember a verified delivery and return the remarks on it."""
        marks = [mark for mark in ("test", "replay") if delivery.headers.get(f"bridge-{mark}") == "true"]
        repeated = self._check_id(event_id, delivery.body)
        return marks + repeated or self._check_sequence(event)

    def _check_id(self, event_id: str, body: bytes) -> list[str]:
        before, digest = self._bodies.get(event_id), sha256(body).digest()
        _remember(self._bodies, event_id, digest)
        if before is None:
            return []
        return ["duplicate: this id was received before" + ("" if before == digest else ", with ANOTHER BODY")]

    def _check_sequence(self, event: ParsedEvent) -> list[str]:
        if event.room_id is None or event.sequence is None:
            return []
        newest = self._newest.get(event.room_id)
        _remember(self._newest, event.room_id, max(event.sequence, newest or 0))
        if newest is None or event.sequence == newest + 1:
            return []
        if event.sequence <= newest:
            return [f"out of order: after #{newest}"]
        hint = "" if self._gap_is_explained else " (normal if the endpoint takes only some types of events)"
        self._gap_is_explained = True
        return [f"gap after #{newest}{hint}"]


def _remember(memory: OrderedDict[str, Value], key: str, value: Value) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)

"""What a receiver should notice beside the signature: ids that come again, numbers that do not go up by one.

Only verified deliveries are remembered, so a forged one can neither hide a remark nor cause one. A replay and a test
were asked for by a person: they stand outside the order of their room.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from typing import TypeVar

from bridge.cli.parse_event import Facts
from bridge.cli.receiver import Delivery

REMEMBERED = 10_000
"""How many ids, and how many rooms."""

Value = TypeVar("Value")


class Memory:
    """What came before."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[str, bytes] = OrderedDict()
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._gap_explained = False

    def remarks(self, event_id: str, facts: Facts, delivery: Delivery) -> list[str]:
        """Remember a verified delivery, and say what is to be said of it."""
        marks = [word for word in ("test", "replay") if delivery.headers.get(f"bridge-{word}") == "true"]
        repetition = self._repetition(event_id, delivery.body)
        if marks or repetition:
            return marks + repetition
        return self._order(facts)

    def _repetition(self, event_id: str, body: bytes) -> list[str]:
        before, digest = self._bodies.get(event_id), sha256(body).digest()
        _keep(self._bodies, event_id, digest)
        if before is None:
            return []
        return ["duplicate: this id came before" + ("" if before == digest else ", but with ANOTHER BODY")]

    def _order(self, facts: Facts) -> list[str]:
        if facts.room_id is None or facts.sequence is None:
            return []
        newest = self._newest.get(facts.room_id)
        _keep(self._newest, facts.room_id, max(facts.sequence, newest or 0))
        if newest is None or facts.sequence == newest + 1:
            return []
        if facts.sequence <= newest:
            return [f"out of order: #{newest} came before"]
        return [f"gap: #{newest} came before" + self._explain_gap()]

    def _explain_gap(self) -> str:
        if self._gap_explained:
            return ""
        self._gap_explained = True
        return " (as it should be, if the endpoint takes only some types of events)"


def _keep(memory: OrderedDict[str, Value], key: str, value: Value) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)

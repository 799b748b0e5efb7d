"""Was anybody lied to? Compares what the receiver was told with the log, and with what was true in the rooms.

The checks are those of any receiver with access to the truth: every number of every room's log once and in order, the
same bytes under the same id, nobody who was never there, and at the end the same people in the same rooms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bridge.cli.demo_receiver import Received
from bridge.simulator.rooms import Room, What

HAPPENINGS = {"peer.left": What.LEAVE, "peer.updated": What.METADATA, "room.empty": What.END}
"""What in a room's history an event is about, where the event itself cannot know the moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomFindings:
    """One room: what its deliveries say (`told`), and what is true; peer ids."""

    room_id: str
    head: int
    """The last number of its log."""
    told: frozenset[str]
    true: frozenset[str]
    problems: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is missing and nothing is wrong."""
        return not self.problems


def examine(room: Room, head: int, received: Iterable[Received]) -> RoomFindings:
    """Compare one room's deliveries with its log and with the truth."""
    accepted = [delivery for delivery in received if delivery.facts.room_id == room.room_id and delivery.accepted]
    fresh = list({delivery.facts.event_id: delivery for delivery in reversed(accepted)}.values())[::-1]
    told, true = _replay(fresh), frozenset(room.present)
    problems = [*_gaps(fresh, head), *_inventions(room, fresh)]
    if told != true:
        problems.append(f"says that {len(told)} are there, and it is {len(true)}")
    return RoomFindings(room_id=room.room_id, head=head, told=told, true=true, problems=tuple(problems))


def changed_bodies(received: Iterable[Received]) -> list[str]:
    """Events whose body was not the same every time."""
    first: dict[str, bytes] = {}
    return [
        f"{delivery.facts.event_id} came again with another body"
        for delivery in received
        if first.setdefault(delivery.facts.event_id, delivery.delivery.body) != delivery.delivery.body
    ]


def happened_at(room: Room, received: Received) -> int | None:
    """When what a delivery tells really happened (epoch milliseconds); None if that cannot be said."""
    what = HAPPENINGS.get(received.facts.type)
    if what is None:
        return None
    peer_id = received.event["data"].get("peer_id")
    moments = (past.at for past in reversed(room.history) if past.what is what and past.peer_id == peer_id)
    return next(moments, None)


def _gaps(fresh: Sequence[Received], head: int) -> list[str]:
    numbers = [delivery.facts.sequence for delivery in fresh]
    missing = sorted(set(range(1, head + 1)).difference(number for number in numbers if number is not None))
    if missing:
        return ["was not delivered: " + ", ".join(f"#{number}" for number in missing)]
    if numbers != list(range(1, head + 1)):
        return [f"came in the order {numbers}"]
    return []


def _inventions(room: Room, fresh: Iterable[Received]) -> list[str]:
    truth = Counter((past.what, past.peer_id) for past in room.history)
    kinds: Mapping[str, What] = {"peer.joined": What.JOIN, "peer.left": What.LEAVE}
    said = Counter(
        (kinds[delivery.facts.type], delivery.event["data"]["peer_id"])
        for delivery in fresh
        if delivery.facts.type in kinds
    )
    return [f"tells of a {what} of {peer_id} that never was" for what, peer_id in said - truth]


def _replay(fresh: Iterable[Received]) -> frozenset[str]:
    present: set[str] = set()
    for delivery in fresh:
        match delivery.facts.type:
            case "peer.joined":
                present.add(delivery.event["data"]["peer_id"])
            case "peer.left":
                present.discard(delivery.event["data"]["peer_id"])
    return frozenset(present)

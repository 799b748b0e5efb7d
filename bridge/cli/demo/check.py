"""Was anybody lied to? Compares what the receiver was told with the log, and with what is true in the rooms.

The checks are those of a receiver with access to the truth: every assign_sequences of every room's log, once and in order; the
same bytes under the same id; nobody who was never there; and at the end the same people in the same rooms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bridge.cli.demo.receiver import Received
from bridge.rules.presence import display_name
from bridge.simulator.rooms import ChangeKind, Room

KINDS: Mapping[str, ChangeKind] = {
    "peer.joined": ChangeKind.JOIN,
    "peer.left": ChangeKind.LEAVE,
    "peer.updated": ChangeKind.METADATA,
    "room.empty": ChangeKind.END,
}
"""What in the true history of a room an event tells of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomFindings:
    """One room: `head` is the last assign_sequences of its log, `names` are those who are in it."""

    name: str
    head: int
    names: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything; `true` counts what happened, `told` the events that were accepted."""

    rooms: tuple[RoomFindings, ...]
    true: Counter[ChangeKind]
    told: Counter[str]
    delays: tuple[timedelta, ...]
    requests: int
    unverified: int
    again: int
    problems: tuple[str, ...]
    """Of the rooms too."""

    @property
    def good(self) -> bool:
        """Whether everything was told, and everything that was told is true."""
        return not self.problems and not self.unverified


def examine(
    rooms: Mapping[str, Room], names: Mapping[str, str], heads: Mapping[str, int], received: Sequence[Received]
) -> Findings:
    """Compare all deliveries with the logs, whose last numbers are `heads`, and with the truth."""
    accepted = _accepted_once(received)
    found = tuple(
        _examine_room(room, names[room_id], heads[room_id], [one for one in accepted if one.facts.room_id == room_id])
        for room_id, room in rooms.items()
    )
    problems = [f"{room.name}: {problem}" for room in found for problem in room.problems]
    delays = [delay(rooms, one) for one in accepted]
    return Findings(
        rooms=found,
        true=Counter(past.kind for room in rooms.values() for past in room.history),
        told=Counter(one.facts.type for one in accepted),
        delays=tuple(span for span in delays if span is not None),
        requests=len(received),
        unverified=sum(one.unverified is not None for one in received),
        again=sum(one.again for one in received),
        problems=(*problems, *_changed_bodies(received), *([] if accepted else ["nothing was delivered"])),
    )


def delay(rooms: Mapping[str, Room], received: Received) -> timedelta | None:
    """How long after it truly happened a delivery arrived; None if nobody can say."""
    room, kind = rooms.get(received.facts.room_id or ""), KINDS.get(received.facts.type)
    if room is None or kind is None:
        return None
    peer_id = received.event["data"].get("peer_id")
    arrived = received.at
    moments = (_moment(past.at) for past in reversed(room.history) if past.kind is kind and past.peer_id == peer_id)
    return next((arrived - moment for moment in moments if moment <= arrived), None)


def _examine_room(room: Room, name: str, head: int, accepted: Sequence[Received]) -> RoomFindings:
    told, true = _replay(accepted), room.present.keys()
    problems = [*_gaps(accepted, head), *_inventions(room, accepted)]
    problems += [f"{peer_id} is there, but no delivery says so" for peer_id in sorted(true - told)]
    problems += [f"{peer_id} is there by the deliveries, but not in truth" for peer_id in sorted(told - true)]
    names = tuple(display_name(visit.metadata) or visit.peer_id for visit in room.present.values())
    return RoomFindings(name=name, head=head, names=names, problems=tuple(problems))


def _accepted_once(received: Iterable[Received]) -> list[Received]:
    first: dict[str, Received] = {}
    for one in received:
        if one.accepted:
            first.setdefault(one.facts.event_id, one)
    return list(first.values())


def _gaps(accepted: Iterable[Received], head: int) -> list[str]:
    numbers = [one.facts.sequence for one in accepted if one.facts.sequence is not None]
    missing = sorted(set(range(1, head + 1)).difference(numbers))
    if missing:
        return ["never delivered: " + ", ".join(f"#{assign_sequences}" for assign_sequences in missing)]
    return [] if numbers == list(range(1, head + 1)) else [f"not in order: {numbers}"]


def _inventions(room: Room, accepted: Iterable[Received]) -> list[str]:
    true = Counter((past.kind, past.peer_id) for past in room.history)
    told = Counter(
        (KINDS[one.facts.type], one.event["data"].get("peer_id")) for one in accepted if one.facts.type in KINDS
    )
    return [f"told of a {kind} of {peer_id} that never was" for kind, peer_id in told - true]


def _replay(accepted: Iterable[Received]) -> set[str]:
    there: set[str] = set()
    for one in accepted:
        match one.facts.type:
            case "peer.joined":
                there.add(one.event["data"]["peer_id"])
            case "peer.left":
                there.discard(one.event["data"]["peer_id"])
            case _:
                pass
    return there


def _changed_bodies(received: Iterable[Received]) -> list[str]:
    first: dict[str, bytes] = {}
    changed = {
        one.facts.event_id: None
        for one in received
        if one.unverified is None and first.setdefault(one.facts.event_id, one.delivery.body) != one.delivery.body
    }
    return [f"{event_id} came again with another body" for event_id in changed]


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)

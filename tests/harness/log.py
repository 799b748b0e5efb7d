"""Checks of a log of events, from whichever receiver or database; and who is where according to it.

The rules are those of docs/events.md, written a second time deliberately: this file imports nothing of
the bridge, so that it cannot share a mistake with it. Each check returns problems in words; an empty list is good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.harness.receiver import Event

VISIT_KEYS = {
    "source", "room_id", "room_name", "session_id", "sequence", "visit_id", "peer_id", "person_key", "display_name",
    "joined_at", "joined_at_source", "peer_count", "initial", "observed_at", "metadata",
}  # fmt: skip
OCCUPIED_KEYS = {"source", "room_id", "room_name", "session_id", "sequence", "started_at", "peer_count", "observed_at"}
KEYS: Mapping[str, set[str]] = {
    "peer.joined": VISIT_KEYS,
    "peer.updated": VISIT_KEYS | {"previous_metadata"},
    "peer.left": VISIT_KEYS
    | {"left_at", "left_at_source", "last_seen_at", "duration_seconds", "uncertainty_seconds", "leave_reason"},
    "room.occupied": OCCUPIED_KEYS,
    "room.empty": OCCUPIED_KEYS
    | {"ended_at", "duration_seconds", "uncertainty_seconds", "unique_peers", "peak_peer_count", "visit_count"}
    | {"empty_reason"},
    "room.snapshot": {
        "source", "room_id", "room_name", "session_id", "sequence", "peer_count", "observed_at",
        "part", "parts", "peers",
    },
    "session.reconciled": {
        "source", "room_id", "room_name", "session_id", "sequence", "started_at", "ended_at", "observed_at", "visits",
    },
}  # fmt: skip


def by_room(events: Iterable[Event]) -> dict[str, list[Event]]:
    """Return the events of each room in the order of `sequence`, each id once."""
    rooms: dict[str, dict[str, Event]] = defaultdict(dict)
    for event in events:
        rooms[str(event["data"]["room_id"])].setdefault(event["id"], event)
    return {room: sorted(found.values(), key=lambda event: event["data"]["sequence"]) for room, found in rooms.items()}


def replay(events: Iterable[Event]) -> dict[str, set[str]]:
    """Return the peers in each room, from nothing but the joined and left events."""
    return {room: set(_Replay(room, found).run().present) for room, found in by_room(events).items()}


def log_problems(events: Iterable[Event]) -> list[str]:
    """Return the problems of the rooms' logs: numbering, alternation, sessions, counts, keys."""
    return [problem for room, found in by_room(events).items() for problem in _Replay(room, found).run().problems]


@dataclass(slots=True)
class _Session:
    started: Event
    visits: int = 0
    peak: int = 0
    peers: set[str] = field(default_factory=set)


class _Replay:
    """Goes through one room's events; `problems` has what does not fit."""

    def __init__(self, room: str, events: Sequence[Event]) -> None:
        self.room = room
        self.events = events
        self.present: dict[str, str] = {}
        """Visit ids of the peers in the room, by peer id."""
        self.problems: list[str] = []
        self._session: _Session | None = None
        self._ended: set[str] = set()
        self._visits: set[str] = set()
        self._snapshot_peers: set[Any] = set()

    def run(self) -> _Replay:
        for number, event in enumerate(self.events, start=1):
            facts = event["data"]
            if facts["sequence"] != number:
                self._note(event, f"is where number {number} should be")
            if (wanted := KEYS.get(event["type"])) is not None and wanted != facts.keys():
                self._note(event, f"has the wrong keys: {sorted(wanted ^ facts.keys())}")
            self._follow(event)
        return self

    def _follow(self, event: Event) -> None:
        match event["type"]:
            case "room.occupied":
                self._occupied(event)
            case "peer.joined":
                self._joined(event)
            case "peer.updated":
                self._expect(event, event["data"]["visit_id"] == self.present.get(event["data"]["peer_id"]), "no visit")
                self._in_session(event)
            case "peer.left":
                self._left(event)
            case "room.empty":
                self._emptied(event)
            case "room.snapshot":
                self._snapshot(event)
            case "session.reconciled":
                self._expect(event, event["data"]["session_id"] in self._ended, "its session has not ended")
            case _:
                pass  # the other types are not about presence

    def _snapshot(self, event: Event) -> None:
        self._snapshot_peers |= _peers(event)
        if event["data"]["part"] == event["data"]["parts"]:
            self._expect(event, self.present.keys() == self._snapshot_peers, f"differs from the log: {self.present}")
            self._snapshot_peers = set()

    def _occupied(self, event: Event) -> None:
        self._expect(event, self._session is None, "the session before has not ended")
        self._expect(event, not self.present, f"but there were already {sorted(self.present)}")
        self._expect(event, event["data"]["session_id"] not in self._ended, "reuses a session id")
        self._expect(event, event["data"]["peer_count"] == self._first_arrivals(event), "peer_count is wrong")
        self._session = _Session(event)

    def _first_arrivals(self, event: Event) -> int:
        observed_at = event["data"]["observed_at"]
        return sum(
            other["type"] == "peer.joined" and other["data"]["observed_at"] == observed_at for other in self.events
        )

    def _joined(self, event: Event) -> None:
        facts = event["data"]
        self._expect(event, facts["peer_id"] not in self.present, "was already there")
        self._expect(event, facts["visit_id"] not in self._visits, "reuses a visit id")
        self._expect(event, event["timestamp"] == facts["joined_at"], "timestamp is not joined_at")
        self.present[facts["peer_id"]] = facts["visit_id"]
        self._visits.add(facts["visit_id"])
        self._counted(event)
        self._in_session(event)
        if self._session is not None:
            self._session.visits += 1
            self._session.peers.add(facts["peer_id"])
            self._session.peak = max(self._session.peak, len(self.present))

    def _left(self, event: Event) -> None:
        facts = event["data"]
        self._expect(event, self.present.pop(facts["peer_id"], None) == facts["visit_id"], "no such visit was open")
        self._expect(event, event["timestamp"] == facts["left_at"], "timestamp is not left_at")
        self._expect(event, facts["last_seen_at"] <= facts["left_at"], "left before it was last seen")
        self._counted(event)
        self._in_session(event)

    def _emptied(self, event: Event) -> None:
        facts = event["data"]
        self._expect(event, not self.present, f"but there are still {sorted(self.present)}")
        self._expect(event, event["timestamp"] == facts["ended_at"], "timestamp is not ended_at")
        self._counted(event)
        self._in_session(event)
        if (session := self._session) is not None:
            counted = (session.visits, len(session.peers), session.peak)
            found = (facts["visit_count"], facts["unique_peers"], facts["peak_peer_count"])
            self._expect(event, found == counted, f"has {found} visits, peers, peak; the log has {counted}")
        self._ended.add(facts["session_id"])
        self._session = None

    def _counted(self, event: Event) -> None:
        self._expect(event, event["data"]["peer_count"] == len(self.present), f"but there are {len(self.present)}")

    def _in_session(self, event: Event) -> None:
        session = None if self._session is None else self._session.started["data"]["session_id"]
        self._expect(event, event["data"]["session_id"] == session, f"is not of the session under way ({session})")

    def _expect(self, event: Event, condition: bool, otherwise: str) -> None:  # noqa: FBT001 - it reads as a sentence
        if not condition:
            self._note(event, otherwise)

    def _note(self, event: Event, what: str) -> None:
        facts = {key: event["data"].get(key) for key in ("sequence", "peer_id", "peer_count") if key in event["data"]}
        self.problems.append(f"{self.room}: {event['type']} {facts}: {what}")


def _peers(event: Event) -> set[Any]:
    return {peer["peer_id"] for peer in event["data"]["peers"]}

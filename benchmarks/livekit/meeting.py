"""Participants of a real livekit-server that come and go, and the truth about them: when each was there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from threading import Thread

from tests.harness.livekit import LiveKitServer, Participants


@dataclass(slots=True)
class Visit:
    """One connection, in Unix seconds; `left_at` is None if it was killed: only LiveKit knows that time."""

    room: str
    identity: str
    joined_at: float
    left_at: float | None = None
    ended_at: float = 0.0
    """Disconnected or killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Ranges of stays and absences in seconds, and the share of visits that end by a kill."""

    stay: tuple[float, float]
    away: tuple[float, float]
    killed: float = 0.0


@dataclass(slots=True)
class Meeting:
    """The visits so far, by sid; `failed` counts connections that were not made."""

    visits: dict[str, Visit] = field(default_factory=dict)
    failed: int = 0

    @contextmanager
    def running(self, server: LiveKitServer, groups: Sequence[tuple[str, Sequence[str]]], pace: Pace) -> Iterator[None]:
        """Let groups of a room come and go, each in a process of its own, until the block ends; then all leave."""
        stopping: list[bool] = []
        threads = [
            Thread(target=self._come_and_go, args=(server, room, names, pace, Random(number), stopping))  # noqa: S311
            for number, (room, names) in enumerate(groups)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopping.append(True)
            for thread in threads:
                thread.join()

    def _come_and_go(
        self,
        server: LiveKitServer,
        room: str,
        names: Sequence[str],
        pace: Pace,
        rng: Random,
        stopping: Sequence[bool],
    ) -> None:
        while not stopping:
            with Participants(server, room) as people:
                try:
                    while not stopping and self._visit(people, room, names, pace, rng):
                        time.sleep(rng.uniform(*pace.away))
                except (AssertionError, OSError):
                    self.failed += len(names)

    def _visit(self, people: Participants, room: str, names: Sequence[str], pace: Pace, rng: Random) -> bool:
        """One visit of the group; returns whether its process still runs."""
        sids = people.join(*names)
        now = time.time()
        for identity, sid in sids.items():
            self.visits[sid] = Visit(room, identity, now)
        time.sleep(rng.uniform(*pace.stay))
        ends_by_kill, now = rng.random() < pace.killed, time.time()
        for sid in sids.values():
            self.visits[sid].ended_at = now
            self.visits[sid].left_at = None if ends_by_kill else now
        if ends_by_kill:
            people.kill()
            return False
        people.leave(*names)
        return True

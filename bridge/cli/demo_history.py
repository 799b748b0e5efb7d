"""The hour before a demo begins: a crowd by a clock that runs fast, polled by the rules of the bridge.

So the dashboard has sessions, timelines and attendance to show from the first second on. No endpoint is subscribed yet,
so nothing of it is delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from bridge.db.engine import Database
from bridge.db.schema import ensure_schema
from bridge.polling.claim import claim_rooms
from bridge.polling.plan import ClaimedRoom, Poll, PollingSettings
from bridge.polling.record import record_polls
from bridge.polling.rooms import RoomSpec, add_room
from bridge.runtime import Runtime
from bridge.simulator import Simulation, documents
from bridge.simulator.crowd import Crowd
from bridge.sources.huddle01.responses import interpret

LENGTH: Final = timedelta(hours=1)
STEP: Final = timedelta(seconds=20)
"""Between two polls of all rooms; in each, one person comes, goes, or drops out."""


@dataclass(slots=True)
class DemoClock:
    """The simulation's clock: set by hand, until it is released."""

    at: datetime | None

    def milliseconds(self) -> int:
        return int((self.at or datetime.now(UTC)).timestamp() * 1000)


async def record_past_hour(
    database_url: str,
    rooms: Sequence[RoomSpec],
    simulation: Simulation,
    crowd: Crowd,
    clock: DemoClock,
    runtime: Runtime,
) -> None:
    """Let an hour pass in the simulation, which ends now, and record its polls."""
    database = Database(database_url)
    try:
        await asyncio.to_thread(_record, database, rooms, simulation, crowd, clock, runtime)
    finally:
        database.close()
    clock.at = None


def _record(
    database: Database,
    rooms: Sequence[RoomSpec],
    simulation: Simulation,
    crowd: Crowd,
    clock: DemoClock,
    runtime: Runtime,
) -> None:
    ensure_schema(database)
    end = runtime.now()
    now = end - LENGTH
    clock.at = now
    for room in rooms:
        database.write_now(add_room, room, now, runtime.new_id)
    while now < end:
        crowd.step()
        polls = [_poll(room, simulation, now) for room in _claimed(database, rooms[0].source, len(rooms), now)]
        if polls:
            database.write_now(record_polls, polls, settings=PollingSettings(), new_id=runtime.new_id)
        now += STEP
        clock.at = now


def _claimed(database: Database, source: str, count: int, now: datetime) -> Sequence[ClaimedRoom]:
    return database.write_now(claim_rooms, source, requests_per_second=0, limit=count, now=now, token="history")  # noqa: S106 - of a claim


def _poll(room: ClaimedRoom, simulation: Simulation, now: datetime) -> Poll:
    response = documents.participants(simulation.room(room.upstream_id).present.values())
    result = interpret(200, {}, documents.encode(response), now)
    return Poll(room=room, started_at=now, at=now, result=result, jitter=0.5)

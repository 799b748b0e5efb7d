"""One poll that an operator asked for: claim, fencing and T2 are those of the poller, but the room need not be due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from sqlalchemy import Connection

from bridge.db.engine import Database
from bridge.db.visits import load_presence
from bridge.errors import BridgeError
from bridge.polling.claim import claim_room
from bridge.polling.plan import ClaimedRoom, Poll, PollingSettings, RecordedPoll, Skipped
from bridge.polling.record import record_polls
from bridge.polling.rooms import find_room
from bridge.rules.presence import Failure, Presence, Snapshot
from bridge.runtime import Runtime
from bridge.sources.protocol import Source, SourceSettings

RETRY_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomPresence:
    """A tracked room as the next poll finds it."""

    source: str
    leave_after_missed: int | None
    presence: Presence


def room_presence(
    connection: Connection, room_id: str, source: str | None = None, *, seen: Collection[str] = ()
) -> RoomPresence:
    """Stored presence of a tracked room, ready to be compared with the peers that were `seen`.

    Raises:
        NotFoundError: the room is not tracked, or several sources have one of that id.
    """
    row = find_room(connection, room_id, source)
    presence = load_presence(connection, [row], seen)[row.id]
    return RoomPresence(source=row.source, leave_after_missed=row.leave_after_missed, presence=presence)


async def poll_now(
    database: Database,
    account: SourceSettings,
    source: Source,
    room_id: str,
    *,
    settings: PollingSettings,
    runtime: Runtime,
    token: str,
    on_wait: Callable[[], None] = lambda: None,
) -> tuple[Poll, RecordedPoll]:
    """Claim the room, ask its source, record the result.

    A poll of the room that is under way is waited for; `on_wait` is called once then. `token` is that of the claim.

    Raises:
        NotFoundError: the room is not tracked.
        ConflictError: the room is disabled.
        BridgeError: the source is rate-limited, or another process took the room over.
    """
    claimed = await _claim(database, account, room_id, runtime, token, on_wait)
    started_at = runtime.now()
    result: Snapshot | Failure | Skipped = Skipped()
    try:
        result = await source.fetch(room_id)
    finally:  # after a cancellation too: the room is released at once
        at, jitter = runtime.now(), runtime.jitter()
        poll = Poll(room=claimed, started_at=started_at, at=at, result=result, jitter=jitter)
        (recorded,) = await database.write(record_polls, [poll], settings=settings, new_id=runtime.new_id)
    if recorded.fenced:
        raise BridgeError(f"another process polled room {room_id!r} meanwhile, so nothing was written: try again")
    return poll, recorded


async def _claim(
    database: Database,
    account: SourceSettings,
    room_id: str,
    runtime: Runtime,
    token: str,
    on_wait: Callable[[], None],
) -> ClaimedRoom:
    has_waited = False
    while True:
        claimed = await database.write(
            claim_room,
            room_id,
            account.name,
            requests_per_second=account.requests_per_second,
            now=runtime.now(),
            token=token,
        )
        if claimed is not None:
            return claimed
        if not has_waited:
            on_wait()
            has_waited = True
        await asyncio.sleep(RETRY_SECONDS)

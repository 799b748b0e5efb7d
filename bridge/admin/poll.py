"""One poll that a person asked for: by command, or by `POST /rooms/{id}/poll`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from bridge.admin.listing import document
from bridge.admin.rooms import PresentPeer, joined, present_peer
from bridge.db.engine import Database
from bridge.errors import BridgeError, ConflictError
from bridge.events.bodies import draft, rfc3339
from bridge.polling.plan import PollingSettings, Skipped
from bridge.polling.poll_now import poll_now, room_presence
from bridge.rules.presence import Change, Failure, Presence, Snapshot
from bridge.runtime import Runtime
from bridge.sources.kinds import open_source
from bridge.sources.protocol import SourceSettings

NO_SESSION: Final = "the upstream knows of no session in this room"


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """The response, the presence `after` it, and what changed."""

    room_id: str
    source: str
    at: datetime
    response: Snapshot | Failure
    after: Presence
    changes: tuple[Change, ...] = ()
    event_count: int = 0

    @property
    def outcome(self) -> str:
        match self.response:
            case Failure(kind=kind):
                return kind.value
            case Snapshot(complete=complete):
                return "complete" if complete else "incomplete"

    @property
    def notes(self) -> list[str]:
        """Oddities of the response. A missing session is one: the id of the room may be wrong."""
        if isinstance(self.response, Failure):
            return []
        return [*self.response.notes, *([NO_SESSION] if self.response.no_session else [])]

    @property
    def peers(self) -> list[PresentPeer]:
        return sorted(map(present_peer, self.after.visits.values()), key=joined)

    @property
    def facts(self) -> dict[str, Any]:
        """The result as JSON."""
        response, peers = self.response, self.peers
        return {
            "room_id": self.room_id,
            "source": self.source,
            "polled_at": rfc3339(self.at),
            "outcome": self.outcome,
            "detail": response.detail if isinstance(response, Failure) else None,
            "notes": self.notes,
            "peer_count": len(peers),
            "peers": [document(peer) for peer in peers],
            "changes": [
                {"type": change.type.value, "timestamp": rfc3339(change.timestamp), **change.facts}
                for change in (draft(change, self.at) for change in self.changes)
            ],
            "event_count": self.event_count,
        }


async def poll_room(
    database: Database,
    accounts: Iterable[SourceSettings],
    room_id: str,
    source: str | None,
    *,
    settings: PollingSettings,
    runtime: Runtime,
    token: str,
    on_wait: Callable[[], None] = lambda: None,
) -> PollResult:
    """Claim the room, ask its source, record the response.

    Args:
        database: where the room is.
        accounts: the configured sources.
        room_id: its id.
        source: its source, if several have a room of this id.
        settings: of polls.
        runtime: clock, ids and chance.
        token: of the claim; its worker must live.
        on_wait: called once if another poll of the room is under way, which is waited for.

    Raises:
        NotFoundError: the room is not tracked.
        ConflictError: its source is no longer configured.
        BridgeError: it cannot be polled now.
    """
    stored = await database.read(room_presence, room_id, source)
    account = {one.name: one for one in accounts}.get(stored.source)
    if account is None:
        raise ConflictError(f"room {room_id!r}: its source {stored.source!r} is no longer in the configuration")
    opened = open_source(account, runtime.now)
    try:
        poll, recorded = await poll_now(
            database, account, opened, room_id, settings=settings, runtime=runtime, token=token, on_wait=on_wait
        )
    finally:
        await opened.aclose()
    if isinstance(poll.result, Skipped):
        raise BridgeError(f"the poll of room {room_id!r} was interrupted; nothing was written: try again")
    after = await database.read(room_presence, room_id, account.name)
    return PollResult(
        room_id=room_id,
        source=account.name,
        at=poll.at,
        response=poll.result,
        after=after.presence,
        changes=recorded.changes,
        event_count=recorded.event_count,
    )

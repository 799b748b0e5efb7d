"""One poll that an operator asked for: claim, fence and T2 are those of the poller, but the room need not be due."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection

from bridge.db.visits import load_presence
from bridge.polling.rooms import find_room
from bridge.rules.presence import Presence


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

"""The JSON documents and the responses of the upstream: shapes only. Times are epoch milliseconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bridge.simulator.rooms import Json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bridge.simulator.rooms import Room, Session, Visit

Document = dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One HTTP response: a JSON `document`, or `raw` bytes in place of it."""

    status: int = 200
    document: Json = None
    raw: bytes | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The bytes on the wire."""
        return encode(self.document) if self.raw is None else self.raw


def encode(document: Json) -> bytes:
    """Return JSON as JavaScript writes it: compact, non-ASCII unescaped except for lone surrogates."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


def failure(status: int, message: str) -> Response:
    """An error in the form that most routes use."""
    return Response(status=status, document={"ok": False, "message": message})


UNAUTHORIZED = Response(
    status=401, document={"message": "Incorrect or no API key provided", "ok": False, "validated": False}
)
NO_SESSION = failure(404, "Session Not Found")
NOT_LIVE = failure(404, "No live sessions found for this room id")
NO_ROOM_DETAILS = Response(status=404, document={"message": "Room Not Found", "code": "BAD_REQUEST"})
NO_ROOM = Response(status=404, document={"message": "Room Not Found"})
NO_SUCH_SESSION = Response(status=404, document={"message": "Session Not Found"})
NOT_FOUND = Response(status=404, raw=b"404 Not Found", content_type="text/plain; charset=utf-8")
ROOT = Response(document={"ok": True, "message": "Simulated Huddle01 API"})


def invalid(field_name: str, expected: str, received: str) -> Response:
    """The response to an invalid query parameter, in the form of the validation library that the upstream uses."""
    message = "Required" if received == "undefined" else f"Expected {expected}, received {received}"
    issue: Document = {
        "code": "invalid_type",
        "expected": expected,
        "received": received,
        "path": [field_name],
        "message": message,
    }
    return Response(status=400, document={"success": False, "error": {"issues": [issue]}})


def participants(visits: Iterable[Visit]) -> Document:
    items: list[Json] = [
        {"peerId": visit.peer_id, "joinTime": visit.joined_at, "metadata": visit.metadata} for visit in visits
    ]
    return {"count": len(items), "participants": items}


def live_sessions(rooms: Iterable[Room]) -> Document:
    sessions: list[Json] = [
        {"roomId": room.room_id, "startTime": session.started_at, "livestreamCount": 0, "recordingCount": 0}
        for room in rooms
        if (session := room.session) is not None
    ]
    return {"liveSessions": sessions}


def live_session(room: Room, session: Session) -> Document:
    """The session under way of one room: an object, not an array."""
    return {
        "liveSessions": {
            "roomId": room.room_id,
            "startTime": session.started_at,
            "currentPeerCount": len(room.present),
            "livestreamCount": 0,
            "recordingCount": 0,
        }
    }


def rooms_page(rooms: Sequence[Room], *, limit: int, cursor: int) -> Document:
    """One page of a project's rooms; `cursor` counts pages from 0, `count` all rooms."""
    shown = rooms[cursor * limit : (cursor + 1) * limit]
    items: list[Json] = [
        {"roomId": room.room_id, "createdAt": room.created_at, "roomLocked": False, "metadata": room.metadata}
        for room in shown
    ]
    return {
        "rooms": items,
        "pageSize": len(items),
        "current": cursor,
        "nextCursor": cursor + 1 if (cursor + 1) * limit < len(rooms) else None,
        "prevCursor": cursor - 1 if cursor > 0 else None,
        "count": len(rooms),
    }


def room_details(room: Room) -> Document:
    return {"roomId": room.room_id, "roomLocked": False, "metadata": room.metadata}


def sessions_page(room: Room, *, limit: int, cursor: int) -> Document:
    """One page of a room's sessions, newest first; the one under way has no `endTime`."""
    newest_first = room.sessions[::-1]
    items: list[Json] = [
        {"sessionId": session.session_id, "startTime": session.started_at, "endTime": session.ended_at}
        for session in newest_first[cursor * limit : (cursor + 1) * limit]
    ]
    return {"sessions": items}


def session_participants(session: Session) -> Document:
    """The upstream's record of a session: one item per visit, with `exitTime` once it is over."""
    items: list[Json] = []
    for visit in session.visits:
        item: Document = {"peerId": visit.peer_id, "joinTime": visit.joined_at, "metadata": visit.metadata}
        items.append(item if visit.left_at is None else {**item, "exitTime": visit.left_at})
    return {"participants": items}

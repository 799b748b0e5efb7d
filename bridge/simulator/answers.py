"""What the upstream says: the documents of upstream.md 1.1, and the response that carries one.

Shapes only; routes.py decides which is asked for, upstream.py which is due. Times are epoch milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from bridge.simulator.rooms import Json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bridge.simulator.rooms import Room, Session, Visit

Document = dict[str, Json]

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"


class Manner(StrEnum):
    """How an response travels; only the first way is the upstream's intention."""

    WHOLE = "whole"
    CUT = "cut"
    RESET = "reset"
    SILENT = "silent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One HTTP response: a JSON `document`, or `raw` bytes in its place."""

    status: int = 200
    document: Json = None
    raw: bytes | None = None
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)
    manner: Manner = Manner.WHOLE
    silent_seconds: float | None = None
    """How long a SILENT response holds the line before it closes; None: until the caller hangs up."""

    @property
    def body(self) -> bytes:
        """The bytes on the wire."""
        return encode(self.document) if self.raw is None else self.raw


def encode(document: Json) -> bytes:
    """JSON as JavaScript writes it: compact, non-ASCII as it is, lone surrogates (alone) escaped."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


def page(status: int, title: str) -> Response:
    """An HTML page of the kind that proxies put in the upstream's place."""
    text = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return Response(status=status, raw=text.encode(), content_type=HTML_TYPE)


def refusal(status: int, message: str) -> Response:
    """An error of the form that most routes use."""
    return Response(status=status, document={"ok": False, "message": message})


UNAUTHORIZED = Response(
    status=401, document={"message": "Incorrect or no API key provided", "ok": False, "validated": False}
)
NO_SESSION = refusal(404, "Session Not Found")
NOT_LIVE = refusal(404, "No live sessions found for this room id")
NO_ROOM_DETAILS = Response(status=404, document={"message": "Room Not Found", "code": "BAD_REQUEST"})
NO_ROOM = Response(status=404, document={"message": "Room Not Found"})
NO_SUCH_SESSION = Response(status=404, document={"message": "Session Not Found"})
NOWHERE = Response(status=404, raw=b"404 Not Found", content_type=TEXT_TYPE)
NOBODY_BYTES = encode({"count": 0, "participants": []})


def invalid(field_name: str, expected: str, received: str) -> Response:
    """A refusal of one field of a request, in the form of the validation library that the upstream uses."""
    message = "Required" if received == "undefined" else f"Expected {expected}, received {received}"
    issue: Document = {
        "code": "invalid_type",
        "expected": expected,
        "received": received,
        "path": [field_name],
        "message": message,
    }
    return Response(status=400, document={"success": False, "error": {"issues": [issue]}})


def participants(visits: Iterable[Visit], when: int) -> Document:
    """Who is in the room at `when`."""
    items: list[Json] = [_participant(visit, when) for visit in visits]
    return {"count": len(items), "participants": items}


def _participant(visit: Visit, when: int) -> Document:
    item: Document = {"peerId": visit.peer_id}
    if visit.says_join_time:
        item["joinTime"] = visit.join_time
    if visit.says_metadata:
        item["metadata"] = visit.metadata_at(when)
    return item


def live_sessions(rooms: Iterable[Room]) -> Document:
    """The rooms with a session under way."""
    sessions: list[Json] = [
        {"roomId": room.room_id, "startTime": session.started_at, "livestreamCount": 0, "recordingCount": 0}
        for room in rooms
        if (session := room.session) is not None
    ]
    return {"liveSessions": sessions}


def live_session(room: Room, session: Session) -> Document:
    """One room's session under way; an object, not an array."""
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
    """One page of the project's rooms; `cursor` counts pages from 0, `count` all rooms."""
    shown = rooms[cursor * limit : (cursor + 1) * limit]
    items: list[Json] = [
        {"roomId": room.room_id, "createdAt": room.created_at, "roomLocked": room.locked, "metadata": room.metadata}
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
    """A room, whether live or not."""
    return {"roomId": room.room_id, "roomLocked": room.locked, "metadata": room.metadata}


def sessions_page(room: Room, *, limit: int, cursor: int) -> Document:
    """One page of a room's sessions, newest first; the one under way has no `endTime` yet."""
    newest_first = room.sessions[::-1]
    items: list[Json] = [
        {"sessionId": session.session_id, "startTime": session.started_at, "endTime": session.ended_at}
        for session in newest_first[cursor * limit : (cursor + 1) * limit]
    ]
    return {"sessions": items}


def session_participants(session: Session) -> Document:
    """The upstream's own record of a session: one item per visit, with `exitTime` once it is over."""
    return {"participants": [_visit_on_record(visit) for visit in session.visits]}


def _visit_on_record(visit: Visit) -> Document:
    said = visit.join_time
    item: Document = {
        "peerId": visit.peer_id,
        "joinTime": round(said) if isinstance(said, int | float) else visit.joined_at,
        "metadata": visit.metadata,
    }
    if visit.left_at is not None:
        item["exitTime"] = visit.left_at
    return item


def created(room: Room) -> Response:
    """The response to the creation of a room."""
    return Response(status=201, document={"message": "Room Created Successfully", "data": {"roomId": room.room_id}})


def metrics(rooms: Iterable[Room], now: int) -> Document:
    """The project's totals; the unit of `totalDuration` is not documented, milliseconds here."""
    sessions = [session for room in rooms for session in room.sessions]
    return {
        "totalSessions": len(sessions),
        "totalDuration": sum((session.ended_at or now) - session.started_at for session in sessions),
        "totalUsers": sum(len(session.visits) for session in sessions),
        "recordingCount": 0,
        "livestreamCount": 0,
    }

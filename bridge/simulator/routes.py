"""Which question a request under `/api/v2/sdk` asks (upstream.md 1.1, and whatever else the official SDK calls)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qsl, unquote

API_PATH = "/api/v2/sdk"


class Route(StrEnum):
    """The questions that the upstream answers."""

    ROOT = "root"
    PARTICIPANTS = "participants"
    LIVE_SESSIONS = "live sessions"
    LIVE_SESSION = "live session"
    ROOMS = "rooms"
    ROOM_DETAILS = "room details"
    SESSIONS = "sessions"
    SESSION_PARTICIPANTS = "session participants"
    CREATE_ROOM = "create room"
    METRICS = "metrics"
    RECORDINGS = "recordings"
    NOWHERE = "nowhere"


ROUTES_WITH_ROOM = (
    ("/live-sessions/participants/", Route.PARTICIPANTS),
    ("/live-sessions/", Route.LIVE_SESSION),
    ("/rooms/room-details/", Route.ROOM_DETAILS),
)

ROUTES = {
    ("GET", ""): Route.ROOT,
    ("GET", "/live-sessions"): Route.LIVE_SESSIONS,
    ("GET", "/rooms/get-rooms"): Route.ROOMS,
    ("GET", "/rooms/session-details"): Route.SESSIONS,
    ("GET", "/rooms/participant-list"): Route.SESSION_PARTICIPANTS,
    ("GET", "/rooms/participant-lists"): Route.SESSION_PARTICIPANTS,
    ("POST", "/rooms/create-room"): Route.CREATE_ROOM,
    ("GET", "/metrics"): Route.METRICS,
    ("GET", "/recordings"): Route.RECORDINGS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A request understood. `room_id` is what the path or the query names, decoded; `api_key` is "" if none came."""

    route: Route
    room_id: str | None = None
    api_key: str = field(default="", repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def read_request(method: str, target: str, *, api_key: str = "", body: bytes = b"") -> Target:
    """Understand a request by its method and its request target, as it stood on the wire (still percent-encoded)."""
    path, _, raw_query = target.partition("?")
    query = dict(parse_qsl(raw_query, keep_blank_values=True)) if raw_query else {}
    route, room_id = _find_route(method, path)
    if route is Route.SESSIONS:
        room_id = query.get("roomId")
    return Target(route=route, room_id=room_id, api_key=api_key, query=query, body=body)


def _find_route(method: str, path: str) -> tuple[Route, str | None]:
    if not path.startswith(API_PATH):
        return Route.NOWHERE, None
    rest = path[len(API_PATH) :]
    for prefix, route in ROUTES_WITH_ROOM if method == "GET" else ():
        room = rest[len(prefix) :] if rest.startswith(prefix) else ""
        if room and "/" not in room:
            return route, unquote(room)
    return ROUTES.get((method, rest), Route.NOWHERE), None

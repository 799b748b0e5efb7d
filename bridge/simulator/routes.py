"""The routes under `/api/v2/sdk` that the bridge and the official SDK read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qsl, unquote

API_PATH = "/api/v2/sdk"


class Route(StrEnum):
    """The kinds of request that the upstream serves, and `UNKNOWN` for all others."""

    ROOT = "root"
    PARTICIPANTS = "participants"
    LIVE_SESSIONS = "live sessions"
    LIVE_SESSION = "live session"
    ROOMS = "rooms"
    ROOM_DETAILS = "room details"
    SESSIONS = "sessions"
    SESSION_PARTICIPANTS = "session participants"
    UNKNOWN = "unknown"


ROUTES_WITH_ROOM = (
    ("/live-sessions/participants/", Route.PARTICIPANTS),
    ("/live-sessions/", Route.LIVE_SESSION),
    ("/rooms/room-details/", Route.ROOM_DETAILS),
)

ROUTES = {
    "": Route.ROOT,
    "/live-sessions": Route.LIVE_SESSIONS,
    "/rooms/get-rooms": Route.ROOMS,
    "/rooms/session-details": Route.SESSIONS,
    "/rooms/participant-list": Route.SESSION_PARTICIPANTS,
    "/rooms/participant-lists": Route.SESSION_PARTICIPANTS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The target of a request. `room_id` is from the path or the query, decoded; `api_key` is "" if none was sent."""

    route: Route
    room_id: str | None = None
    api_key: str = field(default="", repr=False)
    query: Mapping[str, str] = field(default_factory=dict)


def read_target(target: str, *, api_key: str = "") -> Target:
    """Parse the target of a GET request, as it was on the wire (still percent-encoded)."""
    path, _, raw_query = target.partition("?")
    query = dict(parse_qsl(raw_query, keep_blank_values=True)) if raw_query else {}
    route, room_id = _find_route(path)
    if route is Route.SESSIONS:
        room_id = query.get("roomId")
    return Target(route=route, room_id=room_id, api_key=api_key, query=query)


def _find_route(path: str) -> tuple[Route, str | None]:
    if not path.startswith(API_PATH):
        return Route.UNKNOWN, None
    rest = path[len(API_PATH) :]
    for prefix, route in ROUTES_WITH_ROOM:
        room = rest[len(prefix) :] if rest.startswith(prefix) else ""
        if room and "/" not in room:
            return route, unquote(room)
    return ROUTES.get(rest, Route.UNKNOWN), None

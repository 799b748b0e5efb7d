"""The response to a request, from its `Target` and the state of the simulation.

Benchmarks ask for the participants of a room, so their bytes are kept until the room changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.simulator import documents
from bridge.simulator.documents import Response
from bridge.simulator.routes import Route, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.simulator.simulation import Simulation

DEFAULT_PAGE_SIZE = 10


def respond(simulation: Simulation, target: Target) -> Response:
    """Return the response to a request."""
    if target.route is Route.UNKNOWN:
        return documents.NOT_FOUND
    if target.api_key not in simulation.api_keys:
        return documents.UNAUTHORIZED
    return RESPONSES[target.route](simulation, target)


def _root(_simulation: Simulation, _target: Target) -> Response:
    return documents.ROOT


def _participants(simulation: Simulation, target: Target) -> Response:
    room = simulation.owned_room(target.room_id or "", target.api_key)
    if room is None or room.session is None:
        return documents.NO_SESSION
    if room.listing is None:
        room.listing = documents.encode(documents.participants(room.present.values()))
    return Response(raw=room.listing)


def _live_sessions(simulation: Simulation, target: Target) -> Response:
    return Response(document=documents.live_sessions(simulation.owned_rooms(target.api_key)))


def _live_session(simulation: Simulation, target: Target) -> Response:
    room = simulation.owned_room(target.room_id or "", target.api_key)
    if room is None or room.session is None:
        return documents.NOT_LIVE
    return Response(document=documents.live_session(room, room.session))


def _rooms(simulation: Simulation, target: Target) -> Response:
    page = _page(target)
    if isinstance(page, Response):
        return page
    limit, cursor = page
    return Response(document=documents.rooms_page(simulation.owned_rooms(target.api_key), limit=limit, cursor=cursor))


def _room_details(simulation: Simulation, target: Target) -> Response:
    room = simulation.owned_room(target.room_id or "", target.api_key)
    return documents.NO_ROOM_DETAILS if room is None else Response(document=documents.room_details(room))


def _sessions(simulation: Simulation, target: Target) -> Response:
    page = _page(target)
    if isinstance(page, Response):
        return page
    if target.room_id is None:
        return documents.invalid("roomId", "string", "undefined")
    room = simulation.owned_room(target.room_id, target.api_key)
    if room is None:
        return documents.NO_ROOM
    limit, cursor = page
    return Response(document=documents.sessions_page(room, limit=limit, cursor=cursor))


def _session_participants(simulation: Simulation, target: Target) -> Response:
    session_id = target.query.get("sessionId")
    if session_id is None:
        return documents.invalid("sessionId", "string", "undefined")
    session = simulation.owned_session(session_id, target.api_key)
    if session is None:
        return documents.NO_SUCH_SESSION
    return Response(document=documents.session_participants(session))


def _page(target: Target) -> tuple[int, int] | Response:
    numbers = {"limit": DEFAULT_PAGE_SIZE, "cursor": 0}
    for name in numbers:
        text = target.query.get(name)
        if text is None:
            continue
        if not (text.isascii() and text.isdigit()):
            return documents.invalid(name, "number", "nan")
        numbers[name] = int(text)
    return max(numbers["limit"], 1), numbers["cursor"]


RESPONSES: dict[Route, Callable[[Simulation, Target], Response]] = {
    Route.ROOT: _root,
    Route.PARTICIPANTS: _participants,
    Route.LIVE_SESSIONS: _live_sessions,
    Route.LIVE_SESSION: _live_session,
    Route.ROOMS: _rooms,
    Route.ROOM_DETAILS: _room_details,
    Route.SESSIONS: _sessions,
    Route.SESSION_PARTICIPANTS: _session_participants,
}

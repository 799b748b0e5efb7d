"""The response that is due to a request, faults included: from a Target and the state of the simulation to an Response.

The participants of a room are what benchmarks ask for, so without faults their bytes are kept until somebody moves.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bridge.simulator import answers
from bridge.simulator.answers import Response
from bridge.simulator.breakages import break_answer
from bridge.simulator.distortions import distort
from bridge.simulator.faults import Fault, FaultKind, Scope
from bridge.simulator.model import EmptyAs, Simulation
from bridge.simulator.routes import Route, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bridge.simulator.rooms import Json

DEFAULT_PAGE_SIZE = 10
STALE_SECONDS = 30.0
SLOW_SECONDS = 1.0


def room_asked_for(simulation: Simulation, target: Target) -> str | None:
    """The room that a request is about, also where it names only a session."""
    if target.route is Route.SESSION_PARTICIPANTS:
        return simulation.room_of_session(target.query.get("sessionId", ""))
    return target.room_id


def choose_faults(simulation: Simulation, target: Target) -> list[Fault]:
    """The faults that act on this request; each queueing one that does is a turn nearer to its end."""
    if not simulation.faults:
        return []
    return simulation.faults.take(room_asked_for(simulation, target), _scopes(simulation, target))


def delay_of(faults: Sequence[Fault]) -> float:
    """Seconds to wait before the response is looked up: a slow upstream tells the truth of the moment it answers."""
    return sum(fault.seconds_or(SLOW_SECONDS) for fault in faults if fault.kind is FaultKind.SLOW)


def answer_with(simulation: Simulation, target: Target, faults: Sequence[Fault]) -> Response:
    """What the upstream answers while these faults are at work."""
    if not faults:
        return _response(simulation, target)
    stale = sum(fault.seconds_or(STALE_SECONDS) for fault in faults if fault.kind is FaultKind.STALE)
    if target.route is Route.PARTICIPANTS:
        response = _participants_at(simulation, target, when=simulation.clock.now() - round(stale * 1000))
    else:
        response = _response(simulation, target)
    if response.status < 300 and isinstance(response.document, dict):  # noqa: PLR2004 - HTTP's classes of status
        for fault in faults:
            distort(response.document, fault, simulation.wire_chance)
    for fault in reversed(faults):
        response = break_answer(response, fault)
    return response


def _scopes(simulation: Simulation, target: Target) -> set[Scope]:
    scopes = {Scope.ANY}
    if target.api_key not in simulation.api_keys:
        return scopes
    room = simulation.owned_room(target.room_id or "", target.api_key)
    if target.route is Route.PARTICIPANTS:
        live = room is not None and room.session is not None
        scopes |= {Scope.PARTICIPANTS} if room is not None else set()
        scopes |= set() if live else {Scope.NO_SESSION}
        if live or (room is not None and simulation.settings.empty_as is EmptyAs.EMPTY_LIST):
            scopes.add(Scope.LIST)
    elif target.route is Route.LIVE_SESSION and room is not None and room.session is not None:
        scopes.add(Scope.LIVE_SESSION)
    return scopes


def _response(simulation: Simulation, target: Target) -> Response:
    if target.route is not Route.NOWHERE and target.api_key not in simulation.api_keys:
        return answers.UNAUTHORIZED
    return ANSWERS[target.route](simulation, target)


def _nowhere(_simulation: Simulation, _target: Target) -> Response:
    return answers.NOWHERE


def _root(_simulation: Simulation, _target: Target) -> Response:
    return Response(document={"ok": True, "message": "Simulated Huddle01 API"})


def _participants_now(simulation: Simulation, target: Target) -> Response:
    room = simulation.owned_room(target.room_id or "", target.api_key)
    if room is None:
        return answers.NO_SESSION
    if room.session is None:
        return _no_session(simulation)
    if room.listing is None:
        room.listing = answers.encode(answers.participants(room.present.values(), simulation.clock.now()))
    return Response(raw=room.listing)


def _participants_at(simulation: Simulation, target: Target, *, when: int) -> Response:
    if target.api_key not in simulation.api_keys:
        return answers.UNAUTHORIZED
    room = simulation.owned_room(target.room_id or "", target.api_key)
    if room is None:
        return answers.NO_SESSION
    visits = room.visits_at(when)
    return _no_session(simulation) if visits is None else Response(document=answers.participants(visits, when))


def _no_session(simulation: Simulation) -> Response:
    match simulation.settings.empty_as:
        case EmptyAs.NOT_FOUND:
            return answers.NO_SESSION
        case EmptyAs.EMPTY_LIST:
            return Response(document=answers.participants([], when=0))


def _live_session(simulation: Simulation, target: Target) -> Response:
    room = simulation.owned_room(target.room_id or "", target.api_key)
    session = None if room is None else room.session
    if room is None or session is None:
        return answers.NOT_LIVE
    return Response(document=answers.live_session(room, session))


def _live_sessions(simulation: Simulation, target: Target) -> Response:
    return Response(document=answers.live_sessions(simulation.owned_rooms(target.api_key)))


def _rooms(simulation: Simulation, target: Target) -> Response:
    asked = _page_asked_for(target)
    if isinstance(asked, Response):
        return asked
    limit, cursor = asked
    return Response(document=answers.rooms_page(simulation.owned_rooms(target.api_key), limit=limit, cursor=cursor))


def _room_details(simulation: Simulation, target: Target) -> Response:
    room = simulation.owned_room(target.room_id or "", target.api_key)
    return answers.NO_ROOM_DETAILS if room is None else Response(document=answers.room_details(room))


def _sessions(simulation: Simulation, target: Target) -> Response:
    asked = _page_asked_for(target)
    if isinstance(asked, Response):
        return asked
    if target.room_id is None:
        return answers.invalid("roomId", "string", "undefined")
    room = simulation.owned_room(target.room_id, target.api_key)
    limit, cursor = asked
    return (
        answers.NO_ROOM if room is None else Response(document=answers.sessions_page(room, limit=limit, cursor=cursor))
    )


def _session_participants(simulation: Simulation, target: Target) -> Response:
    session_id = target.query.get("sessionId")
    if session_id is None:
        return answers.invalid("sessionId", "string", "undefined")
    session = simulation.owned_session(session_id, target.api_key)
    return answers.NO_SUCH_SESSION if session is None else Response(document=answers.session_participants(session))


def _create_room(simulation: Simulation, target: Target) -> Response:
    try:
        asked: Json = json.loads(target.body or b"{}")
    except ValueError:
        return answers.invalid("body", "object", "string")
    if not isinstance(asked, dict):
        return answers.invalid("body", "object", "array" if isinstance(asked, list) else type(asked).__name__)
    locked = asked.get("roomLocked", False)
    if not isinstance(locked, bool):
        return answers.invalid("roomLocked", "boolean", "string" if isinstance(locked, str) else "other")
    room = simulation.add_room(api_key=target.api_key, metadata=asked.get("metadata"), locked=locked)
    return answers.created(room)


def _metrics(simulation: Simulation, target: Target) -> Response:
    return Response(document=answers.metrics(simulation.owned_rooms(target.api_key), simulation.clock.now()))


def _recordings(_simulation: Simulation, _target: Target) -> Response:
    return Response(document={"recordings": [], "nextCursor": None})


def _page_asked_for(target: Target) -> tuple[int, int] | Response:
    numbers = {"limit": DEFAULT_PAGE_SIZE, "cursor": 0}
    for name in numbers:
        said = target.query.get(name)
        if said is None:
            continue
        if not (said.isascii() and said.isdigit()):
            return answers.invalid(name, "assign_sequences", "nan")
        numbers[name] = int(said)
    return max(numbers["limit"], 1), numbers["cursor"]


ANSWERS: dict[Route, Callable[[Simulation, Target], Response]] = {
    Route.NOWHERE: _nowhere,
    Route.ROOT: _root,
    Route.PARTICIPANTS: _participants_now,
    Route.LIVE_SESSIONS: _live_sessions,
    Route.LIVE_SESSION: _live_session,
    Route.ROOMS: _rooms,
    Route.ROOM_DETAILS: _room_details,
    Route.SESSIONS: _sessions,
    Route.SESSION_PARTICIPANTS: _session_participants,
    Route.CREATE_ROOM: _create_room,
    Route.METRICS: _metrics,
    Route.RECORDINGS: _recordings,
}

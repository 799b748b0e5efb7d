"""The control API, `/_control`: how tests and people move the simulated runtime and read_health at the truth in it.

JSON in, JSON out, no key. A request that cannot be carried out changes nothing and is answered `{"error": …}`:
400 if it is not understood, 404 if it names what does not exist.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qs, unquote

from pydantic import Field, ValidationError

from bridge.errors import BridgeError, NotFoundError, UsageError
from bridge.simulator.answers import Response
from bridge.simulator.faults import Fault
from bridge.simulator.model import EmptyAs
from bridge.simulator.steps import Asked, perform, perform_all, problems_of, read_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.simulator.model import Simulation
    from bridge.simulator.rooms import Json, Room

CONTROL_PATH = "/_control"


class _NewRoom(Asked):
    room_id: str | None = None
    api_key: str | None = None
    metadata: Any = None


class _Faults(Asked):
    faults: list[Fault]
    room: str | None = None


class _Settings(Asked):
    end_lag_seconds: float | None = Field(default=None, ge=0)
    empty_as: Annotated[EmptyAs | None, Field(strict=False)] = None


class _Clock(Asked):
    now: int | None = None
    advance_ms: int = Field(default=0, ge=0)


def control(simulation: Simulation, method: str, target: str, body: bytes) -> Response:
    """Carry out one request of the control API; `target` as it stood on the wire."""
    path, _, query = target.removeprefix(CONTROL_PATH).partition("?")
    try:
        return _dispatch(simulation, method, [unquote(part) for part in path.split("/")[1:]], query, _read_json(body))
    except NotFoundError as error:
        return Response(status=404, document={"error": str(error)})
    except ValidationError as error:
        return Response(status=400, document={"error": "; ".join(map(str, problems_of(error)))})
    except BridgeError as error:
        return Response(status=400, document={"error": str(error)})


def _dispatch(simulation: Simulation, method: str, parts: list[str], query: str, body: dict[str, Json]) -> Response:
    match method, *parts:
        case "GET", "rooms", room_id:
            return Response(document=_truth(simulation.room(room_id)))
        case "GET", "requests":
            return _list_requests(simulation, query)
        case "POST", "rooms", room_id, verb:
            return Response(document=perform(simulation, read_step({**body, "do": verb, "room": room_id})))
        case method, name if (method, name) in ROUTES:
            return ROUTES[method, name](simulation, body)
        case _:
            raise NotFoundError(f"the control API has no {method} {CONTROL_PATH}/{'/'.join(parts)}")


def _read_json(body: bytes) -> dict[str, Json]:
    try:
        document = json.loads(body or b"{}")
    except ValueError as error:
        raise UsageError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise UsageError("the body is not a JSON object")
    return document


def _truth(room: Room) -> dict[str, Json]:
    peers: list[Json] = [
        {"peerId": visit.peer_id, "joinTime": visit.join_time, "metadata": visit.metadata}
        for visit in room.present.values()
    ]
    history: list[Json] = [
        {"at": happening.at, "what": happening.what.value, "peerId": happening.peer_id} for happening in room.history
    ]
    session = room.session
    return {
        "room_id": room.room_id,
        "live": session is not None,
        "session_id": None if session is None else session.session_id,
        "peers": peers,
        "history": history,
    }


def _create_room(simulation: Simulation, body: dict[str, Json]) -> Response:
    asked = _NewRoom.model_validate(body)
    room = simulation.add_room(asked.room_id, api_key=asked.api_key, metadata=asked.metadata)
    return Response(status=201, document={"room_id": room.room_id})


def _list_rooms(simulation: Simulation, _body: dict[str, Json]) -> Response:
    return Response(document=[_truth(simulation.room(room_id)) for room_id in simulation.rooms])


def _run_script(simulation: Simulation, body: dict[str, Json]) -> Response:
    steps = body.get("steps")
    if not isinstance(steps, list):
        raise UsageError('a script is {"steps": [{"room": …, "do": …}, …]}')
    return Response(document={"results": perform_all(simulation, [read_step(step) for step in steps])})


def _replace_faults(simulation: Simulation, body: dict[str, Json]) -> Response:
    asked = _Faults.model_validate(body)
    simulation.faults.replace(asked.faults, room_id=asked.room)
    return Response(document={"ok": True})


def _clear_faults(simulation: Simulation, _body: dict[str, Json]) -> Response:
    simulation.faults.clear()
    return Response(document={"ok": True})


def _change_settings(simulation: Simulation, body: dict[str, Json]) -> Response:
    asked = _Settings.model_validate(body)
    settings = simulation.settings
    if asked.end_lag_seconds is not None:
        settings.end_lag_seconds = asked.end_lag_seconds
    if asked.empty_as is not None:
        settings.empty_as = asked.empty_as
    return Response(document={"end_lag_seconds": settings.end_lag_seconds, "empty_as": settings.empty_as.value})


def _list_requests(simulation: Simulation, query: str) -> Response:
    since = parse_qs(query).get("since", ["0"])[-1]
    if not since.isdigit():
        raise UsageError(f"since is the assign_sequences of a request, not {since!r}")
    return Response(document=[asked_for.as_json() for asked_for in simulation.requests.since(int(since))])


def _clear_requests(simulation: Simulation, _body: dict[str, Json]) -> Response:
    simulation.requests.clear()
    return Response(document={"ok": True})


def _take_clock(simulation: Simulation, body: dict[str, Json]) -> Response:
    asked = _Clock.model_validate(body)
    if asked.now is not None:
        simulation.clock.set_to(asked.now)
    simulation.clock.advance(asked.advance_ms)
    return Response(document={"now": simulation.clock.now()})


ROUTES: dict[tuple[str, str], Callable[[Simulation, dict[str, Json]], Response]] = {
    ("POST", "rooms"): _create_room,
    ("GET", "rooms"): _list_rooms,
    ("POST", "script"): _run_script,
    ("PUT", "faults"): _replace_faults,
    ("DELETE", "faults"): _clear_faults,
    ("PUT", "settings"): _change_settings,
    ("DELETE", "requests"): _clear_requests,
    ("POST", "clock"): _take_clock,
}

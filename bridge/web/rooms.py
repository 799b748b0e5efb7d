"""Tracked rooms and their peers: list, add, remove, poll."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from bridge.admin.listing import document
from bridge.admin.poll import poll_room
from bridge.admin.presence import list_peers
from bridge.admin.rooms import (
    ListedRoom,
    PresentPeer,
    RoomState,
    ShownRoom,
    add_manual_room,
    list_rooms,
    remove_manual_room,
    show_room,
)
from bridge.config.cross import source_problem
from bridge.config.models import Count, Label, PositiveDuration, RoomId, Table
from bridge.polling.rooms import RoomSpec
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.paging import ByName, Items, NewestFirst, page_response
from bridge.web.params import SourceOfRoom
from bridge.web.problems import invalid
from bridge.web.routing import api_router
from bridge.web.state import AppState, State

router = api_router(tags=["rooms"])

SourceFilter = Annotated[str | None, Query(description="Only rooms of this source.")]
StateFilter = Annotated[RoomState | None, Query(alias="state", description="Only rooms in this state.")]


class NewRoom(Table):
    """A room to track; what is left out is as in `[polling]`, the source is the only one."""

    room_id: RoomId
    name: Label | None = None
    source: str | None = None
    interval: PositiveDuration | None = None
    leave_after_missed: Count | None = None

    def spec(self, source: str) -> RoomSpec:
        return RoomSpec(
            source=source,
            upstream_id=self.room_id,
            name=self.name,
            interval=self.interval,
            leave_after_missed=self.leave_after_missed,
        )


class PolledRoom(BaseModel):
    """Result of a poll and its changes; `outcome` is `complete`, `incomplete` or a kind of failure."""

    room_id: str
    source: str
    polled_at: datetime
    outcome: str
    detail: str | None
    notes: list[str]
    peer_count: int
    peers: list[PresentPeer]
    changes: list[dict[str, Any]]
    event_count: int


@router.get("/rooms", dependencies=[requires(Scope.READ)], response_model=Items[ListedRoom])
async def list_tracked(
    state: State, page: ByName, source: SourceFilter = None, in_state: StateFilter = None
) -> Response:
    """Tracked rooms, by source and id."""
    return page_response(await state.database.read(list_rooms, page, source=source, state=in_state))


@router.post(
    "/rooms",
    dependencies=[requires(Scope.WRITE)],
    response_model=ShownRoom,
    status_code=201,
    responses={200: {"model": ShownRoom, "description": "It was tracked already; its settings are changed."}},
)
async def add(state: State, room: NewRoom) -> Response:
    """Track a room (201), or change the settings of one that was added before (200)."""
    spec, polling = room.spec(_source_of(room, state)), state.settings().polling
    runtime = state.runtime
    is_new = await state.database.write_aside(add_manual_room, spec, polling, runtime.now(), runtime.new_id)
    shown = await state.database.read(show_room, spec.upstream_id, spec.source)
    return JSONResponse(document(shown), 201 if is_new else 200)


@router.get("/rooms/{room_id}", dependencies=[requires(Scope.READ)], response_model=ShownRoom)
async def show(state: State, room_id: str, source: SourceOfRoom = None) -> Response:
    """A room with its session and its peers."""
    return JSONResponse(document(await state.database.read(show_room, room_id, source)))


@router.delete("/rooms/{room_id}", dependencies=[requires(Scope.WRITE)], status_code=204)
async def remove(state: State, room_id: str, source: SourceOfRoom = None) -> None:
    """Stop tracking a room that was added by hand. Its peers leave as `unwatched`; its log stays."""
    runtime = state.runtime
    await state.database.write_aside(remove_manual_room, room_id, source, runtime.now(), runtime.new_id)


@router.get("/rooms/{room_id}/peers", dependencies=[requires(Scope.READ)], response_model=Items[PresentPeer])
async def list_present(state: State, room_id: str, page: NewestFirst, source: SourceOfRoom = None) -> Response:
    """The peers in a room, as stored; those who joined last first."""
    return page_response(await state.database.read(list_peers, room_id, source, page))


@router.post("/rooms/{room_id}/poll", dependencies=[requires(Scope.WRITE)], response_model=PolledRoom)
async def poll(state: State, room_id: str, source: SourceOfRoom = None) -> Response:
    """Poll a room now; a poll that is under way is waited for. A failed poll is an outcome, and changes nothing."""
    settings = state.settings()
    with state.claim_token() as token:
        result = await poll_room(
            state.database,
            settings.sources,
            room_id,
            source,
            settings=settings.polling,
            runtime=state.runtime,
            token=token,
        )
    return JSONResponse(result.facts)


def _source_of(room: NewRoom, state: AppState) -> str:
    sources = [account.name for account in state.settings().sources]
    if (problem := source_problem(room.source, sources)) is not None:
        raise invalid(problem, "body", "source")
    return room.source or sources[0]

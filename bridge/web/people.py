"""Erasure of a person."""

from __future__ import annotations

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from bridge.attendance.privacy import WAL_SECONDS, Person, erase_person
from bridge.errors import BridgeError
from bridge.logs import get_logger
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.problems import ProblemError
from bridge.web.routing import api_router
from bridge.web.state import State

log = get_logger("bridge.web")
router = api_router(tags=["people"])


class ErasedVisits(BaseModel):
    """Number of visits that have lost their names; 0 if the key is unknown."""

    visits: int


@router.delete("/people/{key}", dependencies=[requires(Scope.ADMIN)], response_model=ErasedVisits)
async def erase(state: State, key: str) -> Response:
    """Erase a person for good: names, metadata, and the bodies of all events about them. 409 while they are present."""
    runtime = state.runtime
    erased = await state.database.write_aside(erase_person, Person(key=key), runtime.now(), runtime.new_id)
    log.info("person.erased", visits=erased.visits, events=erased.events)
    try:
        await state.database.run(lambda: state.database.truncate_wal(WAL_SECONDS))
    except BridgeError as error:
        raise ProblemError(503, f"erased, but copies remain for now: {error}", {"Retry-After": "60"}) from None
    return JSONResponse({"visits": erased.visits})

"""`POST /pokes/{source}`: the upstream's own webhook. It only makes a room due for a poll."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from fastapi import Request
from fastapi.responses import Response

from bridge.errors import NotFoundError, VerificationError
from bridge.logs import get_logger
from bridge.metrics import PokeOutcome
from bridge.polling.rooms import discover_rooms, is_polled, make_due
from bridge.sources.kinds import poke_reader
from bridge.sources.protocol import Poke, SourceSettings
from bridge.web.auth import OPEN
from bridge.web.problems import MEDIA_TYPE, ProblemError
from bridge.web.routing import api_router
from bridge.web.state import AppState, State

LARGEST_POKE: Final = 256 * 1024

log = get_logger("bridge.web")
router = api_router("", tags=["pokes"])


@router.post(
    "/pokes/{source}",
    dependencies=[OPEN],
    status_code=202,
    response_class=Response,
    responses={
        401: {
            "description": "The upstream did not sign it, or too long ago.",
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    },
)
async def poke(request: Request, state: State, source: str) -> Response:
    """The upstream's own webhook, signed with the key of the source: the room that it names is polled at once."""
    account = {one.name: one for one in state.settings().sources}.get(source)
    read = None if account is None else poke_reader(account.kind)
    if account is None or read is None:
        raise NotFoundError(f"there is no source {source!r}, or its kind has no messages of its own")
    body = await request.body()
    if len(body) > LARGEST_POKE:
        raise ProblemError(413, f"the body is larger than {LARGEST_POKE} bytes")
    now, count = state.runtime.now(), state.metrics.count_poke
    try:
        found = read(account, request.headers, body, now)
    except VerificationError as error:
        count(source, PokeOutcome.REFUSED)
        log.info("poke.refused", source=source, detail=str(error))
        raise ProblemError(401, str(error), {"WWW-Authenticate": "Signature"}) from None
    outcome = await _take(state, account, found, now)
    count(source, outcome)
    log.debug("poke.received", source=source, room=found.room_id, outcome=outcome.value)
    return Response(status_code=202)


async def _take(state: AppState, account: SourceSettings, found: Poke, now: datetime) -> PokeOutcome:
    """Make the room due, unless the same message has done so already."""
    if found.room_id is None:
        return PokeOutcome.NO_ROOM
    if state.seen_pokes.has(account.name, found.fingerprint):
        return PokeOutcome.REPEATED
    is_due = await state.database.look(is_polled, account.name, found.room_id)
    if is_due:
        await state.database.write(make_due, account.name, found.room_id, now, found.expected)
    elif found.may_be_live and account.discovers(found.room_id):
        is_due = bool(await state.database.write(discover_rooms, account.name, {found.room_id: None}, now))
    if is_due:
        state.wake_poller()
    state.seen_pokes.add(account.name, found.fingerprint, now)
    return PokeOutcome.DUE if is_due else PokeOutcome.UNTRACKED

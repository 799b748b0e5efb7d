"""REST hooks: subscriptions of automation platforms, which use different names for the URL."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi.responses import JSONResponse, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bridge.admin.listing import document
from bridge.compose import endpoint_context
from bridge.config.checks import check_event_glob, check_room_id
from bridge.delivery.hooks import AddedHook, add_hook, remove_hook
from bridge.delivery.snapshots import append_snapshots
from bridge.events.types import DEFAULT_TYPES
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.endpoint_bodies import check_address
from bridge.web.problems import invalid
from bridge.web.routing import api_router
from bridge.web.state import State

router = api_router(tags=["hooks"])

URL_KEYS: Final = ("url", "target_url", "targetUrl", "hookUrl")


def _if_any(text: str) -> str:
    """Accept no event, or a glob: a field that was left empty is sent as an empty text."""
    return check_event_glob(text) if text else text


def _room_if_any(text: str) -> str:
    return check_room_id(text) if text else text


class NewHook(BaseModel):
    """A subscription: `url` under one of its names; other keys are ignored."""

    model_config = ConfigDict(strict=True)

    url: str | None = None
    target_url: str | None = None
    targetUrl: str | None = None  # noqa: N815 - as platforms send it
    hookUrl: str | None = None  # noqa: N815
    event: Annotated[
        str | None,
        AfterValidator(lambda text: text if text is None else _if_any(text)),
        Field(description="A type of events; left out: peer.joined, peer.left, room.empty."),
    ] = None
    room_id: Annotated[
        str | None,
        AfterValidator(lambda text: text if text is None else _room_if_any(text)),
        Field(description="Only events of this room."),
    ] = None


@router.post("/hooks", dependencies=[requires(Scope.HOOKS)], response_model=AddedHook, status_code=201)
async def subscribe(state: State, body: NewHook) -> Response:
    """Subscribe a URL: it gets events in style `flat`, signed with the `secret` of this response.

    A URL that responds 410 is unsubscribed.
    """
    named = [(key, url) for key in URL_KEYS if (url := getattr(body, key))]
    if not named:
        raise invalid("is missing", "body", "url")
    key, url = named[0]
    await check_address(state, url, "body", key)
    events = (body.event,) if body.event else tuple(map(str, DEFAULT_TYPES))
    context = endpoint_context(state.settings(), state.runtime)
    added = await state.database.write(add_hook, url, events, body.room_id or None, context)
    while await state.database.write_aside(append_snapshots, state.runtime.now(), state.runtime.new_id):
        pass
    return JSONResponse(document(added), 201)


@router.delete("/hooks/{hook_id}", dependencies=[requires(Scope.HOOKS)], status_code=204)
async def unsubscribe(state: State, hook_id: str) -> None:
    """Remove a hook with its backlog. One that is not there any more is removed already."""
    await state.database.write_aside(remove_hook, hook_id)

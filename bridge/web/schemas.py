"""Descriptions of the events: `/schemas/{type}.json` and `/asyncapi.json`, without a token."""

from __future__ import annotations

from fastapi.responses import JSONResponse, Response

from bridge.errors import NotFoundError
from bridge.events.schemas import event_schema
from bridge.events.types import EventType
from bridge.web.asyncapi import describe_events
from bridge.web.auth import OPEN
from bridge.web.routing import api_router
from bridge.web.state import State

router = api_router(tags=["descriptions"])


@router.get("/schemas/{kind}.json", dependencies=[OPEN])
async def get_schema(kind: str) -> Response:
    """The JSON Schema of a type of event."""
    if kind not in tuple(EventType):
        raise NotFoundError(f"no type of event is called {kind!r}: see docs/events.md")
    return JSONResponse(event_schema(EventType(kind)), media_type="application/schema+json")


@router.get("/asyncapi.json", dependencies=[OPEN])
async def get_asyncapi(state: State) -> Response:
    """The AsyncAPI 3 document of webhooks and stream."""
    return JSONResponse(describe_events(state.settings().web.public_url))

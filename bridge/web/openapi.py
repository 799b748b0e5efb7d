"""`GET /openapi.json`: FastAPI's description of the routes, completed with tokens, errors, examples and webhooks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from bridge import __version__
from bridge.events.schemas import event_schema
from bridge.events.types import EventType
from bridge.web.auth import OPEN, Requirement, requirements
from bridge.web.examples import EXAMPLES, example_body
from bridge.web.problems import MEDIA_TYPE
from bridge.web.routing import ApiRoute, api_router
from bridge.web.state import State

Document = dict[str, Any]

router = api_router(tags=["descriptions"])

_DESCRIBED: Final = ("/api/", "/pokes/", "/healthz", "/readyz", "/metrics")
_PARAMETER: Final = re.compile(r"\{")
_REFUSALS: Final = {
    "401": "There is no token, or it is unknown.",
    "403": "The token does not have the scope.",
    "429": "Too many requests with this token; `Retry-After` says when to try again.",
}
_PROBLEM: Final[Document] = {
    "type": "object",
    "title": "Problem",
    "description": "An error (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["loc", "msg"],
                "properties": {
                    "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "msg": {"type": "string"},
                },
            },
        },
    },
    "examples": [
        {
            "type": "about:blank",
            "title": HTTPStatus.UNPROCESSABLE_ENTITY.phrase,
            "status": 422,
            "detail": "body.room_id: is missing",
            "errors": [{"loc": ["body", "room_id"], "msg": "is missing"}],
        }
    ],
}
_DESCRIPTION: Final = (
    "Lists are pages: `limit` items, and `next`, which is the `after` of the next page. Ids in paths may contain "
    "anything, percent-encoded. A token has scopes: `write` includes `read` and `hooks`, `admin` includes all. "
    "Where no token is configured, callers on the same machine may read without one."
)


@router.get("/openapi.json", dependencies=[OPEN])
async def get_openapi_document(request: Request, state: State) -> Response:
    """The OpenAPI 3.1 document of this API."""
    public_url, known = state.settings().web.public_url, request.app.state
    if getattr(known, "openapi", (None, None))[0] != public_url:
        known.openapi = public_url, await asyncio.to_thread(describe_api, request.app.routes, public_url)
    return JSONResponse(known.openapi[1])


def describe_api(routes: Iterable[BaseRoute], public_url: str = "") -> Document:
    """The document; `public_url` is where the bridge is reached, if that is known."""
    described = [one for one in routes if isinstance(one, ApiRoute) and one.path.startswith(_DESCRIBED)]
    document = get_openapi(
        title="Presence bridge",
        version=__version__,
        description=_DESCRIPTION,
        routes=described,
        servers=[{"url": public_url or "/"}],
        license_info={"name": "MIT", "identifier": "MIT"},
    )
    for route in described:
        for method, operation in document["paths"][route.path_format].items():
            if method.upper() in (route.methods or ()):
                _complete(operation, route)
    components: Document = document["components"]
    _complete_schemas(components["schemas"])
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "description": _DESCRIPTION}}
    components["schemas"] |= {kind.value: _without_dialect(event_schema(kind)) for kind in EventType}
    document["webhooks"] = {kind.value: {"post": _webhook(kind)} for kind in EventType}
    return document


def _complete(operation: Document, route: ApiRoute) -> None:
    text = operation.get("description", "")
    operation["summary"] = re.split(r"[.;:](?:\s|$)", text)[0]
    responses: Document = operation["responses"]
    required = requirements(list(route.dependencies))[0]
    if not required.is_open:
        operation["security"] = list(_security(required))
        responses |= {status: _error(meaning) for status, meaning in _REFUSALS.items()}
    if _PARAMETER.search(route.path):
        responses["404"] = _error("There is none with this id.")
    if "422" in responses or "parameters" in operation or "requestBody" in operation:
        responses["422"] = _error("A parameter or the body is wrong; `errors` has the locations.")
    responses["default"] = _error("Another error.")


def _security(required: Requirement) -> Iterator[Mapping[str, list[str]]]:
    """Yield the alternatives: one of these scopes, or any token."""
    for scope in required.scopes:
        yield {"token": [scope.value]}
    if not required.scopes:
        yield {"token": []}


def _error(meaning: str) -> Document:
    return {"description": meaning, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


def _complete_schemas(schemas: Document) -> None:
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = _PROBLEM
    for name, schema in schemas.items():
        if name in EXAMPLES:
            schema["examples"] = [EXAMPLES[name]]
        elif "items" in (properties := schema.get("properties", {})) and "next" in properties:
            item = properties["items"]["items"].get("$ref", "").rpartition("/")[2]
            schema["examples"] = [{"items": [EXAMPLES[item]], "next": None}] if item in EXAMPLES else []


def _webhook(kind: EventType) -> Document:
    schema = {"$ref": f"#/components/schemas/{kind.value}"}
    return {
        "tags": ["webhooks"],
        "summary": kind.value,
        "description": "Sent to endpoints of style `standard`, signed by Standard Webhooks (docs/verifying.md).",
        "operationId": f"on_{kind.value.replace('.', '_')}",
        "parameters": [
            {"name": name, "in": "header", "required": True, "schema": {"type": "string"}}
            for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example_body(kind)}},
        },
        "responses": {
            "2XX": {"description": "Received. The next event of the room follows."},
            "410": {"description": "The endpoint is disabled; a REST hook is removed."},
            "default": {"description": "The delivery is repeated, or the event refused: docs/delivery.md."},
        },
    }


def _without_dialect(schema: Document) -> Document:
    return {key: value for key, value in schema.items() if key != "$schema"}

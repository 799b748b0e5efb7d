"""Errors as `application/problem+json` (RFC 9457): every error of the web server is made here."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.config.report import KEY_MARK
from bridge.errors import (
    AmbiguousError,
    ArgumentError,
    BridgeError,
    BusyError,
    ConflictError,
    DatabaseError,
    NotFoundError,
    PositionError,
    SchemaError,
    UsageError,
)
from bridge.logs import get_logger

MEDIA_TYPE = "application/problem+json"
AWAY_SECONDS = 5
"""`Retry-After` while the database is away."""

log = get_logger("bridge.web")


class ProblemError(HTTPException):
    """An error response; `errors` are those of the request: `{"loc": […], "msg": "…"}`."""

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.errors = errors

    def response(self) -> Response:
        return problem(self.status_code, self.detail, self.headers, errors=self.errors)


def problem(
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    *,
    errors: Sequence[Mapping[str, Any]] = (),
) -> Response:
    """Return the response of an error."""
    title = HTTPStatus(status).phrase
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors:
        body["errors"] = list(errors)
    return JSONResponse(body, status, dict(headers or {}), media_type=MEDIA_TYPE)


def invalid(message: str, *location: str | int) -> ProblemError:
    """Return the error of one wrong value, as in `invalid("is unknown", "body", "source")`."""
    return ProblemError(422, f"{location[-1]}: {message}", errors=[{"loc": list(location), "msg": message}])


def add_problem_handlers(app: FastAPI, present: Callable[[Request, Response], Response]) -> None:
    """Let every error of the app be a problem; `present` may replace its response, for pages."""

    def presented(handle: Callable[[Request, Any], Awaitable[Response]]) -> Callable[[Request, Any], Any]:
        async def handled(request: Request, error: Exception) -> Response:
            return present(request, await handle(request, error))

        return handled

    app.add_exception_handler(HTTPException, presented(_on_http_error))
    app.add_exception_handler(RequestValidationError, presented(_on_invalid_request))
    app.add_exception_handler(BridgeError, presented(_on_bridge_error))


class UnexpectedErrors:
    """ASGI middleware: logs an unexpected error and responds with 500, without details."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app."""
        has_started = False

        async def watched(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            route = getattr(scope.get("route"), "path", None)
            log.exception("request.failed", method=scope.get("method"), route=route)
            if scope["type"] == "http" and not has_started:
                response = problem(500, "an unexpected error: the log of the service has more")
                await response(scope, receive, send)


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    if isinstance(error, ProblemError):
        return error.response()
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed_methods(request)
        return problem(405, f"{request.method} is not possible here, only {', '.join(allowed)}", _allow(allowed))
    detail = "there is nothing at this path" if error.status_code == HTTPStatus.NOT_FOUND else str(error.detail)
    return problem(error.status_code, detail, error.headers)


def _allow(methods: Sequence[str]) -> dict[str, str]:
    return {"Allow": ", ".join(methods)}


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of every route at this path."""
    matching = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in matching for method in getattr(route, "methods", None) or ()}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


async def _on_invalid_request(_request: Request, error: RequestValidationError) -> Response:
    errors = [{"loc": _location(found), "msg": message_of(found)} for found in error.errors()]
    detail = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors[:3])
    return problem(422, detail, errors=errors)


def _location(found: Mapping[str, Any]) -> list[str | int]:
    """Where the mistake is; pydantic puts a mark of its own behind the key of a dictionary."""
    return [part for part in found["loc"] if part != KEY_MARK]


def message_of(found: Mapping[str, Any]) -> str:
    """Return pydantic's message; that of our own checks without its prefix."""
    match found["type"]:
        case "value_error":
            return str(found["ctx"]["error"])
        case "json_invalid":
            return f"is not valid JSON: {found['ctx']['error']}"
        case "extra_forbidden":
            return "is unknown"
        case "missing":
            return "is missing"
        case "model_attributes_type" | "dict_type" if found["loc"] == ("body",):
            return "must be a JSON object, with the content type application/json"
        case _:
            return str(found["msg"])


async def _on_bridge_error(request: Request, error: BridgeError) -> Response:
    if isinstance(error, ArgumentError):
        return invalid(str(error), "query" if request.method == "GET" else "body", error.argument).response()
    return problem_of(error)


def problem_of(error: BridgeError) -> Response:
    """Return the response for an error that was raised deliberately."""
    if isinstance(error, DatabaseError):
        return _database_problem(error)
    if isinstance(error, BusyError):
        return problem(503, str(error), {"Retry-After": str(math.ceil(error.seconds))})
    if isinstance(error, PositionError):
        return invalid(str(error), "query", "after").response()
    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    return problem(status, error.message if isinstance(error, NotFoundError) else str(error))


def _database_problem(error: DatabaseError) -> Response:
    if error.is_away:
        log.warning("request.failed", detail=str(error))
        return problem(503, "the database does not respond: try again", {"Retry-After": str(AWAY_SECONDS)})
    log.error("request.failed", detail=str(error))
    return problem(500, "the database failed: the log of the service has more")


_STATUS: Mapping[type[BridgeError], int] = {
    AmbiguousError: 409,
    NotFoundError: 404,
    ConflictError: 409,
    UsageError: 422,
    SchemaError: 503,
    BridgeError: 409,
}
"""The status of each kind of error, the more special kinds first."""

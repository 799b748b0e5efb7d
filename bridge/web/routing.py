"""Routes of the API: closed unless `OPEN`, strict about query parameters, with any text as an id.

A route checks the token before it reads the body, and refuses query parameters that it does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

from fastapi import APIRouter, Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from bridge.logs import get_logger
from bridge.web.auth import requirements
from bridge.web.problems import invalid

API = "/api/v1"
UNREADABLE: Final = (ValueError, RecursionError)
"""Errors of reading JSON for which FastAPI responds 400."""

log = get_logger("bridge.web")


def api_router(prefix: str = API, **settings: Any) -> APIRouter:  # noqa: ANN401 - APIRouter's own
    """Return a router for a topic."""
    return APIRouter(
        prefix=prefix,
        route_class=ApiRoute,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        **settings,
    )


def _operation_id(route: APIRoute) -> str:
    """Return topic and function, as in `rooms_show`."""
    return f"{route.endpoint.__module__.rpartition('.')[2]}_{route.name}"


class ApiRoute(APIRoute):
    """A route with `requires(…)` or `OPEN` among its dependencies."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which checks the request before it handles it."""
        handle = super().get_route_handler()
        required = requirements(list(self.dependencies))
        if not required:
            raise TypeError(f"route {self.path} names neither the scope that it requires nor OPEN")
        known = {field.alias for field in get_flat_params(self.dependant)} - self.param_convertors.keys()

        async def checked(request: Request) -> Response:
            for requirement in required:
                await requirement(request)
            unknown = [name for name in request.query_params if name not in known]
            if unknown:
                errors = [{"type": "extra_forbidden", "loc": ("query", name)} for name in dict.fromkeys(unknown)]
                raise RequestValidationError(errors)
            try:
                response = await handle(request)
            except HTTPException as error:
                if error.status_code == HTTPStatus.BAD_REQUEST and isinstance(error.__cause__, UNREADABLE):
                    raise invalid("is not JSON in UTF-8, or too deep, or has too large a number", "body") from None
                raise
            if request.method != "GET":
                name = getattr(getattr(request.state, "principal", None), "name", None)
                log.info(
                    "request.handled", method=request.method, route=self.path, token=name, status=response.status_code
                )
            return response

        return checked

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match a path whose segments `encode_segments` has encoded."""
        match, child_scope = super().matches(scope)
        if match is not Match.NONE:
            found: dict[str, Any] = child_scope["path_params"]
            child_scope["path_params"] = {name: _decoded(value) for name, value in found.items()}
        return match, child_scope


def encode_segments(raw_path: bytes) -> str:
    """Return a path as `scope["path"]` should be: decoded, except for `/` and `%` within a segment.

    ASGI servers decode the whole path, so that a `%2F` in an id would separate segments.
    """
    segments = raw_path.decode("latin-1").split("/")
    return "/".join(unquote(segment).replace("%", "%25").replace("/", "%2F") for segment in segments)


def _decoded(value: Any) -> Any:  # noqa: ANN401 - a path parameter after its convertor
    return value.replace("%2F", "/").replace("%25", "%") if isinstance(value, str) else value

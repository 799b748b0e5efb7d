"""CORS for the origins of `web.cors_origins`; without any, no header of it is ever sent."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.web.problems import problem
from bridge.web.state import AppState

_OF_THE_BODY: Final = ("content-type", "content-length")


class Cors:
    """Starlette's middleware with the current origins, which a reload may change."""

    def __init__(self, app: ASGIApp, state: AppState) -> None:
        self.app = app
        self._state = state
        self._origins: tuple[str, ...] = ()
        self._with_cors = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app."""
        origins = self._state.settings().web.cors_origins
        if origins != self._origins:
            self._origins, self._with_cors = origins, self._for(origins) if origins else self.app
        await self._with_cors(scope, receive, send)

    def _for(self, origins: tuple[str, ...]) -> ASGIApp:
        return _Middleware(
            self.app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST", "PATCH", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "Last-Event-ID"),
            expose_headers=("Retry-After",),
        )


class _Middleware(CORSMiddleware):
    """Starlette's, whose refusals are problems, as every other error."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < HTTPStatus.BAD_REQUEST:
            return response
        kept = {name: value for name, value in response.headers.items() if name not in _OF_THE_BODY}
        return problem(response.status_code, bytes(response.body).decode(), kept)

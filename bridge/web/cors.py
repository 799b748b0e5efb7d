"""CORS for the origins of `web.cors_origins`; without any, no header of it is ever sent."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.web.state import AppState


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
        return CORSMiddleware(
            self.app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST", "PATCH", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "Last-Event-ID"),
            expose_headers=("Retry-After",),
        )

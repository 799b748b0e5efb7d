"""The context of every page: its viewer, its path, and a message from the last action."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bridge.rules.access import Scope, permits
from bridge.web.auth import Principal, principal_of
from bridge.web.pages.compression import compress
from bridge.web.pages.render import render
from bridge.web.state import AppState, state_of

MESSAGE: Final = "bridge_message"
LONGEST_MESSAGE: Final = 700
"""Browsers ignore a cookie that is larger than 4096 bytes."""
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """The viewer of a page, for templates; `name` is None without a session."""

    name: str | None
    csrf: str
    can_read: bool
    can_write: bool
    is_admin: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The context of one page."""

    request: Request
    state: AppState
    principal: Principal | None

    @property
    def here(self) -> str:
        """Path and query of the page."""
        query = self.request.url.query
        return f"{self.request.url.path}?{query}" if query else self.request.url.path

    def page(self, template: str, section: str, *, status: int = 200, **facts: Any) -> Response:  # noqa: ANN401 - what templates need
        """Return the response of a page."""
        settings = self.state.settings()
        text = render(
            template,
            settings.bridge.timezone,
            self.state.runtime.now(),
            name=settings.bridge.name,
            section=section,
            here=self.here,
            viewer=self._viewer,
            message=_message(self.request),
            **facts,
        )
        response = compress(HTMLResponse(text, status, dict(HEADERS)), self.request)
        if MESSAGE in self.request.cookies:
            response.delete_cookie(MESSAGE, httponly=True, samesite="strict")
        return response

    @property
    def _viewer(self) -> Viewer:
        principal = self.principal
        session = None if principal is None else principal.session
        scopes = () if session is None else session.scopes
        return Viewer(
            name=None if session is None else session.name,
            csrf="" if session is None else session.csrf,
            can_read=principal is not None and permits(principal.scopes, (Scope.READ,)),
            can_write=permits(scopes, (Scope.WRITE,)),
            is_admin=permits(scopes, (Scope.ADMIN,)),
        )


async def view_of(request: Request) -> View:
    """A dependency of pages, after `requires(…)` has found its viewer."""
    return View(request=request, state=state_of(request), principal=await principal_of(request))


def open_view_of(request: Request) -> View:
    """The same for pages that need no token."""
    return View(request=request, state=state_of(request), principal=None)


PageView = Annotated[View, Depends(view_of)]
OpenPageView = Annotated[View, Depends(open_view_of)]


def redirect(path: str, message: str | None = None, kind: str = "good") -> Response:
    """Go to a page of ours, which shows the message once."""
    response = RedirectResponse(local_path(path), 303)
    if message is not None:
        text = json.dumps([kind, message[:LONGEST_MESSAGE]], ensure_ascii=False).encode("utf-8", "replace")
        value = base64.urlsafe_b64encode(text).decode()
        response.set_cookie(MESSAGE, value, max_age=60, httponly=True, samesite="strict")
    return response


def facts_of(response: Response) -> dict[str, Any]:
    """Return the document in a response of the API, whose handlers pages call."""
    facts: dict[str, Any] = json.loads(bytes(response.body))
    return facts


def local_path(path: str) -> str:
    """Return the path if it is on this host, else that of the first page."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local else "/"


def _message(request: Request) -> dict[str, str] | None:
    try:
        kind, text = json.loads(base64.urlsafe_b64decode(request.cookies.get(MESSAGE, "")))
        shown = str(text).encode("utf-8", "replace").decode()
    except (ValueError, TypeError, RecursionError):
        return None
    return {"kind": kind if kind in ("good", "bad", "warn") else "", "text": shown}

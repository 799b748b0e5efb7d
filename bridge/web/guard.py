"""Checks of every request before its route: ASGI middleware around the app.

Host names (DNS rebinding needs a foreign one), proxies without a token (every client would look like a caller on
this machine), size and duration of the body. It also handles HEAD where there is a GET.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.config import Settings
from bridge.errors import DatabaseError
from bridge.web.auth import needs_tokens
from bridge.web.bodies import limited
from bridge.web.problems import ProblemError, problem_of
from bridge.web.proxies import Network, client_of, is_proxied, is_trusted, parse_address
from bridge.web.routing import encode_segments
from bridge.web.state import AppState

PROBES: Final = frozenset({"/healthz", "/readyz"})
_HOST: Final = re.compile(r"(?P<name>\[[^\[\]]*\]|[^:\[\]/?#@]*)(:[0-9]*)?")
IS_HEAD: Final = "bridge.is_head"
"""Key of the scope: whether a GET was sent as HEAD."""
ANY_HOST: Final = PROBES | {"/metrics"}


class Guard:
    """Refuses requests, or passes them on with the real client and the path for `ApiRoute`."""

    def __init__(self, app: ASGIApp, state: AppState) -> None:
        self.app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then call the app."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        peer, trusted = scope.get("client"), self._state.settings().web.trusted_proxies
        has_trusted_proxy = peer is not None and is_trusted(peer[0], trusted)
        try:
            _check_url(scope)
            guarded = _as_meant(scope)
            self._check_host(guarded["path"], headers, use_forwarded=has_trusted_proxy)
            await self._check_proxy(guarded["path"], headers)
            receive = limited(receive, headers)
        except ProblemError as error:
            await error.response()(scope, receive, send)
            return
        except DatabaseError as error:
            await problem_of(error)(scope, receive, send)
            return
        if has_trusted_proxy:
            guarded.update(_as_forwarded(scope, headers, trusted))
        if scope["method"] == "HEAD":
            await _without_body(self.app, guarded, receive, send)
        else:
            await self.app(guarded, receive, send)

    def _check_host(self, path: str, headers: Headers, *, use_forwarded: bool) -> None:
        if path in ANY_HOST:
            return
        forwarded = headers.getlist("x-forwarded-host") if use_forwarded else []
        names = [name for value in forwarded for name in value.split(",")] or headers.getlist("host")
        for name in names:
            if not is_known_host(name, self._state.settings()):
                raise ProblemError(421, f"host {name!r} is unknown here: add it to web.hosts, or set web.public_url")

    async def _check_proxy(self, path: str, headers: Headers) -> None:
        if path not in PROBES and is_proxied(headers) and not await needs_tokens(self._state):
            raise ProblemError(
                403,
                "this request came through a proxy, which makes every client look like a caller on this machine: "
                "configure a token in web.tokens",
            )


def _check_url(scope: Scope) -> None:
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        raise ProblemError(422, "the URL contains %00, which is in no text of the bridge")


def _as_meant(scope: Scope) -> Scope:
    """Return the scope with the path for `ApiRoute`, and GET for HEAD."""
    raw_path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    is_head = scope["method"] == "HEAD"
    method = "GET" if is_head else scope["method"]
    return {**scope, "method": method, IS_HEAD: is_head, "path": encode_segments(raw_path.partition(b"?")[0])}


def _as_forwarded(scope: Scope, headers: Headers, trusted: Collection[Network]) -> Scope:
    """Return the client and the scheme that a trusted proxy names."""
    host, port = scope["client"]
    scheme = headers.get("x-forwarded-proto", "").strip().lower()
    return {
        "client": (client_of(host, headers, trusted), port),
        "scheme": scheme if scheme in {"http", "https"} else scope["scheme"],
    }


def is_known_host(host: str, settings: Settings) -> bool:
    """Return whether a `Host` header (with or without a port) is an address or a name of this service."""
    name = _name_of(host)
    if name is None:
        return False
    return parse_address(name) is not None or name in {"", "localhost"} or name in _own_names(settings)


def _own_names(settings: Settings) -> set[str]:
    public = urlsplit(settings.web.public_url).hostname or ""
    return {name.lower().rstrip(".") for name in (public, *settings.web.hosts) if name}


def _name_of(host: str) -> str | None:
    found = _HOST.fullmatch(host.strip().lower())
    return None if found is None else found["name"].rstrip(".")


async def _without_body(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Call the app and send only the headers of its response."""
    is_complete = False

    async def headers_only(message: Message) -> None:
        nonlocal is_complete
        if message["type"] == "http.response.start":
            await send(message)
        elif not is_complete:
            is_complete = True
            await send({"type": "http.response.body"})
        if message.get("more_body"):
            raise OSError("the rest is not needed")  # ends a stream, as if the client had closed the connection

    try:
        await app(scope, receive, headers_only)
    except (OSError, ClientDisconnect):
        if not is_complete:
            raise

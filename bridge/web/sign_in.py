"""Signing in on the pages: a cookie that represents a token, or the one-time link of this process.

A session is stored nowhere: its cookie names the token and is signed with what is stored of it, so that it is valid in
every process, and ends when the token is removed or changed. It is HttpOnly and SameSite=Strict; forms carry a second
value that other sites cannot know.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from hmac import compare_digest, new
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import Response

from bridge.admin.tokens import find_token_by_name
from bridge.rules.access import Scope
from bridge.web.state import AppState

COOKIE: Final = "bridge_session"
LONGEST: Final = timedelta(days=30)
LOCAL_NAME: Final = "this machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """A session: the token's name and scopes, and the value that its forms carry."""

    name: str
    scopes: tuple[Scope, ...]
    csrf: str = field(repr=False)


def begin(response: Response, request: Request, state: AppState, name: str, key: bytes) -> None:
    """Set the cookie of a new session."""
    expires_at = int((state.runtime.now() + LONGEST).timestamp())
    payload = _encoded(json.dumps([name, expires_at, secrets.token_hex(8)]).encode())
    response.set_cookie(
        COOKIE,
        f"{payload}.{_encoded(_sign(_session_key(state, key), payload))}",
        max_age=int(LONGEST.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def end(response: Response) -> None:
    """Delete the cookie."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


async def session_of(request: Request, state: AppState) -> SignedIn | None:
    """Return the session of a request, if its cookie is valid. The API takes it for reading only."""
    cookie = request.cookies.get(COOKIE)
    if cookie is None or (request.method != "GET" and request.url.path.startswith("/api/")):
        return None
    payload, _, signature = cookie.partition(".")
    try:
        name, expires_at, _nonce = json.loads(_decoded(payload))
        given = _decoded(signature)
    except (ValueError, TypeError, RecursionError):
        return None
    if not isinstance(name, str) or not isinstance(expires_at, int) or not name.isprintable():
        return None
    if state.runtime.now().timestamp() >= expires_at:
        return None
    for key, scopes in await _keys(state, name):
        session_key = _session_key(state, key)
        if compare_digest(_sign(session_key, payload), given):
            csrf = _encoded(_sign(session_key, f"csrf {payload}"))
            return SignedIn(name=name, scopes=tuple(scopes), csrf=csrf)
    return None


def is_from_here(request: Request, public_url: str) -> bool:
    """Return whether a form was sent by a page of this host, according to the browser.

    Behind a proxy that names itself in `Host`, the browser knows this host only by its public URL.
    """
    origin = request.headers.get("origin")
    if origin is None:
        return True
    given = origin.partition("://")[2]  # `null` is a page without a host
    return given != "" and given in {request.headers.get("host"), urlsplit(public_url).netloc}


def is_csrf_valid(session: SignedIn, given: str) -> bool:
    """Return whether a form carries the value of its session."""
    return compare_digest(session.csrf.encode(), given.encode("utf-8", "replace"))


async def _keys(state: AppState, name: str) -> list[tuple[bytes, Iterable[Scope]]]:
    """Return key and scopes of everything with that name: digests of tokens, and the key of one-time links."""
    found: list[tuple[bytes, Iterable[Scope]]] = [
        (table.digest, table.scopes) for table in state.settings().web.tokens if table.name == name
    ]
    stored = await state.database.look(find_token_by_name, name)
    if stored is not None:
        record, digest = stored
        found.append((digest, record.scopes))
    if name == LOCAL_NAME:
        found.append((state.links.key, (Scope.ADMIN,)))
    return found


def _session_key(state: AppState, key: bytes) -> bytes:
    """Return the key for cookies: with the encryption keys, if there are any, the database alone is not enough."""
    return sha256(b"session\0" + key + "\0".join(state.settings().encryption_keys).encode()).digest()


def _sign(key: bytes, text: str) -> bytes:
    return new(key, text.encode(), sha256).digest()


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)

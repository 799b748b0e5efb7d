"""The principal of a request, and its permissions: bearer tokens with scopes (docs/api.md).

A token is looked up for every request, by its digest: a removed one is refused at once, in every process. Without any
token, any client on this machine may read.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from hmac import compare_digest
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.params import Depends as Dependency

from bridge.admin.tokens import find_token, has_tokens
from bridge.rules.access import Scope, digest, permits
from bridge.web.problems import ProblemError
from bridge.web.proxies import is_loopback
from bridge.web.sign_in import SignedIn, session_of
from bridge.web.state import AppState, state_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The token of a request; or, where none is configured, a caller on this machine."""

    name: str
    scopes: tuple[Scope, ...]
    session: SignedIn | None = None
    """Set if the token comes from a page's cookie."""


ANONYMOUS: Final = Principal(name="anonymous", scopes=(Scope.READ, Scope.METRICS))


@dataclass(frozen=True, slots=True)
class Requirement:
    """A dependency of routes: the token must have one of these scopes, or any scope if none is named."""

    scopes: tuple[Scope, ...]
    is_open: bool = False

    async def __call__(self, request: Request) -> None:
        """Refuse the request if it is not permitted.

        Raises:
            ProblemError: 401, 403 or 429.
        """
        if self.is_open:
            return
        principal = await principal_of(request)
        if self.scopes and not permits(_scopes_of(principal, request.method), self.scopes):
            raise _refusal(principal, self.scopes)


def _scopes_of(principal: Principal, method: str) -> tuple[Scope, ...]:
    """Scopes of a principal for a method: where there is no token, everything can be read, samples too."""
    return (*principal.scopes, Scope.HOOKS) if principal is ANONYMOUS and method == "GET" else principal.scopes


def requires(*scopes: Scope) -> Any:  # noqa: ANN401 - as FastAPI's own Depends
    """Return a dependency for `dependencies=[…]` of a route: a token with one of these scopes; none: any token."""
    return Depends(Requirement(scopes))


OPEN: Final[Any] = Depends(Requirement((), is_open=True))
"""A dependency for routes that need no token."""


def requirements(dependencies: list[Dependency]) -> list[Requirement]:
    """Return the requirements among the dependencies of a route."""
    return [one.dependency for one in dependencies if isinstance(one.dependency, Requirement)]


async def principal_of(request: Request) -> Principal:
    """Return the principal of a request, found once.

    Raises:
        ProblemError: 401 or 429.
    """
    known: Principal | None = getattr(request.state, "principal", None)
    if known is None:
        known = request.state.principal = await _authenticate(request, state_of(request))
    return known


Caller = Annotated[Principal, Depends(principal_of)]
"""A parameter of handlers."""


async def needs_tokens(state: AppState) -> bool:
    """Return whether any token is configured or stored: then every request needs one."""
    return bool(state.settings().web.tokens) or await state.database.look(has_tokens)


async def is_still_permitted(request: Request, *scopes: Scope) -> bool:
    """Return whether a request that goes on for long is still permitted; requests with the same token share the query.

    Raises:
        DatabaseError: the database failed.
    """
    state, header = state_of(request), request.headers.get("authorization")
    if header is None and (session := await session_of(request, state)) is not None:
        return permits(session.scopes, scopes)
    given = None if header is None else digest(header.partition(" ")[2].strip())
    return await state.shared.get((given, scopes), lambda: _is_permitted(state, given, scopes))


async def _is_permitted(state: AppState, given: bytes | None, scopes: tuple[Scope, ...]) -> bool:
    if given is None:
        return not await needs_tokens(state)
    found = await find_principal(state, given)
    return found is not None and permits(found.scopes, scopes)


async def _authenticate(request: Request, state: AppState) -> Principal:
    header = request.headers.get("authorization")
    if header is None:
        session = await session_of(request, state)
        if session is not None:
            return Principal(name=session.name, scopes=session.scopes, session=session)
        if request.client is not None and is_loopback(request.client.host) and not await needs_tokens(state):
            return ANONYMOUS
        raise _unauthorized("this needs a token: send the header `Authorization: Bearer TOKEN`", "")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _unauthorized("the Authorization header must be `Bearer TOKEN`", 'error="invalid_request"')
    found = await find_principal(state, digest(token.strip()))
    if found is None:
        raise _unauthorized("the token is unknown: it was mistyped or removed", 'error="invalid_token"')
    wait = state.limiter.wait(found.name, state.settings().web.requests_per_second, asyncio.get_running_loop().time())
    if wait:
        raise ProblemError(
            429, "too many requests with this token: see web.requests_per_second", {"Retry-After": str(math.ceil(wait))}
        )
    return found


async def find_principal(state: AppState, given: bytes) -> Principal | None:
    """Return the principal of the token with this digest."""
    found: Principal | None = None
    for table in state.settings().web.tokens:
        if compare_digest(table.digest, given):
            found = Principal(name=table.name, scopes=table.scopes)
    if found is None:
        stored = await state.database.look(find_token, given)
        found = None if stored is None else Principal(name=stored.name, scopes=stored.scopes)
    return found


def _unauthorized(detail: str, error: str) -> ProblemError:
    challenge = 'Bearer realm="presence bridge"'
    return ProblemError(401, detail, {"WWW-Authenticate": f"{challenge}, {error}" if error else challenge})


def _refusal(principal: Principal, scopes: tuple[Scope, ...]) -> ProblemError:
    if principal is ANONYMOUS:
        return _unauthorized("without a token, only reading is open: configure one in web.tokens and send it", "")
    wanted = " or ".join(scopes)
    challenge = f'Bearer realm="presence bridge", error="insufficient_scope", scope="{" ".join(scopes)}"'
    return ProblemError(
        403, f"token {principal.name!r} does not have the scope {wanted}", {"WWW-Authenticate": challenge}
    )

"""Pages to sign in with a token or by a one-time link, and to sign out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import Depends, Query, Request
from fastapi.responses import Response

from bridge.rules.access import Scope, digest, permits
from bridge.web import sign_in
from bridge.web.auth import OPEN, find_principal, needs_tokens
from bridge.web.guard import IS_HEAD
from bridge.web.pages.forms import read_form
from bridge.web.pages.view import OpenPageView, View, redirect
from bridge.web.problems import ProblemError
from bridge.web.routing import api_router

router = api_router("", dependencies=[OPEN], include_in_schema=False)

Form = Annotated[Mapping[str, str], Depends(read_form)]
UNKNOWN: Final = "This token is unknown: it was mistyped or removed."
WITHOUT_READ: Final = "This token may not read, so there is nothing to show."


@router.get("/sign-in")
async def show(
    view: OpenPageView, goes_to: Annotated[str, Query(alias="next")] = "/", code: str | None = None
) -> Response:
    """The form; with the code of a one-time link, signs in at once."""
    if code is None or view.request.scope[IS_HEAD]:  # a check whether the link works does not use it up
        return await _form(view, goes_to)
    if not view.state.links.redeem(code):
        return await _form(view, goes_to, "This link was used already, or is from an earlier run of the bridge.", 401)
    response = redirect(goes_to)
    sign_in.begin(response, view.request, view.state, sign_in.LOCAL_NAME, view.state.links.key)
    return response


@router.post("/sign-in")
async def begin(view: OpenPageView, form: Form) -> Response:
    """Begin a session of the token."""
    goes_to, token = form.get("next", "/"), digest(form.get("token", "").strip())
    found = await find_principal(view.state, token)
    if found is None:
        return await _form(view, goes_to, UNKNOWN, 401)
    if not permits(found.scopes, (Scope.READ,)):
        return await _form(view, goes_to, WITHOUT_READ, 403)
    response = redirect(goes_to)
    sign_in.begin(response, view.request, view.state, found.name, token)
    return response


@router.post("/sign-out")
async def end(request: Request, view: OpenPageView, form: Form) -> Response:
    """End the session of this browser."""
    session = await sign_in.session_of(request, view.state)
    if session is not None and not sign_in.is_csrf_valid(session, form.get("csrf", "")):
        raise ProblemError(403, "the form is not from a page of this session: reload the page and try again")
    response = redirect("/sign-in")
    sign_in.end(response)
    return response


async def _form(view: View, goes_to: str, problem: str | None = None, status: int = 200) -> Response:
    has_tokens = await needs_tokens(view.state)
    return view.page("sign_in.html", "", status=status, next=goes_to, problem=problem, has_tokens=has_tokens)

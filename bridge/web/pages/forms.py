"""Forms of the pages: their fields, and the check that a page of this session has sent them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from bridge.web.auth import principal_of
from bridge.web.problems import ProblemError
from bridge.web.sign_in import is_csrf_valid, is_from_here
from bridge.web.state import state_of

MOST_FIELDS = 50


async def read_form(request: Request) -> Mapping[str, str]:
    """The fields of a form.

    Raises:
        ProblemError: 403: another site has sent it; 422: it is no form.
    """
    if not is_from_here(request, state_of(request).settings().web.public_url):
        raise ProblemError(403, "the form was sent by another site")
    try:
        text = (await request.body()).decode()
        fields = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"))
    except ValueError:
        raise ProblemError(422, "the body is no form") from None
    if any("\0" in value for value in fields.values()):
        raise ProblemError(422, "the form contains a null character, which is in no text of the bridge")
    return fields


async def read_signed_form(request: Request) -> Mapping[str, str]:
    """The fields of a form that changes something.

    Raises:
        ProblemError: 403 or 422: it is not from a page of this session, or no form.
    """
    form = await read_form(request)
    session = (await principal_of(request)).session
    if session is None or not is_csrf_valid(session, form.get("csrf", "")):
        raise ProblemError(403, "the form is not from a page of this session: reload the page and try again")
    return form


SignedForm = Annotated[Mapping[str, str], Depends(read_signed_form)]

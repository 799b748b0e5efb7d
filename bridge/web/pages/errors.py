"""Errors as pages, for browsers: with the text of the problem that programs get."""

from __future__ import annotations

import json
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import Response

from bridge.web.pages.view import View, redirect
from bridge.web.state import state_of

UNAUTHORIZED = 401


def as_page(request: Request, response: Response) -> Response:
    """Return the response for a problem: a page for a browser that asked for one, else the problem as it is."""
    if not _wants_page(request):
        return response
    view = View(request=request, state=state_of(request), principal=getattr(request.state, "principal", None))
    if response.status_code == UNAUTHORIZED:
        goes_to = view.here if request.method == "GET" else "/"
        return redirect(f"/sign-in?{urlencode({'next': goes_to})}")
    found = json.loads(bytes(response.body))
    page = view.page("error.html", "", status=response.status_code, title=found["title"], detail=found["detail"])
    for name in ("allow", "retry-after"):
        if name in response.headers:
            page.headers[name] = response.headers[name]
    return page


def _wants_page(request: Request) -> bool:
    is_for_programs = request.url.path.startswith(("/api/", "/pokes/", "/static/"))
    return not is_for_programs and "text/html" in request.headers.get("accept", "")

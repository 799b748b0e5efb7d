"""The status page."""

from __future__ import annotations

from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, select_autoescape

from bridge import __version__
from bridge.admin.health import read_counts, read_overdue
from bridge.errors import DatabaseError
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.routing import api_router
from bridge.web.state import State

router = api_router("")
pages = Environment(loader=PackageLoader("bridge.web"), autoescape=select_autoescape(), trim_blocks=True)


@router.get("/", dependencies=[requires(Scope.READ)])
async def index(state: State) -> Response:
    """A status page."""
    now = state.runtime.now()
    facts: dict[str, object] = {"counts": None}
    try:
        facts["overdue"] = await state.database.read(read_overdue, now)
        facts["counts"] = await state.database.read(read_counts)
    except DatabaseError:
        pass  # the page says so
    text = pages.get_template("index.html").render(
        name=state.settings().bridge.name, version=__version__, now=now, **facts
    )
    return HTMLResponse(text, status_code=200 if facts["counts"] is not None else 503)

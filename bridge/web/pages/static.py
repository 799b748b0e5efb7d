"""Files of the pages: one style sheet, an icon, and htmx; read once."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import Request
from fastapi.responses import Response

from bridge.web.auth import OPEN
from bridge.web.pages.compression import compress
from bridge.web.problems import ProblemError
from bridge.web.routing import api_router

TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "txt": "text/plain"}
WEEK: Final = "public, max-age=604800"

router = api_router("/static", dependencies=[OPEN], include_in_schema=False)


@router.get("/{name:path}")
async def static_file(request: Request, name: str, v: str = "") -> Response:  # noqa: ARG001 - a new version has a new address
    """A file of the pages."""
    found = _files().get(name)
    if found is None:
        raise ProblemError(404, "there is nothing at this path")
    headers = {"cache-control": WEEK, "x-content-type-options": "nosniff"}
    return compress(Response(found, media_type=TYPES[name.rpartition(".")[2]], headers=headers), request)


@cache
def _files() -> dict[str, bytes]:
    directory = files("bridge.web") / "static"
    found = [*directory.iterdir(), *(directory / "vendor").iterdir()]
    top = {file.name: file.read_bytes() for file in found if file.is_file() and file.name.rpartition(".")[2] in TYPES}
    vendored = {file.name for file in (directory / "vendor").iterdir()}
    return {f"vendor/{name}" if name in vendored else name: content for name, content in top.items()}

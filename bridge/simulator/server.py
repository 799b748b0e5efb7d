"""The simulation on a socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.simulator.routes import read_target
from bridge.simulator.upstream import respond
from bridge.web.server import serve_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bridge.simulator.simulation import Simulation


@asynccontextmanager
async def serve(simulation: Simulation, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve until the block is left; yields the base URL without a path, as in `http://127.0.0.1:8000`.

    Raises:
        BridgeError: the address cannot be listened on.
    """
    async with serve_app(_app(simulation), host=host, port=port, remedy="choose another port (0 is a free one)") as url:
        yield url.removesuffix("/")


def _app(simulation: Simulation) -> Starlette:
    async def serve_request(request: Request) -> Response:
        raw_path = request.scope["raw_path"].decode("latin-1")  # an encoded slash in a room id is no separator
        target = read_target(f"{raw_path}?{request.url.query}", api_key=request.headers.get("x-api-key", ""))
        response = respond(simulation, target)
        return Response(response.body, response.status, response.headers, response.content_type)

    return Starlette(routes=[Route("/{path:path}", serve_request)])

"""A receiver of webhooks on a socket: what `bridge listen` and `bridge demo` share.

Takes POSTs to any path, reads a body up to a limit, and answers the status that `respond` chooses. Whoever is told of
a delivery gets it raw: a signature is over the bytes, not over what they mean.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.errors import BridgeError

BODY_LIMIT = 8 * 1024 * 1024
"""Bytes; a `room.snapshot` of a thousand people with all the metadata that the bridge passes on fits."""
KEEP_ALIVE_SECONDS = 60
CLOSING_SECONDS = 2
"""How long a request that is still being sent is waited for at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One POST, raw; header names are in lower case. A body over the limit is cut: `whole` says whether it is not."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    whole: bool = True


Respond = Callable[[Delivery], int]
"""Takes a delivery and chooses the status of its answer."""


@asynccontextmanager
async def receive(respond: Respond, *, host: str, port: int, limit: int = BODY_LIMIT) -> AsyncIterator[str]:
    """Receive until the block is left; yields the URL, as in `http://127.0.0.1:9000/`.

    What has arrived by the end is answered.

    Raises:
        BridgeError: the address cannot be listened on.
    """
    bound = _bind(host, port)
    server = _Server(_configuration(_app(respond, limit)))
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}/"
    finally:
        server.should_exit = True
        await serving
        bound.close()


class _Server(uvicorn.Server):
    """Uvicorn without its own ideas about signals: the command stops it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _configuration(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # asked for a family of addresses, Python adds a remark
        raise BridgeError(
            f"cannot listen on {host}:{port} ({reason}): choose another --port, 0 is a free one"
        ) from None


def _app(respond: Respond, limit: int) -> Starlette:
    async def answer(request: Request) -> Response:
        try:
            delivery = await _read(request, limit)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to see it
        return Response(status_code=respond(delivery), headers={} if delivery.whole else {"connection": "close"})

    return Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])


async def _read(request: Request, limit: int) -> Delivery:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            break
    return Delivery(
        path=request.url.path, headers=dict(request.headers), body=bytes(body[:limit]), whole=len(body) <= limit
    )

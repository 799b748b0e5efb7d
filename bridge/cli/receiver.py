"""A receiver of webhooks on a socket: what `bridge listen` and `bridge demo` share.

Takes POSTs to any path, reads a body up to a limit, and answers the status that `respond` chooses. Whoever is told of
a delivery gets it raw: a signature is over the bytes, not over what they mean.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.web.server import serve_app

BODY_LIMIT = 8 * 1024 * 1024
"""Bytes; a `room.snapshot` of a thousand people with all the metadata that the bridge passes on fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One POST, raw; header names are in lower case. A body over the limit is cut: `whole` says whether it is not."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    whole: bool = True


Respond = Callable[[Delivery], int]
"""Takes a delivery and chooses the status of its response."""


@asynccontextmanager
async def receive(respond: Respond, *, host: str, port: int, limit: int = BODY_LIMIT) -> AsyncIterator[str]:
    """Receive until the block is left; yields the URL, as in `http://127.0.0.1:9000/`.

    What has arrived by the end is answered.

    Raises:
        BridgeError: the address cannot be listened on.
    """
    remedy = "choose another --host, or another --port (0 is a free one)"
    async with serve_app(_app(respond, limit), host=host, port=port, remedy=remedy) as url:
        yield url


def _app(respond: Respond, limit: int) -> Starlette:
    async def response(request: Request) -> Response:
        try:
            delivery = await _read(request, limit)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to see it
        return Response(status_code=respond(delivery), headers={} if delivery.whole else {"connection": "close"})

    return Starlette(routes=[Route("/{path:path}", response, methods=["POST"])])


async def _read(request: Request, limit: int) -> Delivery:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            break
    return Delivery(
        path=request.url.path, headers=dict(request.headers), body=bytes(body[:limit]), whole=len(body) <= limit
    )

"""The receiver of `bridge listen` and `bridge demo`: POSTs to any path, as raw bytes, because those are signed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.web.server import serve_app

BODY_LIMIT = 8 * 1024 * 1024
"""Bytes; a `room.snapshot` of 500 peers with all their metadata fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One POST; header names are in lower case. A body over the limit is cut and not `whole`."""

    headers: Mapping[str, str]
    body: bytes
    whole: bool = True


Respond = Callable[[Delivery], int]
"""Takes a delivery and returns the status of the response."""


def receive(respond: Respond, *, host: str, port: int) -> AbstractAsyncContextManager[str]:
    """Receive until the block is left; yields the URL, as in `http://127.0.0.1:9000/`.

    Raises:
        BridgeError: the address cannot be listened on.
    """
    remedy = "choose another --host, or another --port (0 is a free one)"
    return serve_app(_app(respond), host=host, port=port, remedy=remedy)


def _app(respond: Respond) -> Starlette:
    async def receive_one(request: Request) -> Response:
        try:
            delivery = await _read(request)
        except ClientDisconnect:
            return Response(status_code=400)  # no client is left to see it
        return Response(status_code=respond(delivery), headers={} if delivery.whole else {"connection": "close"})

    return Starlette(routes=[Route("/{path:path}", receive_one, methods=["POST"])])


async def _read(request: Request) -> Delivery:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            break
    return Delivery(headers=dict(request.headers), body=bytes(body[:BODY_LIMIT]), whole=len(body) <= BODY_LIMIT)

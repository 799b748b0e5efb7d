"""The simulation on a socket: one aiohttp.web connection handler for the upstream's API and for `/_control`.

aiohttp's low-level server, because it does everything that is needed with one mechanism: its parser is compiled and
keeps connections alive, it has no routing or middleware on the way to an response, and it hands over the transport, so
that a connection can be cut in the middle of a body, reset, or left hanging.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from bridge.errors import BridgeError
from bridge.simulator.answers import Manner, Response
from bridge.simulator.control import CONTROL_PATH, control
from bridge.simulator.routes import Target, read_request
from bridge.simulator.upstream import answer_with, choose_faults, delay_of, room_asked_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bridge.simulator.model import Simulation

BACKLOG = 1024
SHUTDOWN_SECONDS = 0.1  # what still hangs by then is cut off; 0 would mean for ever
LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)  # a close() then sends RST in place of FIN


@asynccontextmanager
async def serve(simulation: Simulation, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve until the block is left; yields the base URL without a path, as in `http://127.0.0.1:8000`.

    Raises:
        BridgeError: the address cannot be listened on.
    """
    server = web.Server(partial(_respond, simulation), access_log=None, handler_cancellation=True)
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await _listen(runner, host, port)
        yield f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _listen(runner: web.ServerRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
    except OSError as error:
        raise BridgeError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another host or port"
        ) from error


async def _respond(simulation: Simulation, request: web.BaseRequest) -> web.StreamResponse:
    body = await request.read() if request.body_exists else b""
    if request.raw_path.startswith(CONTROL_PATH):
        return _whole(control(simulation, request.method, request.raw_path, body))
    return await _response(simulation, request, body)


async def _response(simulation: Simulation, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
    api_key = request.headers.get("x-api-key", "")
    target = read_request(request.method, request.raw_path, api_key=api_key, body=body)
    noted = simulation.requests.note(
        at=simulation.clock.now(),
        method=request.method,
        path=request.raw_path,
        room_id=room_asked_for(simulation, target),
        raw_headers=request.raw_headers,
    )
    response = await _due_answer(simulation, target)
    if response.manner in (Manner.WHOLE, Manner.CUT):
        noted.status = response.status
    return await _send(request, response)


async def _due_answer(simulation: Simulation, target: Target) -> Response:
    faults = choose_faults(simulation, target)
    if faults:
        await asyncio.sleep(delay_of(faults))
    return answer_with(simulation, target, faults)


async def _send(request: web.BaseRequest, response: Response) -> web.StreamResponse:
    match response.manner:
        case Manner.WHOLE:
            return _whole(response)
        case Manner.CUT:
            return await _send_half(request, response)
        case Manner.RESET:
            _connection_of(request).get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT_AT_ALL
            )
            _connection_of(request).abort()
        case Manner.SILENT:
            await _say_nothing(response.silent_seconds)
            _connection_of(request).close()
    return web.Response()  # for aiohttp's sake; the connection is gone


def _whole(response: Response) -> web.Response:
    return web.Response(
        body=response.body, status=response.status, headers={"Content-Type": response.content_type, **response.headers}
    )


async def _send_half(request: web.BaseRequest, response: Response) -> web.StreamResponse:
    body = response.body
    half = web.StreamResponse(
        status=response.status, headers={"Content-Type": response.content_type, **response.headers}
    )
    half.content_length = len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    _connection_of(request).close()
    return half


async def _say_nothing(seconds: float | None) -> None:
    if seconds is None:
        await asyncio.Event().wait()  # until the caller hangs up, which cancels this
    else:
        await asyncio.sleep(seconds)


def _connection_of(request: web.BaseRequest) -> asyncio.Transport:
    transport = request.transport
    if transport is None:
        raise asyncio.CancelledError  # the caller has hung up already
    return transport

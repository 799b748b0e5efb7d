"""The simulated upstream with faults, on aiohttp's low-level server: it hands over the transport of a connection.

A base URL may end in `/via/NAME`: then the polls of one process can be counted and paused.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from aiohttp import web

from bridge.simulator import Simulation, documents
from bridge.simulator.documents import Response
from bridge.simulator.rooms import Session
from bridge.simulator.routes import Route, Target, read_target
from bridge.simulator.upstream import respond
from tests.faults.faults import PAYLOAD_FAULTS, RESPONSE_FAULTS, Fault, FaultBoard

STALE_SECONDS = 30.0
SLOW_SECONDS = 1.0
VIA = "/via/"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(slots=True, kw_only=True)
class Poll:
    """One request for a room's participants."""

    number: int
    via: str
    room: str | None
    has_response: bool = False
    """The response is ready; it may be paused."""
    over: bool = False
    """The response is on its way, or the caller has hung up."""


@dataclass(slots=True)
class FaultyUpstream:
    """A simulation, the faults that are switched on, and the polls so far."""

    simulation: Simulation
    faults: FaultBoard = field(default_factory=FaultBoard)
    polls: list[Poll] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    """Rooms that were polled while another poll of them was under way."""
    _paused: dict[str, asyncio.Event] = field(default_factory=dict)
    _rng: Random = field(default_factory=lambda: Random(0))  # noqa: S311 - a seed, not secrecy

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve on a free port until the block is left; yields the base URL without a path."""
        runner = web.ServerRunner(
            web.Server(self._handle, handler_cancellation=True), access_log=None, shutdown_timeout=0.1
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield "http://{}:{}".format(*runner.addresses[0])
        finally:
            await runner.cleanup()

    def pause(self, via: str) -> None:
        """Keep the responses to polls through this base URL until `resume`."""
        self._paused[via] = asyncio.Event()

    def resume(self, via: str) -> None:
        self._paused.pop(via).set()

    def respond(self, target: Target, faults: Sequence[Fault]) -> Response:
        """Return the response while these faults act."""
        response = respond(self.simulation, target)
        for fault in faults:
            if fault.kind == "stale" and response != documents.UNAUTHORIZED:
                response = self._stale(target, seconds=fault.seconds or STALE_SECONDS)
        changes = [fault for fault in faults if fault.kind in PAYLOAD_FAULTS]
        if changes and response.status < 300:
            document = json.loads(response.body)
            for fault in changes:
                PAYLOAD_FAULTS[fault.kind](document, fault, self._rng)
            response = Response(document=document)
        for fault in reversed(faults):
            if (change := RESPONSE_FAULTS.get(fault.kind)) is not None:
                response = change(response, fault)
        return response

    def _stale(self, target: Target, *, seconds: float) -> Response:
        """The participants as they were, with the metadata of today."""
        when = self.simulation.now() - round(seconds * 1000)
        room = self.simulation.owned_room(target.room_id or "", target.api_key)
        session = next((one for one in room.sessions if _lasted_at(one, when)), None) if room is not None else None
        if session is None:
            return documents.NO_SESSION
        there = (one for one in session.visits if one.joined_at <= when and (one.left_at is None or when < one.left_at))
        return Response(document=documents.participants(there))

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, via = request.raw_path, ""
        if path.startswith(VIA):
            via, _, path = path.removeprefix(VIA).partition("/")
            path = f"/{path}"
        target = read_target(path, api_key=request.headers.get("x-api-key", ""))
        if target.route is not Route.PARTICIPANTS:
            return await self._respond(request, target)
        poll = self._record(via, target.room_id)
        try:
            return await self._respond(request, target, poll)
        finally:
            poll.over = True

    def _record(self, via: str, room: str | None) -> Poll:
        poll = Poll(number=len(self.polls) + 1, via=via, room=room)
        self.overlaps += [
            f"{room}: by {via} while {one.via} polls" for one in self.polls if one.room == room and not one.over
        ]
        self.polls.append(poll)
        return poll

    async def _respond(self, request: web.BaseRequest, target: Target, poll: Poll | None = None) -> web.StreamResponse:
        faults: Sequence[Fault] = ()
        if self.faults:
            faults = self.faults.take(target, respond(self.simulation, target))
        kinds = {fault.kind: fault for fault in faults}
        if (slow := kinds.get("slow")) is not None:
            await asyncio.sleep(SLOW_SECONDS if slow.seconds is None else slow.seconds)
        if (timeout := kinds.get("timeout")) is not None:
            await _stay_silent(timeout.seconds)
        if "timeout" in kinds or "reset" in kinds:
            return _hang_up(request, reset="reset" in kinds)
        response = self.respond(target, faults)
        if poll is not None:
            poll.has_response = True
            if (paused := self._paused.get(poll.via)) is not None:
                await paused.wait()
        if "repeated" in kinds:
            return await _send_twice(request, response)
        return await _send(request, response, cut="cut" in kinds)


def _lasted_at(session: Session, when: int) -> bool:
    return session.started_at <= when and (session.ended_at is None or when < session.ended_at)


async def _stay_silent(seconds: float | None) -> None:
    if seconds is None:
        await asyncio.Event().wait()  # until the caller hangs up, which cancels this
    else:
        await asyncio.sleep(seconds)


def _hang_up(request: web.BaseRequest, *, reset: bool) -> web.StreamResponse:
    if request.transport is not None:
        if reset:
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            request.transport.abort()
        else:
            request.transport.close()
    return web.Response()  # aiohttp wants one; the connection is gone


async def _send_twice(request: web.BaseRequest, response: Response) -> web.StreamResponse:
    """The response, and the same again without a request."""
    assert request.transport is not None
    connection = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)  # both arrive together
    sent = await _send(request, response, cut=False)
    await sent.prepare(request)
    await sent.write_eof()
    head = f"HTTP/1.1 {response.status} X\r\nContent-Length: {len(response.body)}\r\n\r\n".encode()
    request.transport.write(head + response.body)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    return sent


async def _send(request: web.BaseRequest, response: Response, *, cut: bool) -> web.StreamResponse:
    headers = {"Content-Type": response.content_type, **response.headers}
    if not cut:
        return web.Response(body=response.body, status=response.status, headers=headers)
    half = web.StreamResponse(status=response.status, headers=headers)
    half.content_length = len(response.body)
    await half.prepare(request)
    await half.write(response.body[: len(response.body) // 2])
    if request.transport is not None:
        request.transport.close()
    return half

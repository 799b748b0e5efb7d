"""A door between one bridge process and the simulator: it sees who asks what when, and can keep answers waiting.

Each process gets a gate of its own, with one journal for all of them; so a test knows which process polled a room, and
whether two did at once, without asking the program.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.harness.loop_thread import LoopThread

PARTICIPANTS = "/live-sessions/participants/"


@dataclass(slots=True, kw_only=True)
class Poll:
    """One request for a room's participants through a gate."""

    gate: str
    room: str
    answered: bool = False
    """The upstream's response is at the gate."""
    over: bool = False
    """The response has gone out, or nobody waits for it any more."""


@dataclass(slots=True)
class Journal:
    """Every poll through any gate, in order of arrival."""

    polls: list[Poll] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    """Rooms that were asked for while another request for them was under way, and by whom."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arrive(self, gate: str, room: str) -> Poll:
        poll = Poll(gate=gate, room=room)
        with self._lock:
            self.overlaps += [
                f"{room}: {gate} while {other.gate} asks"
                for other in self.polls
                if other.room == room and not other.over
            ]
            self.polls.append(poll)
        return poll

    def count(self, gate: str, room: str) -> int:
        """How often a room was polled through a gate."""
        return sum(poll.gate == gate and poll.room == room for poll in tuple(self.polls))

    def waiting(self, gate: str) -> set[str]:
        """Rooms whose response is at the gate and has not gone out."""
        return {poll.room for poll in tuple(self.polls) if poll.gate == gate and poll.answered and not poll.over}


class UpstreamGate(LoopThread):
    """The gate of one process, in a thread of its own; use as a context manager."""

    def __init__(self, name: str, upstream: str, journal: Journal, *, latency: float = 0.0) -> None:
        super().__init__(f"gate {name}")
        self.name = name
        self.url = ""
        self.journal = journal
        self._upstream = upstream
        self._latency = latency
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """Let requests through to the upstream, but keep the answers."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def release(self) -> None:
        """Let the answers out that are kept, and those to come."""
        self._loop.call_soon_threadsafe(self._open.set)

    async def _serve(self) -> None:
        async with aiohttp.ClientSession() as session:
            self._session = session
            runner = web.ServerRunner(
                web.Server(self._pass, handler_cancellation=True), access_log=None, shutdown_timeout=0.1
            )
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = "http://{}:{}".format(*runner.addresses[0])
            self._ready()
            await self._stopping.wait()
            self._open.set()
            await runner.cleanup()

    async def _pass(self, request: web.BaseRequest) -> web.StreamResponse:
        _, participants, room = request.path.partition(PARTICIPANTS)
        if not participants:
            return await self._forward(request)
        poll = self.journal.arrive(self.name, room)
        try:
            await asyncio.sleep(self._latency)
            response = await self._forward(request)
            poll.answered = True
            await self._open.wait()
            await response.prepare(request)
            await response.write_eof()
            return response
        finally:
            poll.over = True

    async def _forward(self, request: web.BaseRequest) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        async with self._session.request(
            request.method, self._upstream + request.raw_path, headers=headers, data=await request.read()
        ) as response:
            body = await response.read()
            kind = response.headers.get("content-type", "application/json")
            return web.Response(status=response.status, body=body, headers={"content-type": kind})

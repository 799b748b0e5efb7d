"""A simulated Huddle01 and a small simulated LiveKit on one port, which count every request."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence

from aiohttp import web

from bridge.simulator import DEFAULT_API_KEY, Simulation
from bridge.simulator.routes import Route, read_target
from bridge.simulator.upstream import respond
from tests.harness.livekit import KEY, SECRET
from tests.harness.loop_thread import LoopThread

LIST_LAG_SECONDS = 5.0
"""Seconds between two counts of the participants for LiveKit's list."""


class Upstreams(LoopThread):
    """Both upstreams; use as a context manager.

    `requests` are the times of requests (Unix seconds) with their source and room, or None for a list.
    """

    def __init__(self) -> None:
        super().__init__("upstreams")
        self.url = ""
        self.requests: list[tuple[float, str, str | None]] = []
        self._simulation = Simulation()
        self._rooms: dict[str, dict[str, int]] = {}
        self._counts: Counter[str] = Counter()
        self._counted_at = 0.0

    def sources(self) -> dict[str, dict[str, object]]:
        """Tables for `[sources.NAME]`: `main` and `meet`."""
        return {
            "main": {"kind": "huddle01", "base_url": f"{self.url}/api/v2/sdk", "api_key": DEFAULT_API_KEY},
            "meet": {"kind": "livekit", "base_url": self.url, "api_key": KEY, "api_secret": SECRET},
        }

    def join(self, source: str, room: str, peer: str) -> None:
        """Let a peer in."""

        def change() -> None:
            if source == "main":
                self._simulation.join(room, peer_id=peer)
            else:
                self._rooms.setdefault(room, {})[peer] = time.time_ns() // 1_000_000

        self._loop.call_soon_threadsafe(change)

    def leave(self, source: str, room: str, peer: str) -> None:
        """Let a peer go."""

        def change() -> None:
            if source == "main":
                self._simulation.leave(room, peer)
            else:
                del self._rooms[room][peer]

        self._loop.call_soon_threadsafe(change)

    def polls(self, source: str, room: str | None = None, *, since: float = 0) -> Sequence[float]:
        """The times of polls (of a room) since some time; lists are left out."""
        return [
            at
            for at, asked, polled in tuple(self.requests)
            if at >= since and asked == source and polled is not None and room in (None, polled)
        ]

    async def _serve(self) -> None:
        runner = web.ServerRunner(web.Server(self._respond), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*runner.addresses[0])
        self._ready()
        await self._stopping.wait()
        await runner.cleanup()

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        now = time.time()
        if request.path.startswith("/twirp/"):
            room = (json.loads(await request.read())).get("room")
            self.requests.append((now, "meet", room))
            return web.json_response(self._list_rooms(now) if room is None else self._list_participants(room))
        target = read_target(request.raw_path, api_key=request.headers.get("x-api-key", ""))
        if target.route in (Route.PARTICIPANTS, Route.LIVE_SESSIONS):
            self.requests.append((now, "main", target.room_id))
        found = respond(self._simulation, target)
        return web.Response(status=found.status, body=found.body, content_type="application/json")

    def _list_rooms(self, now: float) -> dict[str, object]:
        if now - self._counted_at >= LIST_LAG_SECONDS:
            self._counts = Counter({room: len(peers) for room, peers in self._rooms.items()})
            self._counted_at = now
        return {"rooms": [{"name": room, "num_participants": self._counts[room]} for room in self._rooms]}

    def _list_participants(self, room: str) -> dict[str, object]:
        return {
            "participants": [
                {"sid": peer, "identity": peer, "state": "ACTIVE", "joined_at_ms": str(at)}
                for peer, at in self._rooms.get(room, {}).items()
            ]
        }

"""Requests to Huddle01, one GET each; `responses.py` and `record.py` interpret the responses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote, urlencode

import httpx

from bridge import __version__
from bridge.http_transport import Transport, target_as_written
from bridge.rules.live_rooms import LiveRooms
from bridge.rules.presence import Failure, FailureKind, Snapshot
from bridge.rules.reconcile import RecordedSession, RecordedVisit
from bridge.sources.checkup import Checkup
from bridge.sources.huddle01.record import read_sessions, read_visits
from bridge.sources.huddle01.responses import interpret, read_live_sessions
from bridge.sources.protocol import SourceSettings
from bridge.sources.upstream import Call, Upstream, open_transport

SESSIONS_PER_PAGE: Final = 50


def open_huddle01(settings: SourceSettings, now: Callable[[], datetime]) -> Huddle01Source:
    """A source of kind `huddle01`."""
    return Huddle01Source(settings, open_transport(settings), __version__, now)


class Huddle01Source:
    """An account at Huddle01. `clock` gives the time, with a time zone; `transport` is closed with the source."""

    def __init__(
        self, settings: SourceSettings, transport: Transport, version: str, clock: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        request = httpx.Request(
            "GET",
            settings.base_url,
            headers={
                "x-api-key": settings.api_key,
                "accept": "application/json",
                "accept-encoding": "gzip",
                "user-agent": f"presence-bridge/{version}",
            },
        )
        self._upstream = Upstream(settings, transport, request, clock, secrets=(settings.api_key,))
        self._sessions = target_as_written(f"{settings.base_url.rstrip('/')}/live-sessions")
        self._participants = self._sessions + b"/participants/"
        self._rooms = target_as_written(f"{settings.base_url.rstrip('/')}/rooms/")

    @property
    def name(self) -> str:
        """The account's name in the configuration."""
        return self._settings.name

    @property
    def clock_skew(self) -> timedelta | None:
        """Lead of this machine's clock at a response within the last minute or so."""
        return self._upstream.clock_skew

    async def fetch(self, room_id: str) -> Snapshot | Failure:
        """Ask once for the peers of a room."""
        if room_id in ("", ".", ".."):  # URLs treat `%2E%2E` like `..`, so these cannot be a path segment
            return Failure(kind=FailureKind.BAD_RESPONSE, detail=f"no URL can name the room {room_id!r}")
        target = self._participants + quote(room_id, safe="", errors="replace").encode("ascii")
        return await self._upstream.fetch_snapshot(room_id, Call(target=target), interpret)

    @property
    def sessions_per_page(self) -> int:
        """The number of sessions that are asked for at a time."""
        return SESSIONS_PER_PAGE

    async def fetch_sessions(self, room_id: str, page: int) -> tuple[RecordedSession, ...] | Failure:
        """One page of a room's past and present sessions."""
        query = urlencode({"roomId": room_id, "limit": SESSIONS_PER_PAGE, "cursor": page}, errors="replace")
        target = self._rooms + f"session-details?{query}".encode("ascii")
        return await self._upstream.fetch_record(Call(target=target), read_sessions)

    async def fetch_visits(self, session_id: str) -> tuple[RecordedVisit, ...] | Failure:
        """The visits of a session."""
        query = urlencode({"sessionId": session_id}, errors="replace")
        target = self._rooms + f"participant-list?{query}".encode("ascii")
        return await self._upstream.fetch_record(Call(target=target), read_visits)

    async def fetch_live_rooms(self) -> LiveRooms | Failure:
        """Ask once for the live sessions."""
        return await self._upstream.fetch_record(Call(target=self._sessions), read_live_sessions)

    async def check_up(self) -> Checkup:
        """Ask once for the live rooms: that needs a key, but no room."""
        return await self._upstream.check_up(Call(target=self._sessions), read_live_sessions)

    async def aclose(self) -> None:
        """Release the connections."""
        await self._upstream.aclose()

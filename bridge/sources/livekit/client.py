"""Requests to LiveKit's `RoomService`: Twirp, so each is a POST with JSON; `responses.py` interprets the responses."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import httpx

from bridge import __version__
from bridge.http_transport import Transport, target_as_written
from bridge.rules.live_rooms import LiveRooms
from bridge.rules.presence import Failure, Snapshot
from bridge.sources.checkup import Checkup
from bridge.sources.livekit.participants import Ignored
from bridge.sources.livekit.responses import interpret, read_rooms
from bridge.sources.livekit.tokens import Tokens
from bridge.sources.protocol import SourceSettings
from bridge.sources.upstream import Call, Upstream, open_transport


def open_livekit(settings: SourceSettings, now: Callable[[], datetime]) -> LiveKitSource:
    """A source of kind `livekit`."""
    return LiveKitSource(settings, open_transport(settings), __version__, now)


class LiveKitSource:
    """A LiveKit server or project. `clock` gives the time, with a time zone; `transport` is closed with the source."""

    def __init__(
        self, settings: SourceSettings, transport: Transport, version: str, clock: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        request = httpx.Request(
            "POST",
            settings.base_url,
            headers={
                "content-type": "application/json",
                "accept": "application/json",
                "accept-encoding": "gzip",
                "user-agent": f"presence-bridge/{version}",
            },
        )
        secrets = (settings.api_key, settings.api_secret)
        self._upstream = Upstream(settings, transport, request, clock, secrets=secrets)
        self._tokens = Tokens(settings.api_key, settings.api_secret, clock)
        self._service = target_as_written(f"{settings.base_url.rstrip('/')}/twirp/livekit.RoomService/")
        ignored = Ignored(kinds=settings.ignore_kinds, hidden=settings.ignore_hidden)
        self._interpret = partial(interpret, ignored=ignored)

    @property
    def name(self) -> str:
        """The account's name in the configuration."""
        return self._settings.name

    @property
    def clock_skew(self) -> timedelta | None:
        """Lead of this machine's clock at a response within the last minute or so."""
        return self._upstream.clock_skew

    async def fetch(self, room_id: str) -> Snapshot | Failure:
        """Ask once for the participants of a room."""
        call = self._call(b"ListParticipants", {"room": room_id}, self._tokens.for_room(room_id))
        return await self._upstream.fetch_snapshot(room_id, call, self._interpret)

    async def fetch_live_rooms(self) -> LiveRooms | Failure:
        """Ask once for the rooms; those with participants are live."""
        return await self._upstream.fetch_record(self._list_rooms(), read_rooms)

    async def check_up(self) -> Checkup:
        """Ask once for the rooms: that needs the key and its secret, but no room."""
        return await self._upstream.check_up(self._list_rooms(), read_rooms)

    async def aclose(self) -> None:
        """Release the connections."""
        await self._upstream.aclose()

    def _list_rooms(self) -> Call:
        return self._call(b"ListRooms", {}, self._tokens.for_list())

    def _call(self, method: bytes, message: dict[str, str], token: str) -> Call:
        return Call(
            target=self._service + method,
            headers=b"authorization: Bearer %s\r\n" % token.encode("ascii"),
            body=json.dumps(message).encode("ascii"),
            secrets=(token,),
        )

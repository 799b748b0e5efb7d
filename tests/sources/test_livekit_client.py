"""Requests to LiveKit, on the wire; what both kinds share is tested with Huddle01's client."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from bridge.rules.presence import Failure, FailureKind, Snapshot
from bridge.sources.kinds import open_source
from bridge.sources.livekit.client import LiveKitSource
from bridge.sources.livekit.tokens import LIFE, RENEW_BEFORE, Tokens
from bridge.sources.protocol import RecordKeepingSource, SourceSettings
from bridge.sources.upstream import open_transport
from tests.harness.wire import RawReceiver, Request, Response, Wire, drip, listening, send_and_close

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
KEY, SECRET = "APIabcdefghij", "s3cr3t-" + "x" * 40
LIST = b'{"participants":[{"sid":"PA_1","identity":"ann","state":"ACTIVE"}]}'


def http(body: bytes, status: int = 200, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def settings(served: RawReceiver, **changes: Any) -> SourceSettings:  # noqa: ANN401 - of SourceSettings
    account = SourceSettings(
        name="meet",
        kind="livekit",
        base_url=f"{served.scheme}://{served.host}",
        api_key=KEY,
        api_secret=SECRET,
        timeout=timedelta(seconds=20),
    )
    return replace(account, **changes)


@asynccontextmanager
async def source(account: SourceSettings) -> AsyncIterator[LiveKitSource]:
    opened = LiveKitSource(account, open_transport(account, rest=0), "1.2.3", lambda: NOW)
    try:
        yield opened
    finally:
        await opened.aclose()


def claims(request: Request) -> dict[str, Any]:
    scheme, _, token = request.headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    found: dict[str, Any] = jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_exp": False})
    return found


async def fetch_failure(respond: bytes | Response, **changes: Any) -> Failure:  # noqa: ANN401 - of SourceSettings
    async with listening(respond) as served, source(settings(served, **changes)) as opened:
        found = await opened.fetch("room")
    assert isinstance(found, Failure), found
    assert SECRET not in repr(found)
    return found


async def test_the_request_is_the_one_of_the_protocol() -> None:
    async with listening(http(LIST)) as served, source(settings(served)) as opened:
        found = await opened.fetch("a/ä \ud800")
    assert isinstance(found, Snapshot)
    assert [peer.peer_id for peer in found.peers] == ["PA_1"]
    (request,) = served.requests
    assert request.line == "POST /twirp/livekit.RoomService/ListParticipants HTTP/1.1"
    assert json.loads(request.body) == {"room": "a/ä \ud800"}
    assert claims(request) == {
        "iss": KEY,
        "exp": int((NOW + LIFE).timestamp()),
        "video": {"roomAdmin": True, "room": "a/ä \ud800"},
    }
    assert {name: request.headers[name] for name in request.headers if name != "authorization"} == {
        "host": served.host,
        "content-type": "application/json",
        "content-length": str(len(request.body)),
        "accept": "application/json",
        "accept-encoding": "gzip",
        "user-agent": "presence-bridge/1.2.3",
    }


async def test_a_path_before_the_service_is_kept() -> None:
    async with (
        listening(http(LIST)) as served,
        source(settings(served, base_url=f"http://{served.host}/behind/")) as opened,
    ):
        await opened.fetch("room")
    assert served.requests[0].line.split()[1] == "/behind/twirp/livekit.RoomService/ListParticipants"


async def test_a_checkup_asks_for_the_rooms() -> None:
    responses = [
        http(b'{"rooms":[]}', headers="date: Mon, 23 Nov 2026 09:29:50 GMT\r\n"),
        http(b'{"code":"unauthenticated","msg":"permissions denied"}', 401),
    ]

    async def respond(wire: Wire) -> None:
        await wire.send(responses[wire.number - 1])

    async with listening(respond) as served, source(settings(served)) as opened:
        good, bad = await opened.check_up(), await opened.check_up()
        assert opened.clock_skew == timedelta(seconds=9)
    assert served.requests[0].line == "POST /twirp/livekit.RoomService/ListRooms HTTP/1.1"
    assert (served.requests[0].body, claims(served.requests[0])["video"]) == (b"{}", {"roomList": True})
    assert (good.failure, good.clock_skew) == (None, timedelta(seconds=9))
    assert bad.failure is not None
    assert bad.failure.kind is FailureKind.UNAUTHORIZED


async def test_it_keeps_no_record() -> None:
    account = SourceSettings(name="meet", kind="livekit", base_url="https://x.example", api_key=KEY, api_secret=SECRET)
    opened = open_source(account, lambda: NOW)
    assert not isinstance(opened, RecordKeepingSource)
    assert SECRET not in repr(account)
    await opened.aclose()


async def test_the_participants_to_ignore_are_those_of_the_settings() -> None:
    items: list[dict[str, Any]] = [
        {"sid": kind, "state": "ACTIVE", "kind": kind} for kind in ("STANDARD", "EGRESS", "AGENT")
    ]
    items.append({"sid": "HIDDEN", "state": "ACTIVE", "permission": {"hidden": True}})
    seen = []
    async with listening(http(json.dumps({"participants": items}).encode())) as served:
        for changes in ({}, {"ignore_kinds": ("agent",), "ignore_hidden": False}):
            async with source(settings(served, **changes)) as opened:
                found = await opened.fetch("room")
                assert isinstance(found, Snapshot)
                seen.append({peer.peer_id for peer in found.peers})
    assert seen == [{"STANDARD", "AGENT"}, {"STANDARD", "EGRESS", "HIDDEN"}]


async def test_a_server_that_repeats_the_token_does_not_get_it_into_a_failure() -> None:
    """LiveKit's own response to a token that it does not accept."""
    tokens = []

    async def respond(wire: Wire) -> None:
        tokens.append(wire.request.headers["authorization"].split()[1])
        await wire.send(http(f"invalid token: {tokens[-1]}, error: square/go-jose".encode(), 401))

    found = await fetch_failure(respond)
    assert found.kind is FailureKind.UNAUTHORIZED
    assert tokens[0][:20] not in repr(found)


@pytest.mark.parametrize("echoed", [KEY, SECRET])
async def test_no_part_of_key_or_secret_is_in_a_failure(echoed: str) -> None:
    found = await fetch_failure(http(b"x" * 195 + echoed.encode(), 500))
    assert echoed[:4] not in repr(found)


@pytest.mark.parametrize(
    ("respond", "kind"),
    [
        (http(b"<html>Bad Gateway</html>", 502), FailureKind.SERVER_ERROR),
        (http(b"", 302, "location: https://elsewhere\r\n"), FailureKind.BAD_RESPONSE),
        (http(LIST + b" " * 1000), FailureKind.BAD_RESPONSE),
        (http(gzip.compress(LIST + b" " * 1_000_000), headers="content-encoding: gzip\r\n"), FailureKind.BAD_RESPONSE),
        (send_and_close(http(LIST)[:-5]), FailureKind.UNREACHABLE),
        (drip, FailureKind.TIMEOUT),
    ],
)
async def test_limits_and_broken_responses(respond: bytes | Response, kind: FailureKind) -> None:
    found = await fetch_failure(respond, max_response_bytes=1000, timeout=timedelta(milliseconds=300))
    assert found.kind is kind


def test_a_token_is_kept_as_long_as_it_has_life_left() -> None:
    now = NOW
    tokens = Tokens(KEY, SECRET, lambda: now)
    first = tokens.for_room("a")
    assert len({first, tokens.for_room("b"), tokens.for_list()}) == 3
    now = NOW + LIFE - RENEW_BEFORE - timedelta(seconds=1)
    assert tokens.for_room("a") == first
    now += timedelta(seconds=1)
    assert tokens.for_room("a") != first
    now = NOW - timedelta(days=1)  # the clock was set back: a token from before would live for a day
    assert tokens.for_room("a") != first

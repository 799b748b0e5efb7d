from __future__ import annotations

import asyncio
import gzip
import json
import logging
import ssl
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.http_transport import Transport
from bridge.rules.presence import Failure, FailureKind, Snapshot
from bridge.sources.huddle01.client import Huddle01Source
from bridge.sources.protocol import SourceSettings
from bridge.sources.upstream import LARGE_BODY, open_transport
from tests.harness.certificates import self_signed
from tests.harness.names import Names
from tests.harness.sloppy import CLOSED, KEPT
from tests.harness.wire import RawReceiver, Response, Wire, drip, flood, hang, listening, reset, send_and_close

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
KEY = "ak_0123456789abcdef"
LIST = b'{"count":1,"participants":[{"peerId":"a","joinTime":1724857378134,"metadata":{"displayName":"Ann"}}]}'
RESPONSE_LIMIT = SourceSettings(name="", kind="", base_url="", api_key="").max_response_bytes
NO_SESSION = b'{"ok":false,"message":"Session Not Found"}'


def address(served: RawReceiver) -> str:
    return f"{served.scheme}://{served.host}"


def paths(served: RawReceiver) -> list[str]:
    return [request.line.split()[1] for request in served.requests]


def http(body: bytes, status: int = 200, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def responds(*responses: bytes) -> Response:
    """These responses in turn; the last one is repeated."""
    return lambda wire: wire.send(responses[min(wire.number, len(responses)) - 1])


def settings(
    address: str,
    *,
    path: str = "/api/v2/sdk",
    limit: timedelta = timedelta(seconds=20),
    max_concurrency: int = 16,
) -> SourceSettings:
    return SourceSettings(
        name="main",
        kind="huddle01",
        base_url=address + path,
        api_key=KEY,
        timeout=limit,
        max_concurrency=max_concurrency,
    )


@asynccontextmanager
async def source(account: SourceSettings | str, transport: Transport | None = None) -> AsyncIterator[Huddle01Source]:
    account = settings(account) if isinstance(account, str) else account
    opened = Huddle01Source(account, transport or open_transport(account, rest=0), "1.2.3", lambda: NOW)
    try:
        yield opened
    finally:
        await opened.aclose()


async def fetch(account: SourceSettings | str) -> Snapshot | Failure:
    async with source(account) as opened:
        return await opened.fetch("room")


async def fetch_failure(account: SourceSettings | str) -> Failure:
    found = await fetch(account)
    assert isinstance(found, Failure), found
    assert KEY not in repr(found)
    return found


async def test_the_request_is_the_documented_one() -> None:
    async with listening(http(LIST)) as served:
        found = await fetch(address(served))
    assert isinstance(found, Snapshot)
    assert [peer.peer_id for peer in found.peers] == ["a"]
    (request,) = served.requests
    assert request.line == "GET /api/v2/sdk/live-sessions/participants/room HTTP/1.1"
    assert request.headers == {
        "host": served.host,
        "x-api-key": KEY,
        "accept": "application/json",
        "accept-encoding": "gzip",
        "user-agent": "presence-bridge/1.2.3",
    }


@pytest.mark.parametrize(
    ("room_id", "segment"),
    [
        ("abc-defg-hij", "abc-defg-hij"),
        ("a/b c?d#e", "a%2Fb%20c%3Fd%23e"),
        ("%2F", "%252F"),
        ("%2e%2e", "%252e%252e"),
        ("../../rooms", "..%2F..%2Frooms"),
        ("a\\..\\b", "a%5C..%5Cb"),
        ("...", "..."),
        ("Büro ☃", "B%C3%BCro%20%E2%98%83"),
        ("a+b&c=d", "a%2Bb"),
        ("\r\nHost: x", "%0D%0AHost"),
        ("lone \ud800", "lone%20%3F"),
    ],
)
async def test_a_room_id_is_one_segment_on_the_wire(room_id: str, segment: str) -> None:
    async with listening(http(LIST)) as served, source(address(served)) as opened:
        assert isinstance(await opened.fetch(room_id), Snapshot)
    (path,) = paths(served)
    prefix = "/api/v2/sdk/live-sessions/participants/"
    assert path.startswith(prefix + segment)
    assert not set(path.removeprefix(prefix)) & set("/?# \\")


@pytest.mark.parametrize("room_id", ["", ".", ".."])
async def test_a_room_id_that_cannot_be_a_path_segment_is_not_requested(room_id: str) -> None:
    async with listening(http(NO_SESSION, 404)) as served, source(address(served)) as opened:
        assert isinstance(await opened.fetch(room_id), Failure)
    assert served.requests == []


@pytest.mark.parametrize("path", ["/api", "/api/", "/api//"])
async def test_a_slash_at_the_end_of_the_base_url_makes_no_difference(path: str) -> None:
    async with listening(http(LIST)) as served:
        await fetch(settings(address(served), path=path))
    assert paths(served) == ["/api/live-sessions/participants/room"]


async def test_a_connection_serves_many_polls() -> None:
    async with listening(http(LIST)) as served, source(address(served)) as opened:
        for _ in range(5):
            assert isinstance(await opened.fetch("room"), Snapshot)
    assert (served.connections, len(served.requests)) == (1, 5)


async def test_max_concurrency_limits_the_connections() -> None:
    async with listening(http(LIST)) as served, source(settings(address(served), max_concurrency=2)) as opened:
        found = await asyncio.gather(*(opened.fetch(f"room-{number}") for number in range(20)))
    assert all(isinstance(each, Snapshot) for each in found)
    assert (len(served.requests), served.connections) == (20, 2)


async def test_a_connection_that_the_upstream_closed_is_replaced() -> None:
    async with listening(send_and_close(http(LIST))) as served, source(address(served)) as opened:
        for _ in range(3):
            assert isinstance(await opened.fetch("room"), Snapshot)
    assert served.connections == 3


async def test_proxy_variables_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with listening(http(LIST)) as served:
        assert isinstance(await fetch(address(served)), Snapshot)


async def test_no_cookie_is_kept() -> None:
    async with (
        listening(http(LIST, headers="set-cookie: a=b; path=/\r\n")) as served,
        source(address(served)) as opened,
    ):
        await opened.fetch("room")
        await opened.fetch("room")
    assert not any("cookie" in request.headers for request in served.requests)


async def test_a_redirect_is_not_followed() -> None:
    async with listening(http(b"", 302, "location: /elsewhere\r\n")) as served:
        found = await fetch_failure(address(served))
    assert (found.kind, found.status) == (FailureKind.BAD_RESPONSE, 302)
    assert "/elsewhere" in found.detail
    assert len(served.requests) == 1


async def test_retry_after_is_read_with_the_clock_of_the_source() -> None:
    async with listening(http(b"", 429, "Retry-After: Mon, 23 Nov 2026 09:31:00 GMT\r\n")) as served:
        found = await fetch_failure(address(served))
    assert (found.kind, found.retry_after) == (FailureKind.RATE_LIMITED, timedelta(seconds=60))


def encoded(body: bytes, encoding: str) -> bytes:
    return http(body, headers=f"content-encoding: {encoding}\r\n")


def redirect_to(location: str) -> bytes:
    return f"HTTP/1.1 302 X\r\ncontent-length: 0\r\nlocation: {location}\r\n\r\n".encode("latin-1")


UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "respond",
    [
        encoded(gzip.compress(LIST), "gzip"),
        encoded(gzip.compress(LIST), "GZip"),
        encoded(gzip.compress(LIST), "x-gzip"),
        encoded(zlib.compress(LIST), "deflate"),
        encoded(LIST, "identity"),
        encoded(LIST, ""),
        http(LIST + b" " * (RESPONSE_LIMIT - len(LIST))),
        b"HTTP/1.1 200 \xff\xfe\r\ncontent-length: %d\r\n\r\n" % len(LIST) + LIST,
        send_and_close(UNTIL_CLOSED + LIST),
    ],
)
async def test_compressed_large_and_unusual_responses_are_read(respond: Response | bytes) -> None:
    async with listening(respond) as served:
        assert isinstance(await fetch(address(served)), Snapshot)


@pytest.mark.parametrize(
    "respond",
    [
        encoded(gzip.compress(LIST)[:-9], "gzip"),
        encoded(LIST, "gzip"),
        encoded(b"", "gzip"),
        encoded(LIST, "br"),
        encoded(gzip.compress(gzip.compress(LIST)), "gzip, gzip"),
        encoded(gzip.compress(b" " * (RESPONSE_LIMIT + 1) + LIST), "gzip"),
        http(LIST + b" " * RESPONSE_LIMIT),
        flood(200),
        send_and_close(UNTIL_CLOSED + LIST[:-5]),
        *map(redirect_to, ("http://[broken", "https://" + "x" * 70 + "..", "//", "\xff\xfe", "javascript:0")),
    ],
)
async def test_broken_or_too_large_responses_are_failures(respond: Response | bytes) -> None:
    async with listening(respond) as served:
        assert (await fetch_failure(address(served))).kind is FailureKind.BAD_RESPONSE


@pytest.mark.parametrize(("size", "is_warned"), [(700, False), (900, True), (1000, True)])
async def test_a_response_near_the_limit_is_warned_of_once(size: int, *, is_warned: bool) -> None:
    body = LIST + b" " * (size - len(LIST))
    async with (
        listening(http(body)) as served,
        source(replace(settings(address(served)), max_response_bytes=1000)) as opened,
    ):
        with capture_logs() as lines:
            for _ in range(2):
                assert isinstance(await opened.fetch("room"), Snapshot)
    assert [(line["event"], line["bytes"], line["room"]) for line in lines] == [
        ("response.limit_approached", size, "room")
    ] * is_warned


@pytest.mark.parametrize(
    ("headers", "body"),
    [("", b" " * LARGE_BODY + LIST), ("content-encoding: gzip\r\n", gzip.compress(LIST + b" " * 5_000_000))],
)
async def test_a_large_response_is_parsed_in_a_thread(headers: str, body: bytes) -> None:
    threads: list[int] = []

    def clock() -> datetime:
        threads.append(threading.get_ident())
        return NOW

    for response in (http(LIST), http(body, headers=headers)):
        async with listening(response) as served:
            account = settings(address(served))
            opened = Huddle01Source(account, open_transport(account), "1.2.3", clock)
            assert isinstance(await opened.fetch("room"), Snapshot)
            await opened.aclose()
    assert {*threads[:-1]} == {threading.get_ident()} != {threads[-1]}


async def test_the_timeout_is_for_the_whole_response() -> None:
    closed = asyncio.Event()

    async def drip_until_closed(wire: Wire) -> None:
        try:
            await drip(wire)
        finally:
            closed.set()

    for respond in (hang, drip_until_closed):
        async with (
            listening(respond) as served,
            source(settings(address(served), limit=timedelta(milliseconds=200))) as opened,
        ):
            found = await opened.fetch("room")
            assert isinstance(found, Failure)
            assert (found.kind, found.status) == (FailureKind.TIMEOUT, None)
            assert "0.2 s" in found.detail
            if respond is drip_until_closed:
                await closed.wait()  # the connection is closed, not left open


@pytest.mark.parametrize(
    ("respond", "kind", "word"),
    [
        (reset, FailureKind.UNREACHABLE, "reset"),
        (send_and_close(b""), FailureKind.UNREACHABLE, "reset"),
        (send_and_close(http(LIST)[:-5]), FailureKind.UNREACHABLE, "cut"),
        (
            send_and_close(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}"),
            FailureKind.UNREACHABLE,
            "cut",
        ),
        (send_and_close(b"HTTP/1.1 200 OK\r\nconten"), FailureKind.UNREACHABLE, "reset"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", FailureKind.BAD_RESPONSE, "protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: nine\r\n\r\n", FailureKind.BAD_RESPONSE, "protocol"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 400_000 + b"\r\n\r\n", FailureKind.BAD_RESPONSE, "protocol"),
    ],
)
async def test_a_broken_connection_has_its_cause_in_the_detail(
    respond: Response | bytes, kind: FailureKind, word: str
) -> None:
    async with listening(respond) as served:
        found = await fetch_failure(address(served))
    assert (found.kind, found.detail.split(":")[0], found.status) == (kind, word, None)


@pytest.mark.parametrize("form", [*KEPT.values(), *CLOSED.values()])
async def test_what_curl_reads_is_read(form: Callable[[bytes], bytes]) -> None:
    async with listening(form(LIST)) as served, source(address(served)) as opened:
        for _ in range(2):
            assert isinstance(await opened.fetch("room"), Snapshot)
    assert len(served.requests) == 2


async def test_a_name_that_does_not_exist_is_unreachable() -> None:
    async with source("http://upstream.invalid", transport=Transport(keep_alive=1, resolver=Names())) as opened:
        found = await opened.fetch("room")
    assert isinstance(found, Failure)
    assert (found.kind, found.detail.split(":")[0]) == (FailureKind.UNREACHABLE, "dns")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("trusted", [True, False])
async def test_the_key_is_sent_only_to_a_server_with_a_trusted_certificate(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, *, trusted: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with listening(http(LIST), tls=context) as served:
        found = await fetch(address(served))
    if trusted:
        assert isinstance(found, Snapshot)
        return
    assert isinstance(found, Failure)
    assert (found.kind, found.detail.split(":")[0]) == (FailureKind.UNREACHABLE, "tls")
    assert served.requests == []


@pytest.mark.parametrize(
    "raw",
    [
        http(f"your key {KEY} is strange".encode(), 500),
        http(b"x" * 195 + KEY.encode(), 500),
        http(json.dumps({"error": KEY}).encode()),
        http(b"", 302, f"location: /?key={KEY}\r\n"),
        http(b"", 302, f"location: /{'x' * 195}{KEY}\r\n"),
        f"HTTP/1.1 {KEY}\r\n\r\n".encode(),
    ],
)
async def test_no_part_of_the_key_is_in_a_failure_or_the_log(raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="bridge")
    async with listening(raw) as served:
        found = await fetch_failure(address(served))
    assert KEY[:4] not in repr(found) + caplog.text


async def test_cancelling_is_not_a_failure() -> None:
    requested = asyncio.Event()

    async def respond(wire: Wire) -> None:
        requested.set()
        await wire.until_closed()

    async with listening(respond) as served, source(address(served)) as opened:
        polling = asyncio.create_task(opened.fetch("room"))
        await requested.wait()
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling


async def test_a_source_works_again_after_failures() -> None:
    failures = [http(b"", 500), http(LIST[:-5]), http(b"", 429), http(NO_SESSION, 404)]
    async with listening(responds(*failures, http(LIST))) as served, source(address(served)) as opened:
        found = [await opened.fetch("room") for _ in range(5)]
    assert [isinstance(each, Failure) for each in found] == [True, True, True, False, False]
    assert isinstance(found[3], Snapshot)
    assert found[3].no_session
    assert isinstance(found[4], Snapshot)
    assert len(found[4].peers) == 1


async def test_an_unchanged_response_gives_the_same_snapshot_object() -> None:
    other = LIST.replace(b"Ann", b"Bob")
    responses = [http(LIST), http(LIST), http(LIST, 503), http(LIST), http(other), http(LIST), http(NO_SESSION, 404)]
    async with listening(responds(*responses)) as served, source(address(served)) as opened:
        found = [await opened.fetch("room") for _ in responses]
    names = [[peer.metadata for peer in each.peers] if isinstance(each, Snapshot) else None for each in found]
    ann, bob = [{"displayName": "Ann"}], [{"displayName": "Bob"}]
    assert names == [ann, ann, None, ann, bob, ann, []]
    assert found[0] is found[1] is found[3]

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.http_transport import Transport
from bridge.rules.presence import Failure, FailureKind, Snapshot
from bridge.simulator import Simulation
from bridge.sources.huddle01.client import LARGE_BODY, Huddle01Source, open_transport
from bridge.sources.protocol import Source, SourceSettings
from tests.faults.kinds import Fault, FaultKind
from tests.faults.server import FaultyUpstream
from tests.harness.certificates import self_signed
from tests.harness.names import Names
from tests.harness.sloppy import CLOSED, KEPT

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
KEY = "ak_0123456789abcdef"
LIST = b'{"count":1,"participants":[{"peerId":"a","joinTime":1724857378134,"metadata":{"displayName":"Ann"}}]}'
NO_SESSION = b'{"ok":false,"message":"Session Not Found"}'

RESPONSE_LIMIT = SourceSettings(name="", kind="", base_url="", api_key="").max_response_bytes

Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Upstream:
    """A scripted server on loopback that records every request and connection."""

    respond: Respond
    address: str = ""
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    conversations: set[asyncio.Task[None]] = field(default_factory=set)
    requested: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        conversation = asyncio.create_task(self.converse(reader, writer))
        self.conversations.add(conversation)
        conversation.add_done_callback(self.conversations.discard)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(head)
                self.requested.set()
                await self.respond(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            self.closed.set()
        finally:
            writer.close()

    @property
    def paths(self) -> list[str]:
        return [request.split(b" ")[1].decode() for request in self.requests]


@asynccontextmanager
async def upstream(respond: Respond | bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    script = responds(respond) if isinstance(respond, bytes) else respond
    served = Upstream(script)
    server = await asyncio.start_server(served.connected, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    served.address = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.close()
        conversations = list(served.conversations)
        for conversation in conversations:
            conversation.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)


def http(body: bytes, status: int = 200, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def responds(*responses: bytes) -> Respond:
    """These responses in turn; the last one is repeated."""
    remaining = list(responses)

    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(remaining.pop(0) if len(remaining) > 1 else remaining[0])

    return respond


def responds_and_closes(raw: bytes) -> Respond:
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        writer.close()

    return respond


async def never_responds(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drips(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def floods(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        await writer.drain()


async def resets(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def settings(
    address: str,
    *,
    name: str = "main",
    path: str = "/api/v2/sdk",
    limit: timedelta = timedelta(seconds=20),
    max_concurrency: int = 16,
) -> SourceSettings:
    return SourceSettings(
        name=name,
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
    async with upstream(http(LIST)) as served:
        found = await fetch(served.address)
    assert isinstance(found, Snapshot)
    assert [peer.peer_id for peer in found.peers] == ["a"]
    line, *headers = served.requests[0].decode().rstrip("\r\n").split("\r\n")
    named = dict(header.lower().split(": ", 1) for header in headers)
    assert line == "GET /api/v2/sdk/live-sessions/participants/room HTTP/1.1"
    assert named == {
        "host": served.address.removeprefix("http://"),
        "x-api-key": KEY,
        "accept": "application/json",
        "accept-encoding": "gzip",
        "user-agent": "presence-bridge/1.2.3",
    }


async def test_a_source_has_the_name_of_its_account() -> None:
    async with source(settings("http://127.0.0.1:1", name="branch")) as opened:
        as_source: Source = opened
        assert as_source.name == "branch"


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
    async with upstream(http(LIST)) as served, source(served.address) as opened:
        assert isinstance(await opened.fetch(room_id), Snapshot)
    (path,) = served.paths
    prefix = "/api/v2/sdk/live-sessions/participants/"
    assert path.startswith(prefix + segment)
    assert not set(path.removeprefix(prefix)) & set("/?# \\")


@pytest.mark.parametrize("room_id", ["", ".", ".."])
async def test_a_room_id_that_cannot_be_a_path_segment_is_not_requested(room_id: str) -> None:
    async with upstream(http(NO_SESSION, 404)) as served, source(served.address) as opened:
        assert isinstance(await opened.fetch(room_id), Failure)
    assert served.requests == []


@pytest.mark.parametrize("path", ["/api", "/api/", "/api//"])
async def test_a_slash_at_the_end_of_the_base_url_makes_no_difference(path: str) -> None:
    async with upstream(http(LIST)) as served:
        await fetch(settings(served.address, path=path))
    assert served.paths == ["/api/live-sessions/participants/room"]


async def test_a_connection_serves_many_polls() -> None:
    async with upstream(http(LIST)) as served, source(served.address) as opened:
        for _ in range(5):
            assert isinstance(await opened.fetch("room"), Snapshot)
    assert (served.connections, len(served.requests)) == (1, 5)


async def test_max_concurrency_limits_the_connections() -> None:
    async with upstream(http(LIST)) as served, source(settings(served.address, max_concurrency=2)) as opened:
        found = await asyncio.gather(*(opened.fetch(f"room-{number}") for number in range(20)))
    assert all(isinstance(each, Snapshot) for each in found)
    assert (len(served.requests), served.connections) == (20, 2)


async def test_a_connection_that_the_upstream_closed_is_replaced() -> None:
    async with upstream(responds_and_closes(http(LIST))) as served, source(served.address) as opened:
        for _ in range(3):
            assert isinstance(await opened.fetch("room"), Snapshot)
    assert served.connections == 3


async def test_proxy_variables_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with upstream(http(LIST)) as served:
        assert isinstance(await fetch(served.address), Snapshot)


async def test_no_cookie_is_kept() -> None:
    async with upstream(http(LIST, headers="set-cookie: a=b; path=/\r\n")) as served, source(served.address) as opened:
        await opened.fetch("room")
        await opened.fetch("room")
    assert not any(b"cookie" in request.lower() for request in served.requests)


async def test_a_redirect_is_not_followed() -> None:
    async with upstream(http(b"", 302, "location: /elsewhere\r\n")) as served:
        found = await fetch_failure(served.address)
    assert (found.kind, found.status) == (FailureKind.BAD_RESPONSE, 302)
    assert "/elsewhere" in found.detail
    assert len(served.requests) == 1


@pytest.mark.parametrize("location", ["http://[broken", "https://" + "x" * 70 + "..", "//", "\xff\xfe", "javascript:0"])
async def test_a_redirect_to_nonsense_is_a_failure(location: str) -> None:
    raw = f"HTTP/1.1 302 X\r\ncontent-length: 0\r\nlocation: {location}\r\n\r\n".encode("latin-1")
    async with upstream(raw) as served:
        assert (await fetch_failure(served.address)).kind is FailureKind.BAD_RESPONSE


async def test_retry_after_is_read_with_the_clock_of_the_source() -> None:
    async with upstream(http(b"", 429, "Retry-After: Mon, 23 Nov 2026 09:31:00 GMT\r\n")) as served:
        found = await fetch_failure(served.address)
    assert (found.kind, found.retry_after) == (FailureKind.RATE_LIMITED, timedelta(seconds=60))


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(LIST), "gzip"),
        (gzip.compress(LIST), "GZip"),
        (gzip.compress(LIST), "x-gzip"),
        (zlib.compress(LIST), "deflate"),
        (LIST, "identity"),
        (LIST, ""),
    ],
)
async def test_compressed_responses_are_read(body: bytes, encoding: str) -> None:
    async with upstream(http(body, headers=f"content-encoding: {encoding}\r\n")) as served:
        assert isinstance(await fetch(served.address), Snapshot)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(LIST)[:-9], "gzip"),
        (LIST, "gzip"),
        (b"", "gzip"),
        (LIST, "br"),
        (gzip.compress(gzip.compress(LIST)), "gzip, gzip"),
        (gzip.compress(b" " * (RESPONSE_LIMIT + 1) + LIST), "gzip"),
    ],
)
async def test_compressed_responses_that_are_broken_or_too_large_are_failures(body: bytes, encoding: str) -> None:
    async with upstream(http(body, headers=f"content-encoding: {encoding}\r\n")) as served:
        assert (await fetch_failure(served.address)).kind is FailureKind.BAD_RESPONSE


async def test_a_response_may_be_large() -> None:
    body = LIST + b" " * (RESPONSE_LIMIT - len(LIST))
    async with upstream(http(body)) as served:
        assert isinstance(await fetch(served.address), Snapshot)


@pytest.mark.parametrize("respond", [http(LIST + b" " * RESPONSE_LIMIT), floods])
async def test_a_response_above_the_limit_is_not_read_to_its_end(respond: Respond | bytes) -> None:
    async with upstream(respond) as served:
        assert (await fetch_failure(served.address)).kind is FailureKind.BAD_RESPONSE


@pytest.mark.parametrize(("size", "is_warned"), [(700, False), (900, True), (1000, True)])
async def test_a_response_near_the_limit_is_warned_of_once(size: int, *, is_warned: bool) -> None:
    body = LIST + b" " * (size - len(LIST))
    async with (
        upstream(http(body)) as served,
        source(replace(settings(served.address), max_response_bytes=1000)) as opened,
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

    async with upstream(responds(http(LIST), http(body, headers=headers))) as served:
        account = settings(served.address)
        opened = Huddle01Source(account, open_transport(account), "1.2.3", clock)
        small, large = [await opened.fetch("room") for _ in range(2)]
        await opened.aclose()
    assert isinstance(small, Snapshot)
    assert isinstance(large, Snapshot)
    assert small.peers == large.peers
    assert threads[0] == threading.get_ident() != threads[1]


@pytest.mark.parametrize("respond", [never_responds, drips])
async def test_the_timeout_is_for_the_whole_response(respond: Respond) -> None:
    async with (
        upstream(respond) as served,
        source(settings(served.address, limit=timedelta(milliseconds=200))) as opened,
    ):
        found = await opened.fetch("room")
        assert isinstance(found, Failure)
        assert (found.kind, found.status) == (FailureKind.TIMEOUT, None)
        assert "0.2 s" in found.detail
        if respond is drips:
            await served.closed.wait()  # the connection is closed, not left open


@pytest.mark.parametrize(
    ("respond", "kind", "word"),
    [
        (resets, FailureKind.UNREACHABLE, "reset"),
        (responds_and_closes(b""), FailureKind.UNREACHABLE, "reset"),
        (responds_and_closes(http(LIST)[:-5]), FailureKind.UNREACHABLE, "cut"),
        (
            responds_and_closes(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}"),
            FailureKind.UNREACHABLE,
            "cut",
        ),
        (responds_and_closes(b"HTTP/1.1 200 OK\r\nconten"), FailureKind.UNREACHABLE, "reset"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", FailureKind.BAD_RESPONSE, "protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: nine\r\n\r\n", FailureKind.BAD_RESPONSE, "protocol"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 400_000 + b"\r\n\r\n", FailureKind.BAD_RESPONSE, "protocol"),
    ],
)
async def test_a_broken_connection_has_its_cause_in_the_detail(
    respond: Respond | bytes, kind: FailureKind, word: str
) -> None:
    async with upstream(respond) as served:
        found = await fetch_failure(served.address)
    assert (found.kind, found.detail.split(":")[0], found.status) == (kind, word, None)


async def test_the_reason_phrase_may_be_any_bytes() -> None:
    response = b"HTTP/1.1 200 \xff\xfe\r\ncontent-length: %d\r\n\r\n" % len(LIST) + LIST
    async with upstream(response) as served:
        assert isinstance(await fetch(served.address), Snapshot)


@pytest.mark.parametrize("form", [*KEPT.values(), *CLOSED.values()])
async def test_what_curl_reads_is_read(form: Callable[[bytes], bytes]) -> None:
    async with upstream(form(LIST)) as served, source(served.address) as opened:
        for _ in range(2):
            assert isinstance(await opened.fetch("room"), Snapshot)
    assert len(served.requests) == 2


async def test_garbage_in_the_middle_of_a_body_is_a_failure() -> None:
    async with upstream(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n") as served:
        assert (await fetch_failure(served.address)).kind in (FailureKind.BAD_RESPONSE, FailureKind.UNREACHABLE)


async def test_a_body_that_ends_with_the_connection_is_complete_only_if_its_json_is() -> None:
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    async with upstream(responds_and_closes(head + LIST)) as served:
        assert isinstance(await fetch(served.address), Snapshot)
    async with upstream(responds_and_closes(head + LIST[:-5])) as served:
        assert (await fetch_failure(served.address)).kind is FailureKind.BAD_RESPONSE


async def test_a_port_where_no_server_listens_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found = await fetch_failure(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert (found.kind, found.detail.split(":")[0]) == (FailureKind.UNREACHABLE, "connect")


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
    async with upstream(http(LIST), tls=context) as served:
        found = await fetch(served.address)
    if trusted:
        assert isinstance(found, Snapshot)
        return
    assert isinstance(found, Failure)
    assert (found.kind, found.detail.split(":")[0]) == (FailureKind.UNREACHABLE, "tls")
    assert served.requests == []


async def test_a_server_without_tls_is_unreachable_over_https() -> None:
    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        found = await fetch_failure(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert (found.kind, found.detail.split(":")[0]) == (FailureKind.UNREACHABLE, "tls")


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
    async with upstream(raw) as served:
        found = await fetch_failure(served.address)
    assert KEY[:4] not in repr(found) + caplog.text


async def test_cancelling_is_not_a_failure() -> None:
    async with upstream(never_responds) as served, source(served.address) as opened:
        polling = asyncio.create_task(opened.fetch("room"))
        await served.requested.wait()
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling


async def test_a_source_works_again_after_failures() -> None:
    failures = [http(b"", 500), http(LIST[:-5]), http(b"", 429), http(NO_SESSION, 404)]
    async with upstream(responds(*failures, http(LIST))) as served, source(served.address) as opened:
        found = [await opened.fetch("room") for _ in range(5)]
    assert [isinstance(each, Failure) for each in found] == [True, True, True, False, False]
    assert isinstance(found[3], Snapshot)
    assert found[3].no_session
    assert isinstance(found[4], Snapshot)
    assert len(found[4].peers) == 1


async def test_an_unchanged_response_gives_the_same_snapshot_object() -> None:
    other = LIST.replace(b"Ann", b"Bob")
    responses = [http(LIST), http(LIST), http(LIST, 503), http(LIST), http(other), http(LIST), http(NO_SESSION, 404)]
    async with upstream(responds(*responses)) as served, source(served.address) as opened:
        found = [await opened.fetch("room") for _ in responses]
    names = [[peer.metadata for peer in each.peers] if isinstance(each, Snapshot) else None for each in found]
    ann, bob = [{"displayName": "Ann"}], [{"displayName": "Bob"}]
    assert names == [ann, ann, None, ann, bob, ann, []]
    assert found[0] is found[1] is found[3]


EXPECTED: dict[FaultKind, FailureKind] = {
    FaultKind.HTML_200: FailureKind.BAD_RESPONSE,
    FaultKind.TRUNCATED_JSON: FailureKind.BAD_RESPONSE,
    FaultKind.NOT_JSON: FailureKind.BAD_RESPONSE,
    FaultKind.TIMEOUT: FailureKind.TIMEOUT,
    FaultKind.RESET: FailureKind.UNREACHABLE,
    FaultKind.CUT: FailureKind.UNREACHABLE,
    FaultKind.UNAUTHORIZED: FailureKind.UNAUTHORIZED,
    FaultKind.RATE_LIMITED: FailureKind.RATE_LIMITED,
    FaultKind.NOT_FOUND_PAGE: FailureKind.BAD_RESPONSE,
    FaultKind.NOT_FOUND_OTHER_JSON: FailureKind.BAD_RESPONSE,
    FaultKind.REDIRECT: FailureKind.BAD_RESPONSE,
    FaultKind.OK_FALSE_200: FailureKind.BAD_RESPONSE,
}
INCOMPLETE = (FaultKind.COUNT_MISMATCH, FaultKind.ITEM_WITHOUT_ID, FaultKind.ITEM_NOT_OBJECT)
OTHERS = sorted(set(FaultKind) - set(EXPECTED) - {FaultKind.STATUS, FaultKind.SLOW, FaultKind.STALE})


@asynccontextmanager
async def simulated(kind: FaultKind | None = None) -> AsyncIterator[Huddle01Source]:
    upstream = FaultyUpstream(Simulation(api_keys=(KEY,)))
    for peer in ("ann", "bob"):
        upstream.simulation.join("room", peer_id=peer, metadata={"displayName": peer})
    if kind is not None:
        upstream.faults.replace([Fault(kind=kind)])
    async with upstream.serve() as address:
        limit = timedelta(seconds=0.2) if kind is FaultKind.TIMEOUT else timedelta(seconds=20)
        async with source(settings(address, limit=limit)) as opened:
            yield opened


async def test_the_simulated_upstream_is_understood() -> None:
    async with simulated() as opened:
        found, unknown = await opened.fetch("room"), await opened.fetch("elsewhere")
    assert isinstance(found, Snapshot)
    assert [(peer.peer_id, peer.metadata) for peer in found.peers] == [
        ("ann", {"displayName": "ann"}),
        ("bob", {"displayName": "bob"}),
    ]
    assert (found.complete, found.notes) == (True, ())
    assert all(peer.join_time is not None for peer in found.peers)
    assert isinstance(unknown, Snapshot)
    assert unknown.no_session


@pytest.mark.parametrize(("kind", "expected"), EXPECTED.items())
async def test_every_fault_without_a_list_is_a_failure(kind: FaultKind, expected: FailureKind) -> None:
    async with simulated(kind) as opened:
        found, elsewhere = await opened.fetch("room"), await opened.fetch("elsewhere")
    assert isinstance(found, Failure)
    assert found.kind is expected
    assert isinstance(elsewhere, Failure)


@pytest.mark.parametrize("kind", OTHERS)
async def test_every_fault_within_the_list_keeps_the_peers_that_can_be_read(kind: FaultKind) -> None:
    async with simulated(kind) as opened:
        found, elsewhere = await opened.fetch("room"), await opened.fetch("elsewhere")
    assert isinstance(found, Snapshot)
    missing = {"ann"} if kind in (FaultKind.ITEM_WITHOUT_ID, FaultKind.ITEM_NOT_OBJECT) else set()
    assert {peer.peer_id for peer in found.peers} == {"ann", "bob"} - missing
    assert found.complete is (kind not in INCOMPLETE)
    assert isinstance(elsewhere, Snapshot)
    assert (elsewhere.complete, elsewhere.peers) == (True, ())

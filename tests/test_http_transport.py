"""Connections that desynchronise: nothing that was not asked for counts as a response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from unittest.mock import patch

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import http_transport
from bridge.delivery.client import ClientLimits, WebhookClient
from bridge.http_transport import MAX_IDLE, Transport, target_as_written
from bridge.rules.delivery import Outcome
from bridge.rules.egress import EgressPolicy
from bridge.rules.presence import Snapshot
from bridge.sources.huddle01.client import Huddle01Source
from bridge.sources.protocol import SourceSettings
from bridge.sources.upstream import open_transport
from tests.harness.wire import Wire, listening

ROOMS = ("a", "b", "c")
NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
POLICY = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"),))
MORE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "the same again": lambda response: response,
    "half of it": lambda response: response[: len(response) // 2],
    "a time-out": lambda _: b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "an empty 200": lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": lambda _: b"\0\r\n",
}
"""Data that a server sends after a response."""
WHEN = ("together", "soon", "idle")
REST = 60  # seconds: nothing depends on how fast this machine is


class Desynchronising:
    """A server that says more than it was asked, by a script with one step per response."""

    def __init__(self, script: Sequence[tuple[str, str]]) -> None:
        self._script = list(script)
        self._unsaid: list[tuple[Wire, bytes]] = []

    async def respond(self, wire: Wire) -> None:
        room = wire.request.line.split(" ")[1].rpartition("/")[2]
        body = json.dumps({"count": 1, "participants": [{"peerId": f"peer of {room}"}]}).encode()
        response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        said, when = self._script.pop() if self._script else ("nothing", "together")
        more = MORE[said](response)
        if when == "together":
            await wire.send(response + more)
            return
        await wire.send(response)
        if when == "idle":
            self._unsaid.append((wire, more))
            return
        await asyncio.sleep(0.002)  # time enough to send the next request
        await wire.send(more)

    def say_the_rest(self) -> None:
        """Send what was kept back; it is in the sockets of the client before this returns."""
        for wire, more in self._unsaid:
            if not wire.writer.is_closing():
                wire.writer.write(more)
        self._unsaid.clear()


def run(scenario: Coroutine[None, None, None]) -> None:
    """Run it with as many connections as it takes for none to be used before it has rested."""
    with patch.object(http_transport, "MAX_IDLE", 1000):
        asyncio.run(scenario)


SCRIPTS = st.lists(st.tuples(st.sampled_from(sorted(MORE)), st.sampled_from(WHEN)), max_size=30)
ROUNDS = st.lists(st.lists(st.sampled_from(ROOMS), min_size=1, max_size=4), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(script=SCRIPTS, rounds=ROUNDS, connections=st.sampled_from([1, 2, 16]))
def test_a_room_never_gets_the_response_for_another(
    script: list[tuple[str, str]], rounds: list[list[str]], connections: int
) -> None:
    async def scenario() -> None:
        rest = REST if any(when == "soon" for _, when in script) else 0
        server = Desynchronising(script)
        async with listening(server.respond) as upstream:
            account = SourceSettings(
                name="main",
                kind="huddle01",
                base_url=f"http://127.0.0.1:{upstream.port}",
                api_key="key",
                max_concurrency=connections,
            )
            source = Huddle01Source(account, open_transport(account, rest=rest), "1.2.3", lambda: NOW)
            for rooms in rounds:
                found = await asyncio.gather(*(source.fetch(room) for room in rooms))
                for room, snapshot in zip(rooms, found, strict=True):
                    assert isinstance(snapshot, Snapshot), snapshot
                    assert [peer.peer_id for peer in snapshot.peers] == [f"peer of {room}"]
                server.say_the_rest()
            await source.aclose()

    run(scenario())


@settings(max_examples=100, deadline=None)
@given(script=SCRIPTS, rounds=st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_a_delivery_counts_only_if_the_receiver_got_it(script: list[tuple[str, str]], rounds: list[int]) -> None:
    async def scenario() -> None:
        rest = timedelta(seconds=REST if any(when == "soon" for _, when in script) else 0)
        server = Desynchronising(script)
        async with (
            listening(server.respond) as receiver,
            WebhookClient(POLICY, user_agent="t", clock=lambda: NOW, limits=ClientLimits(rest=rest)) as client,
        ):
            sent = 0
            for count in rounds:
                ids = [f"evt_{number}" for number in range(sent, sent + count)]
                sent += count
                results = await asyncio.gather(
                    *(
                        client.post(
                            receiver.url, headers={"webhook-id": each}, body=b"{}", timeout=timedelta(seconds=30)
                        )
                        for each in ids
                    )
                )
                assert {result.outcome for result in results} == {Outcome.DELIVERED}
                assert {request.headers["webhook-id"] for request in receiver.requests} >= set(ids)
                server.say_the_rest()
        assert len(receiver.requests) == sent, "nothing was sent twice"

    run(scenario())


async def test_an_idle_connection_is_closed_when_its_time_has_come() -> None:
    closed = asyncio.Event()

    async def respond(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await wire.until_closed()
        closed.set()

    async with listening(respond) as server, httpx.AsyncClient(transport=Transport(keep_alive=0.05)) as client:
        assert (await client.post(server.url, content=b"x")).status_code == 204
        await closed.wait()


async def test_a_connection_rests_before_it_is_used_again() -> None:
    async with listening() as server, httpx.AsyncClient(transport=Transport(keep_alive=60, rest=0.05)) as client:
        for _ in range(2):
            await client.post(server.url)
        await asyncio.sleep(0.06)
        await client.post(server.url)
    assert [request.connection for request in server.requests] == [1, 2, 1]


async def test_resting_connections_are_bounded() -> None:
    async with listening() as server, httpx.AsyncClient(transport=Transport(keep_alive=60, rest=60)) as client:
        for _ in range(3 * MAX_IDLE):
            await client.post(server.url)
    assert server.connections == MAX_IDLE


async def test_it_is_a_transport_of_httpx() -> None:
    async def silent(wire: Wire) -> None:
        await wire.until_closed()

    async with (
        listening() as server,
        listening(silent) as other,
        httpx.AsyncClient(transport=Transport(keep_alive=1)) as client,
    ):
        response = await client.post(server.url, json={"a": 1}, headers={"x-a": "b"})
        with pytest.raises(httpx.ReadTimeout):
            await client.get(other.url, timeout=0.1)
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get("ftp://127.0.0.1/")
        with pytest.raises(httpx.LocalProtocolError):
            await client.get(server.url, headers={"x-a": "b\r\nx-c: d"})

    assert (response.status_code, response.text) == (200, "ok")
    (request,) = server.requests
    assert (request.body, request.headers["x-a"]) == (b'{"a":1}', "b")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://h", b"/"),
        ("https://h?a", b"/?a"),
        ("https://h#a", b"/"),
        ("https://h:1/a?b#c?d", b"/a?b"),
        ("https://[::1]:1/[x]", b"/[x]"),
        ("https://h/é☃", b"/%C3%A9%E2%98%83"),
        ("https://h/http://x/?y=http://z", b"/http://x/?y=http://z"),
    ],
)
def test_the_target_of_a_url(url: str, target: bytes) -> None:
    assert target_as_written(url) == target

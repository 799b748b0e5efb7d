"""Requests that are refused before their route: foreign hosts, proxies without a token, large or slow bodies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from ipaddress import ip_network
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.datastructures import Headers

from bridge.web import bodies, server
from bridge.web.proxies import client_of
from tests.web.conftest import Web
from tests.web.test_problems import is_problem

ROOMS = "/api/v1/rooms"
NO_HOSTS = ["[::1", "[::1]evil.example", "localhost:80@evil.example", "127.0.0.1:80/x?"]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8080", "[::1]:80", "192.0.2.1", "localhost", "LOCALHOST:1", "localhost.",
     "bridge.example.com", "other.example.com:443"],
)  # fmt: skip
async def test_addresses_and_own_names_are_hosts(web: Web, host: str) -> None:
    web.configure(web={"public_url": "https://Bridge.Example.com/x/", "hosts": ["other.example.com"]})
    async with web.client(host=host) as client:
        assert (await client.get(ROOMS)).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "2130706433", "127.1", "a@localhost", *NO_HOSTS]
)
@pytest.mark.parametrize("path", [ROOMS, "/", "/api/v1/openapi.json", "/nowhere"])
async def test_other_names_are_refused_everywhere(web: Web, host: str, path: str) -> None:
    async with web.client(web.token("admin"), host=host) as client:
        response = await client.get(path)

    assert (response.status_code, response.json()["status"]) == (421, 421)


async def test_probes_accept_every_host(web: Web) -> None:
    async with web.client(host="evil.example") as client:
        assert [(await client.get(path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via"])
async def test_without_a_token_nothing_comes_through_a_proxy(web: Web, header: str) -> None:
    async with web.client(**{header: "192.0.2.1"}) as client:
        assert [(await client.get(path)).status_code for path in (ROOMS, "/")] == [403, 403]
        assert (await client.get("/healthz")).status_code == 200
        client.headers["authorization"] = f"Bearer {web.token('read')}"
        assert (await client.get(ROOMS)).status_code == 200


async def test_only_trusted_proxies_name_the_host(web: Web) -> None:
    web.configure(web={"hosts": ["known.example"], "trusted_proxies": ["10.0.0.0/8"]})
    token = web.token("read")
    forwarded = {"host": "known.example", "x-forwarded-host": "evil.example"}
    async with web.client(token, address="10.1.1.1", **forwarded) as trusted, web.client(token, **forwarded) as other:
        assert (await trusted.get(ROOMS)).status_code == 421
        assert (await other.get(ROOMS)).status_code == 200


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", ["127.0.0.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["127.0.0.1, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["127.0.0.1", "192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1, unknown"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", [], "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_is(peer: str, forwarded: list[str], client: str) -> None:
    headers = Headers(raw=[(b"x-forwarded-for", value.encode()) for value in forwarded])
    assert client_of(peer, headers, [ip_network("10.0.0.0/8")]) == client


async def chunks(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b" " * size


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large_is_refused(web: Web, *, declared: bool) -> None:
    body = b" " * (bodies.LARGEST_BODY + 1) if declared else chunks(bodies.LARGEST_BODY, 1)
    async with web.client(web.token("write")) as client:
        response = await client.post(ROOMS, content=body, headers={"content-type": "application/json"})

    assert response.status_code == 413
    assert response.headers["connection"] == "close"


async def test_a_body_that_does_not_end_is_refused(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.01)

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with web.client(web.token("write")) as client:
        response = await client.post(ROOMS, content=endless(), headers={"content-type": "application/json"})

    assert (response.status_code, response.json()["title"]) == (408, "Request Timeout")


async def test_cors_only_for_the_origins_that_are_listed(web: Web) -> None:
    asked = {"origin": "https://app.example", "access-control-request-method": "GET"}
    async with web.client(web.token("read")) as client:
        plain = await client.get(ROOMS, headers={"origin": "https://app.example"})
        assert not [name for name in plain.headers if name.startswith("access-control")]
        assert (await client.options(ROOMS, headers=asked)).status_code == 405

        web.configure(web={"cors_origins": ["https://app.example"]})
        assert (await client.options(ROOMS, headers=asked)).headers["access-control-allow-origin"] == asked["origin"]
        other = await client.get(ROOMS, headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers

        refused = await client.options(ROOMS, headers={**asked, "origin": "https://evil.example"})
        assert is_problem(refused, 400)
        assert "origin" in refused.json()["detail"]
        assert "access-control-allow-origin" not in refused.headers
        assert refused.headers["vary"].startswith("Origin")


async def test_null_characters_are_no_part_of_a_url(web: Web) -> None:
    async with web.client() as client:
        assert (await client.get(f"{ROOMS}/a%00b")).status_code == 422
        assert json.loads((await client.get(f"{ROOMS}?source=%00")).text)["status"] == 422


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nX-Slow: "])
async def test_a_connection_without_a_request_ends(web: Web, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.05)
    async with server.serve_app(web.app, host="127.0.0.1", port=0, remedy="") as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        writer.write(sent)
        assert await reader.read() == b""
        writer.close()


async def test_a_connection_with_a_request_under_way_does_not_end(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.05)
    ended = asyncio.Event()

    async def slow() -> str:
        await ended.wait()
        return "done"

    web.app.router.add_api_route("/slow", slow)
    async with (
        server.serve_app(web.app, host="127.0.0.1", port=0, remedy="") as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        responding = asyncio.create_task(client.get("/slow"))
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        assert await reader.read() == b""  # a later connection, which sends nothing, has ended meanwhile
        writer.close()
        ended.set()
        assert (await responding).json() == "done"

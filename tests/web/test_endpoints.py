"""Endpoints over HTTP."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from bridge.admin.configured import apply_configuration
from bridge.admin.endpoints import list_endpoints, show_endpoint
from bridge.admin.listing import Page, document
from bridge.db.tables import endpoints, events, redeliveries
from bridge.delivery.endpoints import EndpointSpec
from bridge.delivery.targets import load_target
from tests.harness.builders import START, at
from tests.harness.receiver import Receiver, Response
from tests.harness.store_driver import GOOD, REJECTED, SECRET
from tests.web.conftest import Web

ENDPOINTS = "/api/v1/endpoints"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
URL = "http://127.0.0.1:9/hook"


def secrets_of(web: Web, name: str) -> tuple[str, ...]:
    target = web.store.database.read_now(load_target, name, now=at(web.now), cipher=web.store.cipher)
    return target.secrets


async def test_a_generated_secret_is_shown_once(web: Web) -> None:
    async with web.client(web.token("write")) as client:
        added = await client.post(ENDPOINTS, json={"name": "crm", "url": URL, "events": ["peer.*"]})
        shown = await client.get(f"{ENDPOINTS}/crm")
        by_id = await client.get(f"{ENDPOINTS}/{added.json()['id']}")
        rotated = await client.post(f"{ENDPOINTS}/crm/rotate", json={"grace": "1h"})
        listed = await client.get(ENDPOINTS)

    assert (added.status_code, rotated.status_code) == (201, 200)
    made = [added.json()["secret"], rotated.json()["secret"]]
    assert secrets_of(web, "crm") == tuple(dict.fromkeys(made[::-1]))
    for response in (shown, by_id, listed):
        assert made[0] not in response.text
        assert made[1] not in response.text
    assert by_id.json() == shown.json()
    assert (added.json()["origin"], added.json()["events"], added.json()["state"]) == ("manual", ["peer.*"], "active")


async def test_a_given_secret_and_header_values_are_never_shown(web: Web) -> None:
    body = {"name": "crm", "url": URL, "secret": SECRET, "headers": {"X-Auth": "hush-hush"}, "timeout": "3s"}
    async with web.client(web.token("write")) as client:
        responses = [
            await client.post(ENDPOINTS, json=body),
            await client.get(f"{ENDPOINTS}/crm"),
            await client.patch(f"{ENDPOINTS}/crm", json={"secret": OTHER_SECRET}),
            await client.post(f"{ENDPOINTS}/crm/rotate"),
        ]
    assert [response.status_code for response in responses] == [201, 200, 200, 409]
    assert responses[0].json()["secret"] is None
    assert responses[0].json()["timeout_seconds"] == 3
    for response in responses:
        for hidden in (SECRET, OTHER_SECRET, "hush-hush"):
            assert hidden.removeprefix("whsec_") not in response.text
    assert secrets_of(web, "crm") == (OTHER_SECRET, SECRET)


async def test_what_is_listed_and_shown_is_what_the_cli_prints(web: Web) -> None:
    for name in ("b", "a", "c/d"):
        web.store.subscribe(name)
    web.store.record_joins(0, "room")
    async with web.client(web.token("read")) as client:
        first = (await client.get(ENDPOINTS, params={"limit": 2})).json()
        second = (await client.get(ENDPOINTS, params={"limit": 2, "after": first["next"]})).json()
        shown = (await client.get(f"{ENDPOINTS}/c%2Fd")).json()
    listed = web.store.database.read_now(list_endpoints, Page(limit=10)).items
    assert [*first["items"], *second["items"]] == [document(one) for one in listed]
    assert [one.name for one in listed] == ["a", "b", "c/d"]
    assert shown == document(
        web.store.database.read_now(show_endpoint, "c/d", now=at(web.now), cipher=web.store.cipher)
    )


@pytest.mark.parametrize(
    ("wrong", "location"),
    [
        ({"name": None}, ["body", "name"]),
        ({"url": "ftp://example.com"}, ["body", "url"]),
        ({"url": "http://169.254.169.254/latest"}, ["body", "url"]),
        ({"url": "http://10.0.0.1/"}, ["body", "url"]),
        ({"url": "http://127.0.0.1/\ud800"}, ["body", "url"]),
        ({"events": ["peer.jonied"]}, ["body", "events", 0]),
        ({"events": []}, ["body", "events"]),
        ({"events": "peer.*"}, ["body", "events"]),
        ({"rooms": ["a\0"]}, ["body", "rooms", 0]),
        ({"style": "flatt"}, ["body", "style"]),
        ({"secret": "whsec_short"}, ["body", "secret"]),
        ({"secret": "env:HOME"}, ["body", "secret"]),
        ({"secret": "a\0b", "style": "huddle01"}, ["body", "secret"]),
        ({"secret_file": "/etc/passwd"}, ["body", "secret_file"]),
        ({"headers": {"X-Auth": "env:HOME"}}, ["body", "headers"]),
        ({"headers": {"X-Auth": "a", "x-auth": "b"}}, ["body", "headers"]),
        ({"headers": {"X-Auth": "a\nb"}}, ["body", "headers", "X-Auth"]),
        ({"headers": {"Host": "a"}}, ["body", "headers", "Host"]),
        ({"max_concurrency": 0}, ["body", "max_concurrency"]),
        ({"rate_per_second": "many"}, ["body", "rate_per_second"]),
        ({"timeout": "0s"}, ["body", "timeout"]),
        ({"enabled": "yes"}, ["body", "enabled"]),
        ({"evnts": ["peer.*"]}, ["body", "evnts"]),
    ],
)
async def test_a_wrong_body_is_422_and_changes_nothing(
    web: Web, wrong: dict[str, Any], location: list[str | int]
) -> None:
    web.store.subscribe("crm", url=URL)
    before = web.store.rows(endpoints)
    headers = {"content-type": "application/json"}
    async with web.client(web.token("write")) as client:
        added = await client.post(ENDPOINTS, content=json.dumps({"name": "new", "url": URL} | wrong), headers=headers)
        changed = await client.patch(f"{ENDPOINTS}/crm", content=json.dumps(wrong), headers=headers)
    for response in (added, changed):
        assert response.status_code == 422, response.text
        assert location in [error["loc"] for error in response.json()["errors"]], response.text
    assert web.store.rows(endpoints) == before


async def test_settings_are_changed_one_by_one(web: Web) -> None:
    async with web.client(web.token("write")) as client:
        added = (await client.post(ENDPOINTS, json={"name": "crm", "url": URL, "timeout": 2})).json()
        changed = await client.patch(f"{ENDPOINTS}/crm", json={"events": ["room.*"], "timeout": None})
        renamed = await client.patch(f"{ENDPOINTS}/crm", json={"name": "crm2", "enabled": False})
        signature = await client.patch(f"{ENDPOINTS}/crm2", json={"signature": "v1a"})
        enabled = await client.post(f"{ENDPOINTS}/crm2/enable")
        disabled = await client.post(f"{ENDPOINTS}/crm2/disable")
    expected = {key: value for key, value in added.items() if key not in {"secret", "public_key"}}
    expected |= {"events": ["room.*"], "timeout_seconds": None}
    assert changed.json() == expected
    assert (renamed.json()["name"], renamed.json()["state"], signature.status_code) == ("crm2", "disabled", 422)
    assert [error["loc"] for error in signature.json()["errors"]] == [["body", "signature"]]
    assert [one.json()["state"] for one in (enabled, disabled)] == ["active", "disabled"]


async def test_what_the_configuration_owns_is_not_changed_and_names_are_unique(web: Web) -> None:
    spec = EndpointSpec(name="configured", url=URL, secret=SECRET, enabled=False)
    web.store.write(apply_configuration, sources=["main"], rooms=[], endpoints=[spec], context=web.store.context())
    web.store.subscribe("crm")
    before = web.store.rows(endpoints)
    async with web.client(web.token("write")) as client:
        statuses = [
            (await client.post(ENDPOINTS, json={"name": "configured", "url": URL})).status_code,
            (await client.patch(f"{ENDPOINTS}/configured", json={"events": ["*"]})).status_code,
            (await client.patch(f"{ENDPOINTS}/crm", json={"name": "configured"})).status_code,
            (await client.delete(f"{ENDPOINTS}/configured")).status_code,
            (await client.post(f"{ENDPOINTS}/configured/rotate")).status_code,
            (await client.post(f"{ENDPOINTS}/configured/enable")).status_code,
        ]
        assert web.store.rows(endpoints) == before
        removed = [(await client.delete(f"{ENDPOINTS}/crm")).status_code for _ in range(2)]
    assert (statuses, removed) == ([409] * 6, [204, 404])


async def test_snapshots_are_appended_for_who_asks_for_them(web: Web) -> None:
    web.store.record_joins(0, "a")
    async with web.client(web.token("write")) as client:
        await client.post(ENDPOINTS, json={"name": "one", "url": URL, "events": ["room.snapshot"]})
        await client.post(ENDPOINTS, json={"name": "two", "url": URL, "events": ["peer.joined"]})
        await client.patch(f"{ENDPOINTS}/two", json={"events": ["room.*"]})
    assert web.store.event_types("a")[-2:] == ["room.snapshot"] * 2


async def test_a_test_delivery_is_signed_marked_guarded_and_stores_nothing(web: Web, receiver: Receiver) -> None:
    web.now = (datetime.now(UTC) - START).total_seconds()  # the receiver's clock is real
    web.store.subscribe("crm", url=f"{receiver.url}/crm", style="flat")
    web.store.subscribe("inside", url="http://169.254.169.254/")
    receiver.script(Response(status=202, body=b"thank you"))
    before = [web.store.rows(table) for table in (endpoints, events)]
    async with web.client(web.token("write")) as client:
        sent = (await client.post(f"{ENDPOINTS}/crm/test", json={"type": "session.reconciled"})).json()
        blocked = (await client.post(f"{ENDPOINTS}/inside/test")).json()
        unknown = await client.post(f"{ENDPOINTS}/crm/test", json={"type": "peer.jonied"})
    (delivery,) = receiver.deliveries
    assert (delivery.unverified, delivery.headers["bridge-test"]) == (None, "true")
    assert (delivery.event["type"], delivery.event["room_id"]) == ("session.reconciled", "test-room")
    assert (sent["event_id"], sent["outcome"], sent["status"]) == (delivery.event_id, "delivered", 202)
    assert (sent["response"], blocked["outcome"], unknown.status_code) == ("thank you", "blocked", 422)
    assert [web.store.rows(table) for table in (endpoints, events)] == before


async def test_a_replay_is_counted_and_requested(web: Web) -> None:
    web.store.subscribe("crm")
    web.store.record_joins(0, "a", people=3)
    web.store.reject_all(lambda _, kind: REJECTED if kind == "room.occupied" else GOOD)
    ids = [event["id"] for event in web.store.log("a")]
    url = f"{ENDPOINTS}/crm/replay"
    async with web.client(web.token("write")) as client:

        async def count(**body: object) -> object:
            return (await client.post(url, json=body)).json().get("count")

        assert [await count(since=at(-1).isoformat(), dry_run=True), await count(failed=True, dry_run=True)] == [4, 1]
        assert [await count(events=ids[:2], dry_run=True), len(web.store.rows(redeliveries))] == [2, 0]
        assert [await count(events=ids[:2]), await count(until=at(9).isoformat())] == [2, 2]
        assert len(web.store.rows(redeliveries)) == 4
        bodies: list[dict[str, object]] = [
            {}, {"events": []}, {"events": ids, "failed": True}, {"since": "soon"}, {"events": ["\0"]},
            {"since": 5}, {"failed": True, "x": 1}, {"since": "1h", "until": "2h"},
        ]  # fmt: skip
        wrong = [(await client.post(url, json=body)).status_code for body in bodies]
        unknown = (await client.post(url, json={"events": ["evt_nope"]})).status_code
    assert (wrong, unknown) == ([422] * 8, 404)


async def test_reading_is_not_writing(web: Web) -> None:
    web.store.subscribe("crm")
    async with web.client(web.token("read")) as client:
        statuses = {
            (await client.request(method, path)).status_code
            for method, path in [
                ("POST", ENDPOINTS), ("PATCH", f"{ENDPOINTS}/crm"), ("DELETE", f"{ENDPOINTS}/crm"),
                *(("POST", f"{ENDPOINTS}/crm/{what}") for what in ("test", "rotate", "replay", "enable", "disable")),
                ("POST", "/api/v1/events/e/redeliver"), ("POST", "/api/v1/events/e/skip"),
                ("POST", "/api/v1/hooks"), ("DELETE", "/api/v1/hooks/x"), ("GET", "/api/v1/samples/peer.joined"),
            ]
        }  # fmt: skip
    assert statuses == {403}

"""Events, endpoints, deliveries, hooks and samples respond with what the OpenAPI document says."""

from __future__ import annotations

from typing import Any

from tests.harness.builders import peer, seen
from tests.harness.store_driver import GOOD, REJECTED
from tests.web.conftest import Web
from tests.web.test_openapi import schema_of, violations

URL = "http://127.0.0.1:9/hook"
ENDPOINT, EVENT = "/api/v1/endpoints/{endpoint}", "/api/v1/events/{event_id}"


async def test_responses_have_the_shapes_that_are_described(web: Web) -> None:
    web.store.subscribe("crm", url=URL)
    web.store.track("a")
    web.store.poll(9, a=seen(peer("ann", 1), peer("bob", 2)))
    web.store.reject_all(lambda _, kind: REJECTED if kind == "room.occupied" else GOOD)
    web.store.subscribe("down", url=URL, events=("peer.*",))
    web.now = 500
    web.store.poll(500, a=seen(peer("ann", 1)))
    occupied, left = web.store.log("a")[0]["id"], web.store.log("a")[-1]["id"]
    names = {"endpoint": "new", "event_id": left, "hook_id": "ep_none", "event_type": "peer.left"}
    calls: list[tuple[str, str, dict[str, Any], int]] = [
        ("get", "/api/v1/events", {}, 200),
        ("get", "/api/v1/events", {"params": {"after": "x"}}, 422),
        ("get", EVENT, {}, 200),
        ("get", f"{EVENT}/attempts", {}, 200),
        ("post", f"{EVENT}/redeliver", {"json": {"endpoint": "crm"}}, 202),
        ("post", f"{EVENT}/redeliver", {"json": {"endpoint": "nobody"}}, 404),
        ("post", f"{EVENT}/skip", {"json": {"endpoint": "down"}}, 200),
        ("post", f"{EVENT}/skip", {"json": {"endpoint": "down"}}, 409),
        ("get", "/api/v1/deliveries", {}, 200),
        ("get", "/api/v1/deliveries", {"params": {"state": "dead"}}, 200),
        ("post", "/api/v1/endpoints", {"json": {"name": "new", "url": URL}}, 201),
        ("post", "/api/v1/endpoints", {"json": {"name": "new", "url": URL}}, 409),
        ("post", "/api/v1/endpoints", {"json": {"name": "new"}}, 422),
        ("get", "/api/v1/endpoints", {}, 200),
        ("get", ENDPOINT, {}, 200),
        ("patch", ENDPOINT, {"json": {"rooms": ["a"]}}, 200),
        ("patch", ENDPOINT, {"json": {"rooms": "a"}}, 422),
        ("post", f"{ENDPOINT}/test", {}, 200),
        ("post", f"{ENDPOINT}/rotate", {}, 200),
        ("post", f"{ENDPOINT}/replay", {"json": {"events": [occupied]}}, 200),
        ("post", f"{ENDPOINT}/disable", {}, 200),
        ("post", f"{ENDPOINT}/enable", {}, 200),
        ("post", "/api/v1/hooks", {"json": {"url": URL}}, 201),
        ("post", "/api/v1/hooks", {"json": {"url": "ftp://a"}}, 422),
        ("get", "/api/v1/samples/{event_type}", {}, 200),
    ]
    async with web.client(web.token("write")) as client:
        for method, path, arguments, status in calls:
            response = await client.request(method, path.format(**names), **arguments)
            assert response.status_code == status, (method, path, response.text)
            assert violations(schema_of(method, path, status), response.json()) == [], (method, path)
        assert [
            (await client.delete(path.format(**names))).status_code for path in (ENDPOINT, "/api/v1/hooks/{hook_id}")
        ] == [204, 204]

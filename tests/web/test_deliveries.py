"""Attempts, dead letters, redelivery and skipping over HTTP."""

from __future__ import annotations

import pytest

from bridge.admin.attempts import AttemptFilter, list_attempts, list_dead_letters
from bridge.admin.listing import Page, document
from tests.harness.builders import peer, seen
from tests.harness.store_driver import GOOD, REJECTED, RETRYABLE
from tests.web.conftest import Web

DELIVERIES = "/api/v1/deliveries"


@pytest.fixture
def busy(web: Web) -> Web:
    """`crm` has got everything, `picky` has rejected a join for good, `down` gets nothing."""
    for name in ("crm", "picky", "down"):
        web.store.subscribe(name)
    web.store.track("a")
    web.store.poll(0, a=seen(peer("p", 0)))
    answers = {"crm": {}, "picky": {"peer.joined": REJECTED}, "down": {"room.occupied": RETRYABLE}}
    web.store.reject_all(lambda cursor, kind: answers[cursor.target.name].get(kind, GOOD))
    web.now = 400
    return web


async def test_attempts_and_dead_letters_are_listed_as_by_the_cli(busy: Web) -> None:
    letters = busy.store.database.read_now(list_dead_letters, AttemptFilter(), Page(limit=50)).items
    attempts = busy.store.database.read_now(list_attempts, AttemptFilter(), Page(limit=50)).items
    joined = busy.store.log("a")[1]["id"]
    async with busy.client(busy.token("read")) as client:

        async def listed(**params: str) -> list[dict[str, object]]:
            items: list[dict[str, object]] = (await client.get(DELIVERIES, params=params)).json()["items"]
            return items

        assert await listed() == list(map(document, attempts))
        assert await listed(state="dead") == list(map(document, letters))
        assert {one["endpoint"] for one in await listed(state="failed")} == {"picky", "down"}
        assert {one["outcome"] for one in await listed(state="delivered")} == {"delivered"}
        assert {one["event_id"] for one in await listed(event=joined, endpoint="crm")} == {joined}
        first = (await client.get(DELIVERIES, params={"limit": "2"})).json()
        second = (await client.get(DELIVERIES, params={"limit": "2", "after": first["next"]})).json()
        assert [*first["items"], *second["items"]] == (await listed())[:4]
        statuses = [
            (await client.get(DELIVERIES, params=params)).status_code
            for params in ({"state": "odd"}, {"endpoint": "nobody"}, {"event": "evt_nope"})
        ]
    assert [one["event_id"] for one in map(document, letters)] == [joined]
    assert statuses == [422, 404, 404]


async def test_an_event_is_sent_again_to_one_endpoint(busy: Web) -> None:
    joined = busy.store.log("a")[1]["id"]
    url = f"/api/v1/events/{joined}/redeliver"
    async with busy.client(busy.token("write")) as client:
        first = await client.post(url, json={"endpoint": "picky"})
        again = await client.post(url, json={"endpoint": "picky"})
        wrong = [
            (await client.post(path, json=body)).status_code
            for path, body in [
                (url, {"endpoint": "nobody"}),
                ("/api/v1/events/evt_nope/redeliver", {"endpoint": "picky"}),
                (url, {}),
                (url, {"endpoint": "picky", "more": 1}),
                (url, {"endpoint": "pic\0ky"}),
            ]
        ]
    assert (first.status_code, first.json(), again.json()) == (202, {"count": 1}, {"count": 0})
    assert wrong == [404, 404, 422, 422, 422]


async def test_the_next_event_is_skipped_and_no_other(busy: Web) -> None:
    occupied, joined = (event["id"] for event in busy.store.log("a"))
    async with busy.client(busy.token("write")) as client:
        later = await client.post(f"/api/v1/events/{joined}/skip", json={"endpoint": "down"})
        skipped = await client.post(f"/api/v1/events/{occupied}/skip", json={"endpoint": "down"})
        again = await client.post(f"/api/v1/events/{occupied}/skip", json={"endpoint": "down"})
        dead = (await client.get(DELIVERIES, params={"state": "dead", "endpoint": "down"})).json()["items"]
    assert (later.status_code, skipped.status_code, again.status_code) == (409, 200, 409)
    assert (skipped.json(), skipped.json()["reason"]) == (dead[0], "skipped")
    assert [cursor.events[0].public_id for cursor in busy.store.owed(400)] == [joined]

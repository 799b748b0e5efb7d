"""Rooms over HTTP. The other topics are tested in the same way: a store, a token, calls of the app."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from bridge.admin.listing import Page, document
from bridge.admin.rooms import list_rooms, show_room
from bridge.db.tables import rooms
from bridge.polling.claim import release_rooms
from bridge.rules.presence import FailureKind
from bridge.web.server import serve_app
from tests.harness.builders import peer, seen
from tests.harness.simulator import Simulator
from tests.harness.store_driver import failed
from tests.web.conftest import Web

ROOMS = "/api/v1/rooms"
ODD_IDS = ["a/b", "a%2Fb", "%", "..%2f", "a b", "ä/💥", "?x=1#y", "a//b", "/"]


async def test_a_list_has_the_items_of_the_cli_and_ends_with_null(web: Web) -> None:
    web.store.track("a", "b", "c")
    web.store.poll(0, b=seen("ann"))

    async with web.client(web.token("read")) as client:
        first = (await client.get(ROOMS, params={"limit": 2})).json()
        second = (await client.get(ROOMS, params={"limit": 2, "after": first["next"]})).json()
        reverse = (await client.get(ROOMS, params={"order": "desc"})).json()

    listed = [document(room) for room in web.store.database.read_now(list_rooms, Page(limit=10)).items]
    assert [*first["items"], *second["items"]] == listed
    assert (first["items"][1]["state"], second["next"]) == ("occupied", None)
    assert reverse["items"] == listed[::-1]


async def test_a_room_is_added_changed_shown_and_removed(web: Web) -> None:
    room = {"room_id": "a", "name": "Stand-up", "interval": "5s", "leave_after_missed": 2}
    async with web.client(web.token("write", name="ops")) as client:
        with capture_logs() as logs:
            added = await client.post(ROOMS, json=room)
        changed = await client.post(ROOMS, json={"room_id": "a", "source": "main", "interval": 2.5})
        shown = await client.get(f"{ROOMS}/a")
        removed = await client.delete(f"{ROOMS}/a")
        gone = [(await client.request(method, f"{ROOMS}/a")).status_code for method in ("GET", "DELETE")]

    facts = [(line["event"], line["route"], line["token"], line["status"]) for line in logs]
    assert facts == [("request.handled", ROOMS, "ops", 201)]
    assert (added.status_code, added.json()["interval_seconds"], added.json()["origin"]) == (201, 5, "manual")
    assert (changed.status_code, changed.json()["interval_seconds"], changed.json()["name"]) == (200, 2.5, None)
    assert shown.json() == changed.json()
    assert (removed.status_code, removed.content, gone) == (204, b"", [404, 404])


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({}, ["body", "room_id"]),
        ({"room_id": ".."}, ["body", "room_id"]),
        ({"room_id": 5}, ["body", "room_id"]),
        ({"room_id": "a\0"}, ["body", "room_id"]),
        ({"room_id": "\ud800"}, ["body", "room_id"]),
        ({"room_id": "a", "interval": "soon"}, ["body", "interval"]),
        ({"room_id": "a", "leave_after_missed": 0}, ["body", "leave_after_missed"]),
        ({"room_id": "a", "source": "other"}, ["body", "source"]),
        ({"room_id": "a", "nam": "b"}, ["body", "nam"]),
        ([], ["body"]),
        ("a", ["body"]),
    ],
)
async def test_a_wrong_body_is_422_and_names_the_key(web: Web, body: Any, location: list[str]) -> None:  # noqa: ANN401 - JSON
    async with web.client(web.token("write")) as client:
        headers = {"content-type": "application/json"}
        response = await client.post(ROOMS, content=json.dumps(body), headers=headers)

    assert (response.status_code, [error["loc"] for error in response.json()["errors"]]) == (422, [location])


async def test_rooms_of_the_configuration_are_not_changed(web: Web) -> None:
    web.store.track("a")
    web.store.write(lambda connection: connection.execute(update(rooms).values(origin="config")))
    async with web.client(web.token("write")) as client:
        responses = [await client.post(ROOMS, json={"room_id": "a"}), await client.delete(f"{ROOMS}/a")]

    assert [response.status_code for response in responses] == [409, 409]
    assert web.store.database.read_now(show_room, "a").origin == "config"


async def test_a_room_of_two_sources_is_named_with_its_source(web: Web) -> None:
    for source in ("main", "second"):
        web.store.track("a", source=source)
    async with web.client(web.token("read")) as client:
        assert (await client.get(f"{ROOMS}/a")).status_code == 409
        shown = await client.get(f"{ROOMS}/a", params={"source": "second"})
        listed = await client.get(ROOMS, params={"source": "second"})

    assert shown.json()["source"] == "second"
    assert [room["source"] for room in listed.json()["items"]] == ["second"]


async def test_peers_come_page_by_page_those_who_joined_last_first(web: Web) -> None:
    web.store.track("a", "empty")
    web.store.poll(9, a=seen(peer("ann", 1), peer("bob", 2), peer("cyd", 3)))

    async with web.client(web.token("read")) as client:
        pages = [(await client.get(f"{ROOMS}/a/peers", params={"limit": 2})).json()]
        web.store.poll(20, a=seen(peer("ann", 1), peer("bob", 2), peer("cyd", 3), peer("dan", 15)))
        pages.append((await client.get(f"{ROOMS}/a/peers", params={"limit": 2, "after": pages[0]["next"]})).json())
        empty = (await client.get(f"{ROOMS}/empty/peers")).json()

    assert [[item["peer_id"] for item in page["items"]] for page in pages] == [["cyd", "bob"], ["ann"]]
    assert (pages[1]["next"], empty) == (None, {"items": [], "next": None})


async def test_presence_has_the_occupied_rooms_with_their_peers(web: Web) -> None:
    web.store.track("a", "b", "c", name="Room")
    web.store.poll(5, a=seen(peer("ann", 1), peer("bob", 2)), b=seen(), c=seen(peer("cyd", 3)))

    async with web.client(web.token("read")) as client:
        first = (await client.get("/api/v1/presence", params={"limit": 1})).json()
        second = (await client.get("/api/v1/presence", params={"limit": 1, "after": first["next"]})).json()

    (a,), (c,) = first["items"], second["items"]
    facts = [a[key] for key in ("source", "room_id", "room_name", "state", "peer_count")]
    assert facts == ["main", "a", "Room", "occupied", 2]
    assert a["peers"] == [document(peer) for peer in web.store.database.read_now(show_room, "a").peers]
    assert (c["room_id"], second["next"]) == ("c", None)


async def test_a_poll_returns_its_outcome_and_its_changes(web: Web, simulator: Simulator) -> None:
    web.configure(upstream=simulator.url)
    web.store.track("a", "empty")
    simulator.join("a", "ann", metadata={"displayName": "Ann"})
    async with web.client(web.token("write")) as client:
        empty = (await client.post(f"{ROOMS}/empty/poll")).json()
        polled = (await client.post(f"{ROOMS}/a/poll")).json()
        again = (await client.post(f"{ROOMS}/a/poll")).json()
        unknown = await client.post(f"{ROOMS}/b/poll")

    assert (polled["outcome"], [change["type"] for change in polled["changes"]]) == (
        "complete",
        ["room.occupied", "peer.joined"],
    )
    assert [one["display_name"] for one in polled["peers"]] == ["Ann"]
    assert (empty["outcome"], empty["changes"]) == ("complete", [])
    assert empty["notes"] == ["the upstream knows of no session in this room"]
    assert (again["outcome"], again["changes"], unknown.status_code) == ("complete", [], 404)


async def test_a_poll_of_a_rate_limited_source_is_503_with_the_time_to_wait(web: Web) -> None:
    web.store.track("a")
    web.store.poll(0, a=failed(FailureKind.RATE_LIMITED, retry_after=30))
    web.now = 10

    async with web.client(web.token("write")) as client:
        response = await client.post(f"{ROOMS}/a/poll")

    assert (response.status_code, response.headers["retry-after"]) == (503, "20")


async def test_a_poll_waits_for_one_that_is_under_way(web: Web, simulator: Simulator) -> None:
    web.configure(upstream=simulator.url)
    web.store.track("a")
    simulator.join("a", "ann")
    (claimed,) = web.store.claim(0)

    async with web.client(web.token("write")) as client:
        polling = asyncio.create_task(client.post(f"{ROOMS}/a/poll"))
        done, _ = await asyncio.wait([polling], timeout=0.3)
        assert not done
        await web.store.database.write(release_rooms, [claimed])
        assert (await polling).json()["outcome"] == "complete"


@pytest.mark.parametrize("room_id", ODD_IDS)
async def test_an_id_may_contain_anything(web: Web, room_id: str) -> None:
    """Through a real server: it decodes the path before the app sees it."""
    web.configure(web={"tokens": [{"name": "t", "token": "t0ken", "scopes": ["read"]}]})
    web.store.track(room_id)
    segment = "".join(f"%{byte:02X}" for byte in room_id.encode())

    async with (
        serve_app(web.app, host="127.0.0.1", port=0, remedy="") as url,
        httpx.AsyncClient(base_url=url, headers={"authorization": "Bearer t0ken"}) as client,
    ):
        shown = await client.get(f"/api/v1/rooms/{segment}")
        peers = await client.get(f"/api/v1/rooms/{segment}/peers")

    assert (shown.json().get("room_id"), peers.status_code) == (room_id, 200)

"""The event log over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection

from bridge.admin.events import EventFilter, list_events
from bridge.admin.listing import Page
from bridge.attendance.privacy import Person, erase_person
from bridge.polling.record import record_polls
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import GOOD, RETRYABLE, StoreDriver, polled_room
from tests.web.conftest import Web

EVENTS = "/api/v1/events"


def fill(store: StoreDriver) -> None:
    """Ada joins two rooms, Bob one of them."""
    ada, bob = (peer(f"peer-{name}", metadata={"email": name}) for name in ("ada", "bob"))
    store.track("a", "b/c")
    store.poll(0, a=seen(ada, bob))
    store.poll(10, **{"b/c": seen(ada)})


def logged(store: StoreDriver, **wanted: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - fields of an EventFilter
    return [one.facts for one in store.database.read_now(list_events, EventFilter(**wanted), Page(limit=100)).items]


async def every_page(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - query parameters
    items: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        response = await client.get(EVENTS, params={"limit": 2, **params, **after})
        page = response.raise_for_status().json()
        items += page["items"]
        if page["next"] is None:
            return items
        after = {"after": page["next"]}


async def test_the_log_is_listed_page_by_page_in_both_orders(web: Web) -> None:
    fill(web.store)
    everything = logged(web.store)
    async with web.client(web.token("read")) as client:
        assert await every_page(client) == everything
        assert await every_page(client, order="asc") == everything[::-1]
        assert await every_page(client, room="b/c", order="asc") == web.store.log("b/c")
        assert await every_page(client, room="a", after_sequence=1) == web.store.log("a")[:0:-1]
        assert await every_page(client, person="ada", type="*.joined") == logged(
            web.store, person="ada", types=("peer.joined",)
        )
        both = await every_page(client, type=["room.occupied", "peer.left"], since=at(5).isoformat())
        assert [event["data"]["room_id"] for event in both] == ["b/c"]
        assert (await client.get(f"{EVENTS}/{everything[0]['id']}")).json() == everything[0]


@pytest.mark.parametrize(
    ("params", "status", "location"),
    [
        ({"room": "nowhere"}, 404, None),
        ({"type": "peer.jonied"}, 422, ["query", "type"]),
        ({"since": "yesterday"}, 422, ["query", "since"]),
        ({"after": "x"}, 422, None),
        ({"after_sequence": 1}, 422, ["query", "after_sequence"]),
        ({"after_sequence": -1, "room": "a"}, 422, ["query", "after_sequence"]),
        ({"after_sequence": 2**64, "room": "a"}, 422, ["query", "after_sequence"]),
        ({"limit": 501}, 422, ["query", "limit"]),
        ({"rooms": "a"}, 422, ["query", "rooms"]),
    ],
)
async def test_a_wrong_filter_is_a_problem(
    web: Web, params: dict[str, Any], status: int, location: list[str] | None
) -> None:
    fill(web.store)
    async with web.client(web.token("read")) as client:
        response = await client.get(EVENTS, params=params)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    if location is not None:
        assert [error["loc"] for error in response.json()["errors"]] == [location]


async def test_an_erased_event_is_not_found(web: Web) -> None:
    fill(web.store)
    (joined,) = [event for event in web.store.log("b/c") if event["type"] == "peer.joined"]
    web.store.poll(20, **{"a": seen(), "b/c": seen()})
    web.store.write(erase_person, Person(key="ada"), at(30), web.store.new_id)
    async with web.client(web.token("read")) as client:
        assert (await client.get(f"{EVENTS}/{joined['id']}")).status_code == 404
        assert (await client.get(f"{EVENTS}/{joined['id']}/attempts")).status_code == 404
        assert await every_page(client, person="ada") == []


async def test_the_attempts_of_an_event_are_listed(web: Web) -> None:
    web.store.subscribe("crm")
    web.store.subscribe("erp", events=("room.occupied",))
    fill(web.store)
    web.store.deliver(10, lambda cursor, _: RETRYABLE if cursor.target.name == "erp" else GOOD)
    occupied = web.store.log("a")[0]["id"]
    async with web.client(web.token("read")) as client:
        attempts = (await client.get(f"{EVENTS}/{occupied}/attempts")).json()["items"]
    assert {(one["endpoint"], one["outcome"], one["status"]) for one in attempts} == {
        ("crm", "delivered", 200),
        ("erp", "retryable", 500),
    }
    assert {one["event_id"] for one in attempts} == {occupied}


async def test_from_old_to_new_nothing_is_passed_over_that_commits_late(web: Web) -> None:
    """A writer that is open has lower keys than one that has committed: what is behind it waits."""
    web.store.track("slow", "fast")
    slow, fast = web.store.claim(0)
    written, may_commit = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def record_slowly(connection: Connection) -> None:
        record(connection, slow)
        loop.call_soon_threadsafe(written.set)
        asyncio.run_coroutine_threadsafe(may_commit.wait(), loop).result()

    def record(connection: Connection, room: Any) -> None:  # noqa: ANN401 - a ClaimedRoom
        polled = [polled_room(room, seen("p"), 0)]
        record_polls(connection, polled, settings=web.store.settings, new_id=web.store.new_id)

    async with web.client(web.token("read")) as client:
        assert await every_page(client, order="asc") == []
        writing = asyncio.create_task(asyncio.to_thread(web.store.database.write_now, record_slowly))
        await written.wait()
        if web.store.database.dialect == "postgresql":  # SQLite has one writer at a time
            await asyncio.to_thread(web.store.database.write_now, record, fast)
            assert [event["data"]["room_id"] for event in await every_page(client)] == ["fast"] * 2
        assert await every_page(client, order="asc") == []
        may_commit.set()
        await writing
        assert await every_page(client, order="asc") == logged(web.store)[::-1]

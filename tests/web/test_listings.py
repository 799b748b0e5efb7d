"""Listings as a whole: CLI and API agree key for key; pages neither repeat nor miss while rows are added."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from tests.harness.builders import peer, seen
from tests.harness.process import command
from tests.harness.store_driver import GOOD, REJECTED
from tests.web.conftest import Web

EVENTS = 1_500
PAIRS: list[tuple[str, str, dict[str, str]]] = [
    ("rooms list", "/rooms", {}),
    ("rooms show a", "/rooms/a", {}),
    ("endpoints list", "/endpoints", {}),
    ("endpoints show crm", "/endpoints/crm", {}),
    ("events list", "/events", {}),
    ("events list --room a --type peer.*", "/events", {"room": "a", "type": "peer.*"}),
    ("deliveries list", "/deliveries", {}),
    ("deliveries list --failed", "/deliveries", {"state": "failed"}),
    ("deliveries list --dead", "/deliveries", {"state": "dead"}),
    ("audit head", "/audit/head", {}),
    ("attendance export --format json --view visit", "/attendance", {"view": "visit"}),
    ("attendance export --format json --view person", "/attendance", {"view": "person"}),
    ("attendance export --format json --view total", "/attendance", {"view": "total"}),
]


async def test_cli_and_api_agree(web: Web, tmp_path: Path) -> None:
    store = web.store
    store.track("a", "b", name="Weekly")
    store.subscribe("crm")
    store.poll(0, a=seen(), b=seen())
    store.poll(10, a=seen(peer("p1", 5, {"displayName": "Ann"}), peer("p2", 6)), b=seen(peer("p3", 7)))
    store.poll(20, a=seen(peer("p1", 5, {"displayName": "Ann"})), b=seen())
    for seconds in (21, 30, 400):
        store.deliver(seconds, lambda _, kind: REJECTED if kind == "room.empty" else GOOD)

    async with web.client(web.token("read")) as client:
        for words, path, query in PAIRS:
            as_json = [] if "--format" in words else ["--json"]
            printed = json.loads(await asyncio.to_thread(command, tmp_path / "bridge.toml", *words.split(), *as_json))
            given = (await client.get(f"/api/v1{path}", params=query)).json()

            assert _items(given) == (printed if isinstance(printed, list) else [_without_time(printed)]), words
            assert printed, words


async def test_pages_neither_repeat_nor_miss_while_a_writer_adds(web: Web) -> None:
    """Three readers: from the newest on, from the oldest on, and one of a single room; each reads again and again."""
    store = web.store
    rooms = [f"room-{number}" for number in range(10)]
    store.track(*rooms)
    store.poll(0, **dict.fromkeys(rooms, seen()))

    def write() -> None:
        seconds = 0
        while sum(store.room(room).last_sequence for room in rooms) < EVENTS:
            seconds += 20
            people = seen(*(peer(f"p{number}", seconds) for number in range(12)))
            for some in (rooms[:5], rooms[5:]):
                store.poll(seconds, **dict.fromkeys(some, people))
                store.poll(seconds + 10, **dict.fromkeys(some, seen()))

    async with web.client(web.token("read")) as client:
        web.configure(web={"requests_per_second": 0})
        writing = asyncio.create_task(asyncio.to_thread(write))
        queries = [{"order": "desc"}, {"order": "asc"}, {"order": "asc", "room": "room-3"}]
        downs, ups, of_room = await asyncio.gather(*(_read_until(writing, client, query) for query in queries))

    every = [event["id"] for event in ups[-1]]
    assert len(set(every)) == len(every) >= EVENTS
    assert min(map(len, (downs, ups, of_room))) > 1, "no reader has read while it was written"
    for read in downs:
        assert [event["id"] for event in reversed(read)] == every[: len(read)]
    for read in ups:
        assert [event["id"] for event in read] == every[: len(read)]
    for read in of_room:
        assert [event["data"]["sequence"] for event in read] == list(range(1, len(read) + 1))


async def _read_until(writing: asyncio.Task[None], client: httpx.AsyncClient, query: dict[str, str]) -> list[list[Any]]:
    """Read the whole list again and again, the last time after the writer has ended."""
    found = []
    has_ended = False
    while not has_ended:
        has_ended = writing.done()
        found.append(await _read(client, query))
    return found


async def _read(client: httpx.AsyncClient, query: dict[str, str]) -> list[Any]:
    items: list[Any] = []
    after: str | None = ""
    while after is not None:
        position = {"after": after} if after else {}
        page = (await client.get("/api/v1/events", params={**query, **position, "limit": "83"})).json()
        items += page["items"]
        after = page["next"]
    return items


def _items(given: Any) -> list[Any]:  # noqa: ANN401 - any JSON
    return given["items"] if "items" in given else [_without_time(given)]


def _without_time(facts: dict[str, Any]) -> dict[str, Any]:
    """The head of the audit names the time at which it was read."""
    return {key: value for key, value in facts.items() if key != "at"}

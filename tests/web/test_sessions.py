"""Sessions over HTTP."""

from __future__ import annotations

from datetime import datetime

import pytest

from bridge.admin.listing import Page, document
from bridge.admin.sessions import list_sessions
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import StoreDriver
from tests.web.conftest import Web

SESSIONS = "/api/v1/sessions"


def meet(store: StoreDriver) -> None:
    """Room a has a session from 1 to 100 and one from 200 on, room b one from 50 to 150."""
    store.track("a", "b", name="Room")
    store.poll(10, a=seen(peer("ann", 1)))
    store.poll(60, b=seen(peer("bob", 50)))
    store.poll(100, a=seen())
    store.poll(150, b=seen())
    store.poll(210, a=seen(peer("cyd", 200)))


async def test_a_session_is_listed_and_shown(web: Web) -> None:
    meet(web.store)
    async with web.client(web.token("read")) as client:
        items = (await client.get(SESSIONS)).json()["items"]
        shown = (await client.get(f"{SESSIONS}/{items[1]['id']}")).json()
        missing = await client.get(f"{SESSIONS}/ses_none")

    assert items == [document(one) for one in web.store.database.read_now(list_sessions, Page(limit=10)).items]
    assert items[1] == shown
    facts = ("source", "room_id", "room_name", "started_at", "ended_at", "duration_seconds", "empty_reason")
    assert [shown[key] for key in facts] == [
        "main", "b", "Room", "2026-11-23T09:00:50.000Z", "2026-11-23T09:02:30.000Z", 100.0, "absent",
    ]  # fmt: skip
    assert (items[0]["ended_at"], items[0]["duration_seconds"], missing.status_code) == (None, None, 404)


async def test_a_session_took_as_long_as_its_last_event_says(web: Web) -> None:
    web.store.track("a")
    web.store.poll(10, a=seen(peer("ann", 1.0009)))
    web.store.poll(100.0015, a=seen())
    async with web.client(web.token("read")) as client:
        (session,) = (await client.get(SESSIONS)).json()["items"]

    told = web.store.log("a")[-1]["data"]
    facts = ("started_at", "ended_at", "duration_seconds")
    assert [session[key] for key in facts] == [told[key] for key in facts]
    assert session["duration_seconds"] == 99.001


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["a 200", "b 50", "a 1"]),
        ({"order": "asc"}, ["a 1", "b 50", "a 200"]),
        ({"room": "a"}, ["a 200", "a 1"]),
        ({"since": at(120).isoformat()}, ["a 200", "b 50"]),
        ({"until": "2026-11-23T09:00:50Z"}, ["a 1"]),
        ({"since": "2026-11-23T09:01:50", "until": "2026-11-23T09:02:00"}, ["b 50"]),
        ({"since": "1m"}, ["a 200"]),
    ],
)
async def test_sessions_of_a_room_and_of_a_time(web: Web, query: dict[str, str], expected: list[str]) -> None:
    meet(web.store)
    web.now = 240
    async with web.client(web.token("read")) as client:
        items = (await client.get(SESSIONS, params=query)).json()["items"]

    starts = [datetime.fromisoformat(one["started_at"]) - at(0) for one in items]
    rooms = [one["room_id"] for one in items]
    assert [f"{room} {start.total_seconds():g}" for room, start in zip(rooms, starts, strict=True)] == expected


@pytest.mark.parametrize(
    ("query", "status", "location"),
    [
        ({"room": "nowhere"}, 404, None),
        ({"since": "yesterday"}, 422, ["query", "since"]),
        ({"until": "5"}, 422, ["query", "until"]),
        ({"since": "1h", "until": "2h"}, 422, ["query", "until"]),
    ],
)
async def test_what_cannot_be_listed_is_a_problem(
    web: Web, query: dict[str, str], status: int, location: list[str] | None
) -> None:
    async with web.client(web.token("read")) as client:
        response = await client.get(SESSIONS, params=query)

    assert response.status_code == status
    assert [error["loc"] for error in response.json().get("errors", [])] == ([] if location is None else [location])

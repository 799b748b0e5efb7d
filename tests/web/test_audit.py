"""Tamper evidence and erasure over HTTP."""

from __future__ import annotations

import asyncio
import threading

import httpx
from sqlalchemy import Connection, update

from bridge.attendance.audit import read_heads
from bridge.attendance.verify import verify_log
from bridge.db.engine import LONG_READERS
from bridge.db.tables import events
from tests.harness.builders import at, peer, seen
from tests.harness.waiting import until
from tests.web.conftest import Web

VERIFY = "/api/v1/audit/verify"
EMAIL = "ann/1@example.com"


def meet(web: Web) -> None:
    """Ann, whose key contains a slash, and Bo were in a room; Bo is still there."""
    web.store.track("a")
    people = peer("p1", 1, {"email": EMAIL, "displayName": "Ann Example"}), peer("p2", 2, {"displayName": "Bo"})
    web.store.poll(10, a=seen(*people))
    web.store.poll(20, a=seen(people[1]))


async def verified(web: Web, client: httpx.AsyncClient) -> httpx.Response:
    started = await client.post(VERIFY)
    assert started.status_code == 202
    await until(lambda: web.state.verification.under_way_since is None)
    response = await client.get(VERIFY)
    assert response.json()["at"] == started.json()["at"]
    return response


async def test_the_heads_are_those_of_the_cli(web: Web) -> None:
    meet(web)
    web.now = 30
    async with web.client(web.token("read")) as client:
        response = await client.get("/api/v1/audit/head")

    assert response.json() == web.store.database.read_now(read_heads, at(30)).document
    assert response.json()["events"] == 4


async def test_the_last_verification_is_shown_with_its_time(web: Web) -> None:
    meet(web)
    async with web.client(web.token("write")) as client:
        before = await client.get(VERIFY)
        sound = await verified(web, client)
        web.now = 7
        web.store.write(lambda connection: connection.execute(update(events).values(salt=b"x").where(events.c.id == 2)))
        tampered = await verified(web, client)

    assert before.status_code == 404
    assert (sound.json()["ok"], sound.json()["events"], sound.json()["problems"]) == (True, 4, [])
    found = web.store.database.read_once(verify_log).document
    assert found["problems"]
    assert tampered.json() == {"at": "2026-11-23T09:00:07.000Z", **found}


async def test_one_verification_runs_at_a_time_and_exports_delay_no_request(web: Web) -> None:
    go_on = threading.Event()

    def export_slowly(_: Connection) -> None:
        go_on.wait()

    slow = [asyncio.create_task(web.store.database.read_long(export_slowly)) for _ in range(LONG_READERS)]
    await asyncio.sleep(0)
    try:
        async with web.client(web.token("write")) as client:
            first = await client.post(VERIFY)
            web.now = 5
            second = await client.post(VERIFY)
            is_under_way = web.state.verification.under_way_since
            rooms = await client.get("/api/v1/rooms")
    finally:
        go_on.set()
        await asyncio.gather(*slow)
    await until(lambda: web.state.verification.last is not None)

    assert (first.status_code, second.status_code, rooms.status_code) == (202, 202, 200)
    assert first.json() == second.json() == {"at": "2026-11-23T09:00:00.000Z"}
    assert is_under_way == at(0)


async def test_a_person_is_erased_unless_they_are_present(web: Web) -> None:
    meet(web)
    async with web.client(web.token("admin")) as client:
        present = await client.delete("/api/v1/people/p2")
        erased = await client.delete("/api/v1/people/ann%2F1%40example.com")
        again = await client.delete("/api/v1/people/ann%2F1%40example.com")
        sound = await verified(web, client)
    async with web.client(web.token("write")) as writer:
        refused = await writer.delete("/api/v1/people/p2")

    assert (present.status_code, refused.status_code) == (409, 403)
    assert (erased.json(), again.json()) == ({"visits": 1}, {"visits": 0})
    assert (sound.json()["ok"], sound.json()["erased"]) == (True, 2)
    if (file := web.store.database.file) is not None:
        kept = b"".join(part.read_bytes() for part in file.parent.glob(f"{file.name}*"))
        assert b"Ann Example" not in kept
        assert b"displayName" in kept

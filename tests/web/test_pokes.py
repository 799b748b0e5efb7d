"""Pokes: the upstream's own webhooks make a room due at once, and change nothing else."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64encode
from typing import Any

import httpx
import jwt
import pytest

from bridge.admin.rooms import show_room
from bridge.web.seen_pokes import KEPT, REMEMBERED, SeenPokes
from tests.harness.builders import at, peer, seen
from tests.harness.config import API_KEY
from tests.web.conftest import Web

LIVEKIT_SECRET = "a-secret-of-livekit-that-is-long-enough"


def signed(
    room: str,
    now: float,
    *,
    key: str = API_KEY,
    message: str = "1",
    event: str = "peer:left",
    **more: Any,  # noqa: ANN401 - JSON
) -> dict[str, Any]:
    body = {"id": message, "event": event, "payload": {"roomId": room, **more}}
    content = json.dumps(body, separators=(",", ":")).encode()
    time = int(at(now).timestamp() * 1000)
    mac = hmac.digest(key.encode(), f"{message}.{time}.".encode() + content, "sha256").hex()
    return {"content": content, "headers": {"huddle01-signature": f"t={time},sha256={mac}"}}


def counted(web: Web) -> dict[str, float]:
    samples = (sample for metric in web.state.metrics.registry.collect() for sample in metric.samples)
    return {one.labels["outcome"]: one.value for one in samples if one.name == "bridge_pokes_total"}


async def poke(client: httpx.AsyncClient, path: str = "/pokes/main", **request: Any) -> int:  # noqa: ANN401 - of httpx
    return (await client.post(path, **request)).status_code


async def test_a_signed_message_makes_its_room_due_and_changes_nothing_else(web: Web) -> None:
    web.token("read")
    web.store.track("a", "b")
    web.store.poll(0, a=seen(peer("ann", 0)), b=seen())
    before = [web.store.rooms(), web.store.log("a")]
    web.now = 3
    async with web.client(address="192.0.2.1") as client:
        found = await poke(client, **signed("a", 3))
        untracked = await poke(client, **signed("x", 3))

    assert (found, untracked) == (202, 202)
    assert [room.upstream_id for room in web.store.claim(3)] == ["a"]
    web.store.lose_claims()
    after = [web.store.rooms(), web.store.log("a")]
    due = {room.upstream_id: room.next_poll_at for room in after[0]}
    assert due == {"a": at(3), "b": at(10)}
    without_due = [[{**room._mapping, "next_poll_at": None} for room in one] for one in (before[0], after[0])]
    assert without_due[0] == without_due[1]
    assert after[1] == before[1]
    assert counted(web) == {"due": 1, "untracked": 1}


async def test_the_same_message_again_has_no_effect(web: Web) -> None:
    web.store.track("a")
    web.store.poll(0, a=seen())
    async with web.client() as client:
        first = await poke(client, **signed("a", 0))
        web.store.poll(1, a=seen())
        again = await poke(client, **signed("a", 0))
        due_after_repetition = web.store.claim(1)
        later = await poke(client, **signed("a", 0, message="2"))

    assert (first, again, later) == (202, 202, 202)
    assert due_after_repetition == []
    assert len(web.store.claim(1)) == 1
    assert counted(web) == {"due": 2, "repeated": 1}


async def test_a_poke_during_a_poll_brings_another_poll(web: Web) -> None:
    web.store.track("a")
    web.store.poll(0, a=seen())
    claimed = web.store.claim(10)
    web.now = 10.5
    async with web.client() as client:
        await poke(client, **signed("a", 10.5))

    assert web.store.claim(10.6) == [], "one poll of a room at a time"
    web.store.record(claimed, lambda _: seen(), 11)
    assert web.store.claim(11.4) == [], "a second after the message"
    web.store.poll(11.5, a=seen("ann"))
    assert web.store.database.read_now(show_room, "a").next_poll_at == at(21.5)


@pytest.mark.parametrize(("event", "peers"), [("peer:joined", []), ("peer:left", ["ann"]), ("meeting:ended", ["bob"])])
async def test_a_poll_that_contradicts_the_message_is_repeated_once(web: Web, event: str, peers: list[str]) -> None:
    web.store.track("a")
    web.store.poll(0, a=seen(*peers))
    web.now = 3
    async with web.client() as client:
        await poke(client, **signed("a", 3, event=event, id="ann"))
    web.store.poll(3, a=seen(*peers))
    assert web.store.claim(4.9) == []
    web.store.poll(5, a=seen(*peers))
    assert web.store.database.read_now(show_room, "a").next_poll_at == at(15), "no third time"


async def test_a_poll_that_agrees_with_the_message_is_not_repeated(web: Web) -> None:
    web.store.track("a")
    web.store.poll(0, a=seen())
    web.now = 3
    async with web.client() as client:
        await poke(client, **signed("a", 3, event="peer:joined", id="ann"))
    web.store.poll(3, a=seen("ann"))
    assert web.store.database.read_now(show_room, "a").next_poll_at == at(13)


async def test_an_unknown_room_is_tracked_only_by_a_source_that_discovers(web: Web) -> None:
    web.configure(sources={"main": {"discover": True, "discover_rooms": ["team-*"]}})
    async with web.client() as client:
        await poke(client, **signed("team-1", 0, event="peer:joined", message="1"))
        await poke(client, **signed("other", 0, event="peer:joined", message="2"))
        await poke(client, **signed("team-2", 0, event="meeting:ended", message="3"))

    assert [(room.upstream_id, room.origin) for room in web.store.rooms() if room.source] == [("team-1", "discovered")]
    assert len(web.store.claim(0)) == 1
    assert counted(web) == {"due": 1, "untracked": 2}


async def test_what_the_upstream_did_not_sign_is_refused(web: Web) -> None:
    web.store.track("a")
    web.store.poll(0, a=seen())
    huge = {**signed("a", 0), "content": b"x" * 300_000}
    async with web.client(web.token("admin")) as client:
        statuses = [
            await poke(client, **signed("a", 0, key="other")),
            await poke(client, json={}),
            await poke(client, **signed("a", -400)),
            await poke(client, "/pokes/other", **signed("a", 0)),
            await poke(client, **huge),
            (await client.get("/pokes/main")).status_code,
        ]

    assert statuses == [401, 401, 401, 404, 413, 405]
    assert web.store.claim(1) == []
    assert counted(web) == {"refused": 3}


async def test_a_webhook_of_livekit_makes_its_room_due(web: Web) -> None:
    account = {"kind": "livekit", "api_key": "devkey", "api_secret": LIVEKIT_SECRET, "base_url": "http://127.0.0.1:1"}
    web.configure(sources={"main": {}, "meet": account})
    web.store.track("a", source="meet")
    web.store.record(web.store.claim(0, source="meet"), lambda _: seen(), 0)
    content = b'{"event":"participant_joined","room":{"name":"a"}}'
    digest = b64encode(hashlib.sha256(content).digest()).decode()
    now = int(at(1).timestamp())
    token = jwt.encode({"iss": "devkey", "nbf": now, "exp": now + 300, "sha256": digest}, LIVEKIT_SECRET)
    headers = {"authorization": token, "content-type": "application/webhook+json"}
    web.now = 1
    async with web.client(web.token("admin")) as client:
        forged = await poke(client, "/pokes/meet", content=content + b" ", headers=headers)
        elsewhere = await poke(client, "/pokes/main", content=content, headers=headers)
        undue = web.store.claim(1, source="meet")
        found = await poke(client, "/pokes/meet", content=content, headers=headers)
        repeated = await poke(client, "/pokes/meet", content=content, headers=headers)

    assert (forged, elsewhere, undue, found, repeated) == (401, 401, [], 202, 202)
    assert len(web.store.claim(1, source="meet")) == 1
    assert counted(web) == {"refused": 1, "due": 1, "repeated": 1}, "refused once by each source"


@pytest.mark.parametrize(("seconds", "is_known"), [(0.0, True), (1.0, False)])
def test_signatures_are_forgotten_when_their_time_is_out_of_tolerance(seconds: float, is_known: bool) -> None:  # noqa: FBT001 - a parameter
    pokes, later = SeenPokes(), REMEMBERED.total_seconds() + seconds
    pokes.add("main", b"1", at(0))
    pokes.add("main", b"2", at(later))
    assert (pokes.has("main", b"1"), pokes.has("main", b"2"), pokes.has("other", b"2")) == (is_known, True, False)


def test_a_flood_of_signatures_forgets_the_oldest() -> None:
    pokes = SeenPokes()
    for number in range(KEPT + 1):
        pokes.add("main", number.to_bytes(4), at(0))
    assert [pokes.has("main", number.to_bytes(4)) for number in (0, 1, KEPT)] == [False, True, True]

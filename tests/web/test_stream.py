"""The stream of events over a real socket: from now or from the last event, for quick, slow and very many clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import count

import httpx
import pytest
from sqlalchemy import event, update

from bridge.admin.event_stream import StreamFilter
from bridge.admin.tokens import remove_token
from bridge.attendance.retention import prune_room
from bridge.db.engine import Database
from bridge.db.tables import events
from bridge.rules.presence import Json
from bridge.web import shared_results, stream, tail
from bridge.web.server import serve_app
from bridge.web.tail import EventTail
from tests.harness.builders import at, peer, seen
from tests.harness.open_writers import writers
from tests.harness.sse import Received, connected
from tests.harness.store_driver import StoreDriver
from tests.harness.waiting import PATIENCE, until
from tests.web.conftest import Web


@pytest.fixture
async def url(web: Web) -> AsyncIterator[str]:
    async with serve_app(web.app, host="127.0.0.1", port=0, remedy="") as url:
        yield url
        web.app.state.state.tail.close()


def log_of(store: StoreDriver, after: int = 0) -> list[tuple[str, str, bytes]]:
    """Return what a stream of everything should have sent."""
    rows = [row for row in store.rows(events, "id") if row.id > after and row.body is not None]
    return [(row.public_id, row.type, bytes(row.body)) for row in rows]


def sent(received: Sequence[Received]) -> list[tuple[str, str, bytes]]:
    return [(one.id, one.type, one.data) for one in received]


async def record(web: Web, seconds: float, *rooms: str, people: int = 2) -> None:
    await asyncio.to_thread(web.store.record_joins, seconds, *rooms, people=people)


async def test_it_begins_now_and_sends_every_event_at_once_as_it_is_stored(
    web: Web, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "LOOK_SECONDS", 1000)
    await record(web, 0, "a")
    before = len(log_of(web.store))
    async with connected(url) as client:
        assert client.response.headers["content-type"].startswith("text/event-stream")
        await record(web, 10, "b")
        assert sent(await client.take(3)) == log_of(web.store)[before:]
        await record(web, 20, "c")
        assert sent(await client.take(3)) == log_of(web.store)[before + 3 :]


async def test_room_and_type_are_filters(web: Web, url: str) -> None:
    await record(web, 0, "a", "b")
    async with connected(url, room="b") as of_room, connected(url, type="room.*") as of_type:
        await asyncio.to_thread(web.store.poll, 10, a=seen(), b=seen())
        left = await of_room.take(3)
        empty = await of_type.take(2)

    assert [one.type for one in left] == ["peer.left", "peer.left", "room.empty"]
    assert {one.event["data"]["room_id"] for one in left} == {"b"}
    assert [(one.type, one.event["data"]["room_id"]) for one in empty] == [("room.empty", "a"), ("room.empty", "b")]


async def test_it_goes_on_after_the_last_event_and_passes_over_what_was_erased(
    web: Web, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.admin.event_stream.MOST", 4)
    await record(web, 0, "a", "b", "c", people=5)
    stored = log_of(web.store)
    erase = update(events).where(events.c.public_id.in_([stored[2][0], stored[9][0]])).values(body=None, salt=None)
    web.store.write(lambda connection: connection.execute(erase))

    async with connected(url, after=stored[2][0]) as client, connected(url, after=stored[7][0], room="c") as filtered:
        await record(web, 10, "d")
        assert sent(await client.take(17)) == [*stored[3:9], *stored[10:], *log_of(web.store)[16:]]
        assert sent(await filtered.take(6)) == stored[12:]


async def test_what_cannot_be_resumed_or_found_or_read_is_an_error(web: Web, url: str) -> None:
    async with connected(url, after="evt_gone") as client:
        assert client.response.status == 410
        assert client.response.headers["content-type"] == "application/problem+json"
    async with connected(url, room="nowhere") as client:
        assert client.response.status == 404
    async with connected(url, type="peer.jioned") as client:
        assert client.response.status == 422
        assert "peer.joined" in (await client.response.json(content_type=None))["detail"]
    token = web.token("hooks")
    async with connected(url, token=token) as client:
        assert client.response.status == 403
    async with connected(url) as client:
        assert client.response.status == 401


async def test_after_a_pruned_event_it_cannot_go_on(web: Web, url: str) -> None:
    await record(web, 0, "a", people=1)
    web.store.poll(10, a=seen())
    first, *_, last = [event["id"] for event in web.store.log("a")]
    async with connected(url, after=first) as client:
        assert client.response.status == 200

    web.store.write(prune_room, web.store.room("a").id, at(1000))

    for pruned in (first, last):
        async with connected(url, after=pruned) as client:
            assert client.response.status == 410


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)  # SQLite has one writer at a time
async def test_an_event_that_commits_late_is_neither_lost_nor_sent_twice(web: Web, url: str) -> None:
    await record(web, 0, "a")
    with writers(web.store, 3) as (early, late, other):
        late.append(101)
        other.append(102)
        other.commit()
        async with connected(url) as client:
            with counted_reads(web.store.database) as statements:
                late.append(103)
                other.append(104)
                other.commit()
                await until(lambda: len(statements) > 10)
            early.append(105)
            late.commit()
            first = await client.take(3)
            early.commit()
            first += await client.take(1)
            async with connected(url, after=first[1].id) as again:
                assert sent(await again.take(2)) == sent(first[2:])
    assert [one.id for one in first] == ["evt_101", "evt_103", "evt_104", "evt_105"]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
async def test_an_id_from_elsewhere_may_be_newer_than_what_is_final(web: Web, url: str) -> None:
    await record(web, 0, "a")
    with writers(web.store, 2) as (late, other):
        late.append(101)
        other.append(102)
        other.append(103)
        other.commit()
        async with connected(url, after="evt_102") as client:
            late.commit()
            assert [one.id for one in await client.take(2)] == ["evt_101", "evt_103"]


async def test_head_has_the_headers_and_follows_nothing(web: Web, url: str) -> None:
    async with httpx.AsyncClient() as client:
        response = await client.head(f"{url}api/v1/events/stream")

    assert response.headers["content-type"].startswith("text/event-stream")
    await until(lambda: web.app.state.state.tail.clients == 0)


async def test_other_processes_wake_the_tail(web: Web, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    is_notified = web.store.database.dialect == "postgresql"
    if is_notified:
        monkeypatch.setattr(tail, "LOOK_SECONDS", 1000)
        monkeypatch.setattr(tail, "LISTENING_SECONDS", 1000)
    other = StoreDriver(database=Database(web.store.database.url))
    try:
        async with connected(url) as client:
            await until(lambda: web.app.state.state.tail.is_listening or not is_notified)
            await asyncio.to_thread(other.record_joins, 0, "a")
            assert sent(await client.take(3)) == log_of(web.store)
            await disconnect_listener(web)
            await until(lambda: web.app.state.state.tail.is_listening or not is_notified)
            await asyncio.to_thread(other.record_joins, 10, "b")
            assert sent(await client.take(3)) == log_of(web.store)[3:]
    finally:
        other.database.close()


async def test_a_thousand_idle_clients_cost_no_query_each(web: Web) -> None:
    follower: EventTail = web.app.state.state.tail
    async with AsyncExitStack() as stack:
        following = [await stack.enter_async_context(follower.follow(StreamFilter(), None)) for _ in range(1000)]
        with counted_reads(web.store.database) as statements:
            taking = [asyncio.create_task(follower.take(client, 1000)) for client in following]
            await record(web, 0, "a")
            taken = await asyncio.gather(*taking)
        looks = len(statements)

    assert {one[0].id for one in taken} == {log_of(web.store)[0][0]}
    assert looks < 100
    with counted_reads(web.store.database) as statements:
        await record(web, 10, "b")
        await asyncio.sleep(0)
    assert statements == [], "it reads the log although there is no client"


async def test_a_client_that_reads_nothing_is_dropped_and_others_go_on(
    web: Web, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "MOST_WAITING", 200)  # more than the events of one round
    monkeypatch.setattr(stream, "SEND_SECONDS", 0.2)
    follower: EventTail = web.app.state.state.tail
    big: Json = {"text": "x" * 8000}
    web.store.track("a")
    async with stuck_client(url), connected(url) as client:
        await until(lambda: follower.clients == 2)
        seconds = 0
        while follower.clients == 2:
            people = [peer(f"p{number}", seconds, metadata=big) for number in range(40)]
            await asyncio.to_thread(web.store.poll, seconds, a=seen(*people))
            await asyncio.to_thread(web.store.poll, seconds + 10, a=seen())
            await client.take(82)
            seconds += 20
        await record(web, seconds, "b")
        await client.take(3)

        assert sent(client.received) == log_of(web.store)


async def test_it_ends_with_its_token_and_with_the_service(web: Web, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(shared_results, "SHARED_SECONDS", 0)
    removed, kept = web.token("read", name="removed"), web.token("read", name="kept")
    async with connected(url, token=removed) as one, connected(url, token=kept) as other:
        web.store.write(remove_token, "removed")
        assert await one.take(1) == []
        assert one.comments > 0
        web.app.state.state.tail.close()
        assert await other.take(1) == []


async def test_busy_pages_end_with_their_token_too(web: Web, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.3)
    monkeypatch.setattr(shared_results, "SHARED_SECONDS", 0)
    token = web.token("read")

    async def keep_busy() -> None:
        for number in count():
            await record(web, number, f"r{number}", people=1)

    headers = {"authorization": f"Bearer {token}"}
    async with (
        asyncio.timeout(PATIENCE),
        httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE) as client,
        client.stream("GET", "/live") as response,
    ):
        busy = asyncio.create_task(keep_busy())
        chunks = response.aiter_text()
        while "changed" not in await anext(chunks):
            pass
        await asyncio.to_thread(web.store.write, remove_token, "read")
        async for _ in chunks:
            pass
        assert not busy.done()
        busy.cancel()


async def disconnect_listener(web: Web) -> None:
    """End the session that listens, as a restart of the server would."""
    if web.store.database.dialect == "postgresql":
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'"
        await asyncio.to_thread(web.store.database.look_now, lambda connection: connection.exec_driver_sql(end).all())
        await until(lambda: not web.app.state.state.tail.is_listening)


@contextmanager
def counted_reads(database: Database) -> Iterator[list[str]]:
    """Yield the statements with which the block reads."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(database._reading, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(database._reading, "before_cursor_execute", note)


@asynccontextmanager
async def stuck_client(url: str) -> AsyncIterator[None]:
    """Ask for a stream and read nothing of it."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1)
    writer.write(b"GET /api/v1/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    try:
        yield
    finally:
        writer.transport.abort()

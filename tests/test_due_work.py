"""When a process looks for due work: at the next due time, when it is notified, and in any case now and then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from bridge import due_work
from bridge.admin.due import DueWork
from bridge.db import notifications
from bridge.db.engine import Database
from bridge.db.notifications import DUE_CHANNEL, Listener
from bridge.delivery.replay import request_events
from bridge.due_work import SPACING, WorkFinder, until_next_look
from bridge.polling.rooms import make_due
from tests.harness.builders import at, seen
from tests.harness.store_driver import StoreDriver
from tests.harness.waiting import until

LONG = timedelta(seconds=1000)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("next_at", "expected"),
    [
        (None, SECOND),
        (at(-5), SPACING),
        (at(0), SPACING),
        (at(SPACING.total_seconds() / 2), SPACING),
        (at(0.5), SECOND / 2),
        (at(5), SECOND),
    ],
)
def test_the_next_look_comes_at_the_next_due_time(next_at: datetime | None, expected: timedelta) -> None:
    assert until_next_look(next_at, at(0), SECOND) == expected


@dataclass
class Looking:
    """A finder at work: it never looks without a reason, unless a test says so. The clock starts at `start`."""

    store: StoreDriver
    start: float = 0
    is_notified: bool = True
    found: list[DueWork] = field(default_factory=list)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.finder = WorkFinder(
            self.store.database,
            lambda: at(self.start + loop.time() - began),
            polls=True,
            deliveries=True,
            on_due=self.found.append,
            is_notified=lambda: self.is_notified,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.finder.run())
        await until(lambda: len(self.found) > 0)
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _no_other_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_work, "TICK", LONG)
    monkeypatch.setattr(due_work, "REGULAR_LOOK", LONG)


async def test_a_room_is_found_at_its_time(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen("p"))
    looking = Looking(store, start=9.2)
    async with looking.running():
        assert not looking.found[0].sources
        await until(lambda: looking.found[-1].sources == {"main"})


async def test_what_this_process_makes_due_is_found_at_once(store: StoreDriver) -> None:
    store.track("a")
    store.poll(0, a=seen("p"))
    looking = Looking(store, start=1)
    async with looking.running():
        assert not looking.found[-1].sources
        await asyncio.to_thread(store.write, make_due, "main", "a", at(1))
        await until(lambda: looking.found[-1].sources == {"main"})


async def test_events_that_no_poller_offers_to_a_sender_are_found_at_once(store: StoreDriver) -> None:
    store.subscribe()
    store.track("a")
    claimed = store.claim(0)
    looking = Looking(store, start=1)
    async with looking.running():
        assert not looking.found[-1].deliveries
        await asyncio.to_thread(store.record, claimed, lambda _: seen("p"), 1)
        await until(lambda: looking.found[-1].deliveries)


async def test_without_notifications_it_looks_often(store: StoreDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_work, "TICK", 2 * SPACING)
    looking = Looking(store, is_notified=False)
    async with looking.running():
        await asyncio.to_thread(store.track, "a")
        await until(lambda: looking.found[-1].sources == {"main"})


async def test_the_regular_look_needs_no_notification(store: StoreDriver) -> None:
    looking = Looking(store)
    async with looking.running():
        await asyncio.to_thread(store.track, "a")
        await looking.finder.check()
        await until(lambda: looking.found[-1].sources == {"main"})


async def test_a_database_that_fails_is_asked_again(store: StoreDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_work, "TICK", 2 * SPACING)
    looking = Looking(StoreDriver(database=Database("sqlite:////nowhere/bridge.db")))
    with capture_logs() as logs:
        task = asyncio.create_task(looking.finder.run())
        await until(lambda: len(logs) > 1)
        looking.finder._database = store.database
        await until(lambda: len(looking.found) > 0)
    task.cancel()
    assert {line["event"] for line in logs} == {"claim.failed"}


async def test_other_processes_notify_of_work_also_after_a_lost_connection(
    postgresql_store: StoreDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "RECONNECT_SECONDS", 0.01)
    store = postgresql_store
    key = store.subscribe()
    store.track("a")
    store.poll(0, a=seen("p"))
    event_id, _ = store.deliver(0)
    other = StoreDriver(database=Database(store.database.url))
    looking = Looking(store, start=1)
    listener = Listener(store.database.url, {DUE_CHANNEL: looking.finder.wake})
    try:
        async with looking.running():
            listening = asyncio.create_task(listener.run())
            await until(lambda: listener.is_listening)
            await asyncio.to_thread(other.write, make_due, "main", "a", at(1))
            await until(lambda: looking.found[-1].sources == {"main"})
            await asyncio.to_thread(sessions_that_listen, store, "sum(pg_terminate_backend(pid)::int)")
            await until(lambda: not listener.is_listening)
            await until(lambda: listener.is_listening)
            await asyncio.to_thread(other.write, request_events, key, [event_id], at(1))
            await until(lambda: looking.found[-1].redeliveries)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        await until(lambda: sessions_that_listen(store) == 0)
    finally:
        other.database.close()


def sessions_that_listen(store: StoreDriver, do: str = "count(*)") -> int:
    """Count the sessions of the database that listen, or end them as a restart of the server would."""
    query = f"SELECT {do} FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' AND datname = current_database()"  # noqa: S608 - constants
    return store.database.look_now(lambda connection: int(connection.exec_driver_sql(query).scalar_one()))

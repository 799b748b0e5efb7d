"""A process may be frozen at any instant: PostgreSQL must release its locks, so that others can go on."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Event

import psycopg
import pytest
from sqlalchemy import Connection, text, update

from bridge.db import postgresql as database_module
from bridge.db.engine import Database, allow_long_transaction
from bridge.db.tables import rooms
from tests.harness.builders import at
from tests.harness.store_driver import StoreDriver
from tests.harness.waiting import wait_until


@pytest.fixture
def store(postgresql_migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> StoreDriver:
    monkeypatch.setattr(database_module, "TRANSACTION_MS", 300)
    store = StoreDriver(database=Database(postgresql_migrated_url))
    store.track("a")
    return store


def poll_at(connection: Connection, moment: datetime) -> None:
    connection.execute(update(rooms).values(next_poll_at=moment))


def freeze_between_rows(connection: Connection, woken: Event) -> None:
    """As in the middle of `executemany`: PostgreSQL has changed a row and waits for the next.

    The transaction is run again once it has lost its connection; a claim would be lost by then, and nothing written.
    """
    if woken.is_set():
        return
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with driver.pipeline():
        driver.execute("UPDATE rooms SET next_poll_at = now()")
        woken.wait(10)


def test_the_locks_of_a_writer_that_freezes_between_two_rows_are_released(store: StoreDriver) -> None:
    woken = Event()
    with ThreadPoolExecutor(2) as threads:
        frozen = threads.submit(store.write, freeze_between_rows, woken)
        wait_until(lambda: has_locked_rows(store), what="the lock of a row")
        threads.submit(store.write, poll_at, at(5)).result(10)
        woken.set()

    frozen.result()
    assert store.rooms()[0].next_poll_at == at(5)
    store.write(poll_at, at(6))
    assert store.rooms()[0].next_poll_at == at(6), "the next transaction gets a connection that works"


def test_a_long_transaction_may_be_allowed(store: StoreDriver) -> None:
    def slowly(connection: Connection) -> None:
        allow_long_transaction(connection)
        poll_at(connection, at(5))
        connection.exec_driver_sql("SELECT pg_sleep(0.6)")

    store.write(slowly)

    assert store.rooms()[0].next_poll_at == at(5)


def has_locked_rows(store: StoreDriver) -> bool:
    holders = (
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
        " WHERE datname = current_database() AND mode = 'RowExclusiveLock'"
    )
    return bool(store.database.read_now(lambda connection: connection.exec_driver_sql(holders).scalar_one()))


def test_a_transaction_with_very_much_to_plan_is_run_again_with_more_time(
    postgresql_migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "IDLE_IN_TRANSACTION_MS", 200)
    tries = []

    def plan(connection: Connection) -> str:
        tries.append(connection.execute(text("SELECT 1")).scalar_one())
        time.sleep(0.5)
        return str(connection.execute(text("SELECT 'planned'")).scalar_one())

    database = Database(postgresql_migrated_url)
    assert database.write_now(plan) == "planned"
    assert tries == [1, 1]
    database.close()


def test_a_transaction_with_very_much_to_write_is_run_again_with_more_time(store: StoreDriver) -> None:
    tries = []

    def write(connection: Connection) -> None:
        tries.append(connection.execute(text("SELECT 1")).scalar_one())
        poll_at(connection, at(5))
        connection.exec_driver_sql("SELECT pg_sleep(0.6)")

    store.write(write)
    assert tries == [1, 1]
    assert store.rooms()[0].next_poll_at == at(5)

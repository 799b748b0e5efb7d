"""A process may be frozen at any instant: what it has locked must come free, for others to go on (PostgreSQL)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Event

import psycopg
import pytest
from sqlalchemy import Connection, update

from bridge.db import engine as database_module
from bridge.db.engine import Database, allow_long_transaction
from bridge.db.tables import rooms
from bridge.errors import DatabaseError
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
    """As in the middle of `executemany`: PostgreSQL has changed a row, and is not told yet that this was the last."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with driver.pipeline():
        driver.execute("UPDATE rooms SET next_poll_at = now()")
        woken.wait(10)


def test_a_writer_that_freezes_between_two_rows_gives_its_locks_up(store: StoreDriver) -> None:
    woken = Event()
    with ThreadPoolExecutor(2) as threads:
        frozen = threads.submit(store.write, freeze_between_rows, woken)
        wait_until(lambda: holds_locks(store), what="a row that is locked")
        threads.submit(store.write, poll_at, at(5)).result(10)
        woken.set()

    assert isinstance(frozen.exception(), DatabaseError)
    assert store.rooms()[0].next_poll_at == at(5)
    store.write(poll_at, at(6))
    assert store.rooms()[0].next_poll_at == at(6), "the next one gets a connection that works"


def test_what_takes_its_time_may(store: StoreDriver) -> None:
    def slowly(connection: Connection) -> None:
        allow_long_transaction(connection)
        poll_at(connection, at(5))
        connection.exec_driver_sql("SELECT pg_sleep(0.6)")

    store.write(slowly)

    assert store.rooms()[0].next_poll_at == at(5)


def holds_locks(store: StoreDriver) -> bool:
    holders = (
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
        " WHERE datname = current_database() AND mode = 'RowExclusiveLock'"
    )
    return bool(store.database.read_now(lambda connection: connection.exec_driver_sql(holders).scalar_one()))

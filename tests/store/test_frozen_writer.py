"""A process may be frozen at any instant: what it has locked must come free, for others to go on (PostgreSQL)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Event

import psycopg
import pytest
from sqlalchemy import Connection, update

from bridge.errors import DatabaseError
from bridge.store import database as database_module
from bridge.store.database import Database, take_time
from bridge.store.tables import rooms
from tests.harness.waiting import wait_until
from tests.store.stage import Stage, at


@pytest.fixture
def stage(postgresql_migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(database_module, "TRANSACTION_MS", 300)
    stage = Stage(database=Database(postgresql_migrated_url))
    stage.track("a")
    return stage


def poll_at(connection: Connection, moment: datetime) -> None:
    connection.execute(update(rooms).values(next_poll_at=moment))


def freeze_between_rows(connection: Connection, woken: Event) -> None:
    """As in the middle of `executemany`: PostgreSQL has changed a row, and is not told yet that this was the last."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with driver.pipeline():
        driver.execute("UPDATE rooms SET next_poll_at = now()")
        woken.wait(10)


def test_a_writer_that_freezes_between_two_rows_gives_its_locks_up(stage: Stage) -> None:
    woken = Event()
    with ThreadPoolExecutor(2) as threads:
        frozen = threads.submit(stage.write, freeze_between_rows, woken)
        wait_until(lambda: holds_locks(stage), what="a row that is locked")
        threads.submit(stage.write, poll_at, at(5)).result(10)
        woken.set()

    assert isinstance(frozen.exception(), DatabaseError)
    assert stage.rooms()[0].next_poll_at == at(5)
    stage.write(poll_at, at(6))
    assert stage.rooms()[0].next_poll_at == at(6), "the next one gets a connection that works"


def test_what_takes_its_time_may(stage: Stage) -> None:
    def slowly(connection: Connection) -> None:
        take_time(connection)
        poll_at(connection, at(5))
        connection.exec_driver_sql("SELECT pg_sleep(0.6)")

    stage.write(slowly)

    assert stage.rooms()[0].next_poll_at == at(5)


def holds_locks(stage: Stage) -> bool:
    holders = (
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
        " WHERE datname = current_database() AND mode = 'RowExclusiveLock'"
    )
    return bool(stage.database.read_now(lambda connection: connection.exec_driver_sql(holders).scalar_one()))

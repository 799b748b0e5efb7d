"""Connections to PostgreSQL, perhaps through a pooler: their limits, and those that the server has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, text

from bridge.db.engine import Database
from bridge.db.postgresql import LOCK_MS
from tests.harness.servers import PGBOUNCER, pgbouncer
from tests.harness.store_driver import StoreDriver
from tests.harness.waiting import wait_until


def answer(connection: Connection) -> int:
    found: int = connection.execute(text("SELECT 42")).scalar_one()
    return found


def end_connections(database: Database) -> None:
    """End all connections, as the server does with those that are idle for too long."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(database.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
        wait_until(lambda: connection.execute(f"SELECT pid {others}").fetchall() == [], what="the end")


def test_a_long_read_gets_another_connection(postgresql_store: StoreDriver) -> None:
    database = postgresql_store.database
    assert database.read_now(answer) == 42
    end_connections(database)
    assert database.read_once(answer) == 42


@pytest.fixture(
    params=[
        "direct",
        pytest.param("pooled", marks=pytest.mark.skipif(not PGBOUNCER, reason="pgbouncer is not installed")),
    ]
)
def database(request: pytest.FixtureRequest, postgresql_migrated_url: str, tmp_path: Path) -> Iterator[Database]:
    direct = nullcontext(postgresql_migrated_url)
    with direct if request.param == "direct" else pgbouncer(postgresql_migrated_url, tmp_path) as url:
        opened = Database(url)
        yield opened
        opened.close()


def lock_timeout(connection: Connection) -> str:
    return str(connection.execute(text("SELECT current_setting('lock_timeout')")).scalar_one())


def test_a_change_waits_for_a_lock_no_longer_than_a_transaction(database: Database) -> None:
    for _ in range(2):
        assert database.write_now(lock_timeout) == f"{LOCK_MS // 1000}s"
        assert database.change_now(lock_timeout) == f"{LOCK_MS // 1000}s"


def test_a_transaction_after_a_change_is_one(database: Database) -> None:
    def add(connection: Connection) -> None:
        connection.execute(text("INSERT INTO workers (id, seen_at) VALUES ('new', now())"))
        raise RuntimeError

    def is_added(connection: Connection) -> bool:
        return connection.execute(text("SELECT FROM workers WHERE id = 'new'")).first() is not None

    assert database.change_now(answer) == 42
    with pytest.raises(RuntimeError):
        database.write_now(add)
    assert not database.look_now(is_added)

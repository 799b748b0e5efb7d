"""Errors of SQLite are reported with a remedy."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from bridge.db.engine import Database
from bridge.errors import DatabaseError
from tests.cli.conftest import Cli

WAIT = ": another process is writing to it; try again"
ASK = ": run `bridge doctor` for the reason"


def test_a_database_that_another_process_writes_to(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.take_up()
    monkeypatch.setattr("bridge.db.engine.BUSY_TIMEOUT_MS", 0)
    with contextlib.closing(sqlite3.connect(cli.database_file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        message = cli.refuses("rooms", "add", "x", code=1)

    assert message == f"bridge: database {cli.database_url}: database is locked{WAIT}\n"


def test_a_database_that_cannot_be_opened(cli: Cli) -> None:
    cli.database_url = f"sqlite:///{cli.directory}/nowhere/bridge.db"
    cli.configure()

    message = cli.refuses("migrate", code=1)

    assert message == f"bridge: database {cli.database_url}: unable to open database file{ASK}\n"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database with a table of one row."""
    database = Database(f"sqlite:///{tmp_path / 'some.db'}")
    database.write_now(lambda connection: connection.exec_driver_sql("CREATE TABLE t (x)"))
    database.write_now(lambda connection: connection.exec_driver_sql("INSERT INTO t VALUES (1)"))
    yield database
    database.close()


def full(connection: Connection) -> None:
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(100000))")


def read_only(connection: Connection) -> None:
    connection.exec_driver_sql("PRAGMA query_only = 1")
    connection.exec_driver_sql("INSERT INTO t VALUES (2)")


def overtaken(connection: Connection) -> None:
    """Its code is an extended one: 517, `SQLITE_BUSY_SNAPSHOT`."""
    connection.exec_driver_sql("COMMIT")
    connection.exec_driver_sql("BEGIN")
    connection.exec_driver_sql("SELECT * FROM t").all()
    with contextlib.closing(sqlite3.connect(str(connection.engine.url.database), isolation_level=None)) as other:
        other.execute("INSERT INTO t VALUES (2)")
    connection.exec_driver_sql("INSERT INTO t VALUES (3)")


def wrong(connection: Connection) -> None:
    connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (full, "database or disk is full: free some space on the disk"),
        (read_only, f"attempt to write a readonly database{ASK}"),
        (overtaken, f"database is locked{WAIT}"),
        (wrong, "no such table: nowhere"),
    ],
)
def test_every_error_that_has_a_remedy_names_it(
    database: Database, work: Callable[[Connection], None], message: str
) -> None:
    with pytest.raises(DatabaseError) as caught:
        database.write_now(work)

    assert str(caught.value) == f"database {database.name}: {message}"

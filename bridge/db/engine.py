"""Access to the database, SQLite or PostgreSQL.

`await db.read(function, …)` and `await db.write(function, …)` run a plain function with a connection in a worker
thread, each in one transaction, so that no transaction can span an `await`. SQLite has one writer at a time
(`BEGIN IMMEDIATE`, one writer thread); on PostgreSQL row locks keep writers apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog
from sqlalchemy import Connection, Dialect, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from bridge.errors import BridgeError, ConfigurationError, DatabaseError, Problem

log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.db")

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
POSTGRESQL_WRITERS = 4
BUSY_TIMEOUT_MS = 10_000
IDLE_IN_TRANSACTION_MS = 4_000
"""A process that is frozen inside a transaction keeps its locks no longer than it counts as alive (`liveness`)."""
TRANSACTION_MS = 20_000
"""Longest duration of a writing transaction, and so of its locks."""
ROLLBACK_TRIES = 5
SLOW_SECONDS = 10
"""A transaction that takes longer than this is logged."""
TRANSACTION_TIMEOUT_SINCE = 17_00_00
POSTGRESQL_CONNECTION = {
    "connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}  # fmt: skip
"""A server that vanished from the network is noticed within half a minute."""
SQLITE_AWAY = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
})  # fmt: skip
SQLITE_REMEDIES = {
    sqlite3.SQLITE_BUSY: ": another process is writing to it; try again",
    sqlite3.SQLITE_LOCKED: ": another process is writing to it; try again",
    sqlite3.SQLITE_FULL: ": free some space on the disk",
    sqlite3.SQLITE_READONLY: ": run `bridge doctor` for the reason",
    sqlite3.SQLITE_CANTOPEN: ": run `bridge doctor` for the reason",
}
POSTGRESQL_AWAY = frozenset({"08", "40", "53", "55", "57", "58"})
"""SQLSTATE classes: connection, rollback, resources, not in prerequisite state, operator intervention, system."""
FOREIGN_KEY_VIOLATION = "23503"
ADVISORY_LOCKS = 0x62726467  # "brdg": the class of the bridge's advisory locks in a PostgreSQL database
MIGRATION_LOCK, CONFIGURATION_LOCK, SYSTEM_LOG_LOCK = 1, 2, 3


class Database:
    """One database, SQLite or PostgreSQL; safe to share between tasks and threads."""

    def __init__(self, url: str) -> None:
        """Open nothing yet.

        Raises:
            ConfigurationError: the URL names no database that the bridge can use.
        """
        self._url = _driver_url(url)
        self.dialect: str = self._url.get_backend_name()
        self._writing = self._engine(writes=True)
        self._reading = self._engine(writes=False)
        writers = 1 if self.dialect == "sqlite" else POSTGRESQL_WRITERS
        self._write_threads = ThreadPoolExecutor(writers, "database-write")
        self._read_threads = ThreadPoolExecutor(READERS, "database-read")
        self._running: set[Future[Any]] = set()

    def __repr__(self) -> str:
        return f"Database({self.name})"

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database, without symbolic links."""
        return Path(self._url.database).resolve() if self.dialect == "sqlite" else None

    @property
    def name(self) -> str:
        """The URL for messages, without password and options."""
        shown = self._url.set(query={}, drivername=self.dialect)
        return str(shown.render_as_string(hide_password=True))

    async def read(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in a transaction that only reads.

        Raises:
            DatabaseError: the database failed.
        """
        return await self._in_thread(self._read_threads, lambda: self.read_now(function, *args, **kwargs))

    async def write(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in a transaction: all of it happens, or none.

        Raises:
            DatabaseError: the database failed.
        """
        return await self._in_thread(self._write_threads, lambda: self.write_now(function, *args, **kwargs))

    def read_now(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, in this thread."""
        with self._translated(), self._reading.begin() as connection:
            return function(connection, *args, **kwargs)

    def write_now(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `write`, in this thread. A transaction that another one made fail is run again."""
        for tries in range(1, ROLLBACK_TRIES + 1):
            try:
                with self._translated(), self._writing.begin() as connection:
                    return function(connection, *args, **kwargs)
            except DatabaseError as error:
                if tries == ROLLBACK_TRIES or not _is_conflict(error.__cause__):
                    raise
        raise AssertionError  # the last try returned or raised

    def truncate_wal(self, seconds: float) -> None:
        """Empty SQLite's write-ahead log, which has copies of what was deleted; PostgreSQL has nothing like it.

        Raises:
            BridgeError: another process used it for all of these seconds.
        """
        if self.dialect != "sqlite":
            return
        deadline = time.monotonic() + seconds
        connection = self._writing.raw_connection()
        try:
            while connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > deadline:
                    raise BridgeError(
                        f"database {self.name}: another process reads or writes all the time, so the write-ahead log "
                        "still has the old pages: run the command again, or stop the service"
                    )
                time.sleep(0.1)
        finally:
            connection.close()

    def close(self, seconds: float | None = None) -> bool:
        """Wait for the threads, for `seconds` at most, and close every connection.

        Returns:
            Whether the threads have ended: one that waits for a database that does not respond may not have.
        """
        for threads in (self._write_threads, self._read_threads):
            threads.shutdown(wait=seconds is None, cancel_futures=True)
        has_ended = not wait(set(self._running), timeout=seconds).not_done
        if has_ended:
            self._writing.dispose()
            self._reading.dispose()
        return has_ended

    async def run(self, work: Callable[[], T]) -> T:
        """Run code that uses `read_now` and `write_now` in a thread of this database.

        Raises:
            DatabaseError: the database failed.
        """
        return await self._in_thread(self._write_threads, work)

    async def _in_thread(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        future = threads.submit(work)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        warning = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._log_slow)
        try:
            return await asyncio.wrap_future(future)
        finally:
            warning.cancel()

    def _log_slow(self) -> None:
        log.warning("database.slow", detail=f"database {self.name}: no result for {SLOW_SECONDS} s")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn a driver's error into one for the operator, without the statement and its values."""
        try:
            yield
        except DBAPIError as error:
            message = f"database {self.name}: {_first_line(error.orig or error)}{_remedy(error)}"
            raise DatabaseError(message, is_away=_is_away(error)) from error
        except SQLAlchemyError as error:
            raise DatabaseError(f"database {self.name}: {_first_line(error)}", is_away=False) from error

    def _engine(self, *, writes: bool) -> Engine:
        size = POSTGRESQL_WRITERS if writes else READERS
        options: dict[str, Any] = {"pool_size": size, "max_overflow": 1, "json_serializer": _compact_json}
        if self.dialect == "sqlite":
            engine = create_engine(self._url, connect_args={"check_same_thread": False}, **options)
            event.listen(engine, "do_connect", _make_private)
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_immediate if writes else _begin_deferred)
            return engine
        engine = create_engine(self._url, pool_pre_ping=True, connect_args=POSTGRESQL_CONNECTION, **options)
        event.listen(engine, "connect", _prepare_postgresql)
        if writes:
            event.listen(engine, "connect", _limit_transactions)
        return engine


def sqlite_file(url: str) -> Path | None:
    """The file that a `sqlite:///` URL names; None for another database."""
    parsed = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def advisory_lock(connection: Connection, lock: int) -> None:
    """Let one process at a time go on, until its transaction ends; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = 0"))  # the holder may take its time
        connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCKS, lock)))
        connection.execute(text(f"SET LOCAL lock_timeout = {BUSY_TIMEOUT_MS}"))


def begin_long_read(connection: Connection) -> None:
    """Begin a transaction that reads much, perhaps for a slow reader: one state of the database, and no time limits."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


def allow_long_transaction(connection: Connection) -> None:
    """Lift the time limit of this transaction: it is run once, and there may be much to do."""
    if connection.dialect.name == "postgresql" and _has_transaction_timeout(connection.connection.driver_connection):
        connection.execute(text("SET LOCAL transaction_timeout = 0"))


def _driver_url(url: str) -> Any:  # noqa: ANN401 - sqlalchemy.URL; kept out of the signature so that only this file knows it
    try:
        parsed = make_url(url)
    except ArgumentError:
        problem = "is not a database URL: write sqlite:///file.db or postgresql://user:password@host/name"
        raise ConfigurationError("configuration", (Problem(key="database.url", message=problem),)) from None
    match parsed.drivername:
        case "sqlite":
            return parsed
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            problem = f"{other!r} is not supported: write sqlite:///file.db or postgresql://user:password@host/name"
            raise ConfigurationError("configuration", (Problem(key="database.url", message=problem),))


def _is_away(error: DBAPIError) -> bool:
    """Whether the database is away, so that the same statements may succeed later."""
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    sqlite_code = getattr(error.orig, "sqlite_errorcode", None)
    if sqlite_code is not None:
        return sqlite_code & 0xFF in SQLITE_AWAY
    state = getattr(error.orig, "sqlstate", None)
    return isinstance(error, OperationalError) if state is None else state[:2] in POSTGRESQL_AWAY


def _remedy(error: DBAPIError) -> str:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return "" if code is None else SQLITE_REMEDIES.get(code & 0xFF, "")


def _is_conflict(cause: BaseException | None) -> bool:
    """Whether another transaction made this one fail: by a deadlock, a conflict, or by removing a row it refers to."""
    state = getattr(getattr(cause, "orig", None), "sqlstate", None)
    return state is not None and (state.startswith("40") or state == FOREIGN_KEY_VIOLATION)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _compact_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _make_private(_dialect: Dialect, _entry: ConnectionPoolEntry, arguments: list[Any], _options: object) -> None:
    """Create the file with mode 0600 before SQLite creates it with 0644; -wal and -shm get the same mode."""
    with contextlib.suppress(OSError):  # it exists, or cannot be created: SQLite reports that
        os.close(os.open(arguments[0], os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions are begun by the two functions below
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # a committed transaction survives a power failure
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
    cursor.close()


def _prepare_postgresql(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}")
    cursor.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("SET TimeZone = 'UTC'")  # else a time near the year 10,000 could be stored and not be read
    cursor.close()
    connection.commit()


def _limit_transactions(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """A process frozen while sending many rows is not idle to PostgreSQL: only this limit ends its transaction."""
    if _has_transaction_timeout(connection):
        cursor = connection.cursor()
        cursor.execute(f"SET transaction_timeout = {TRANSACTION_MS}")
        cursor.close()
        connection.commit()


def _has_transaction_timeout(connection: Any) -> bool:  # noqa: ANN401 - psycopg's connection, as SQLAlchemy hands it out
    return bool(connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE)


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_deferred(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")

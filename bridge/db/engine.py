"""The database: two engines, one way in.

`await db.read(function, …)` and `await db.write(function, …)` run a plain function with a connection in a worker
thread, each in one transaction, so that no transaction can span an `await`. On SQLite there is one writer at a time
(`BEGIN IMMEDIATE`, a thread of its own); on PostgreSQL row locks do that job.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
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

from bridge.errors import ConfigurationError, DatabaseError, Problem

log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.db")

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
POSTGRESQL_WRITERS = 4
BUSY_TIMEOUT_MS = 10_000
IDLE_IN_TRANSACTION_MS = 5_000
TRANSACTION_MS = 20_000
"""How long a transaction that writes may last in all, and hold its locks; less than a lease."""
DEADLOCK_TRIES = 5
LONG_SECONDS = 10
"""From when a transaction that is not answered is remarked on."""
TRANSACTION_TIMEOUT_SINCE = 17_00_00
POSTGRESQL_CONNECTION = {
    "connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}  # fmt: skip
"""A server that has gone without a word is noticed within half a minute."""
SQLITE_AWAY = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
})  # fmt: skip
SQLITE_REMEDIES = {
    sqlite3.SQLITE_BUSY: ": another process is writing to it; try again",
    sqlite3.SQLITE_LOCKED: ": another process is writing to it; try again",
    sqlite3.SQLITE_FULL: ": make room on the disk",
    sqlite3.SQLITE_READONLY: ": `bridge doctor` says why",
    sqlite3.SQLITE_CANTOPEN: ": `bridge doctor` says why",
}
POSTGRESQL_AWAY = frozenset({"08", "40", "53", "55", "57", "58"})
"""Classes of SQLSTATE: connection, rollback (deadlocks), resources, not in that state, intervention, system."""
ADVISORY_LOCKS = 0x62726467  # "brdg": the bridge's own among a PostgreSQL database's advisory locks


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
        self._under_way: set[Future[Any]] = set()

    def __repr__(self) -> str:
        return f"Database({self.name})"

    @property
    def name(self) -> str:
        """The address, for messages: without the password, wherever in the URL it stands."""
        shown = self._url.set(query={}, drivername=self.dialect)
        return str(shown.render_as_string(hide_password=True))

    async def read(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in a transaction that only looks.

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
        with self._explained(), self._reading.begin() as connection:
            return function(connection, *args, **kwargs)

    def write_now(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `write`, in this thread. Of two that wait for each other, PostgreSQL ends one: that one is done again."""
        for tries in range(1, DEADLOCK_TRIES + 1):
            try:
                with self._explained(), self._writing.begin() as connection:
                    return function(connection, *args, **kwargs)
            except DatabaseError as error:
                if tries == DEADLOCK_TRIES or not _is_rolled_back(error.__cause__):
                    raise
        raise AssertionError  # the last try returned or raised

    def close(self, seconds: float | None = None) -> bool:
        """Finish what the threads are at, within `seconds` if there are any, and close every connection.

        Answers whether the threads have ended; one that waits for a database that does not response may not have.
        """
        for threads in (self._write_threads, self._read_threads):
            threads.shutdown(wait=seconds is None, cancel_futures=True)
        has_ended = not wait(set(self._under_way), timeout=seconds).not_done
        if has_ended:
            self._writing.dispose()
            self._reading.dispose()
        return has_ended

    async def run(self, work: Callable[[], T]) -> T:
        """Run something that uses `read_now` and `write_now` in a thread of this database.

        Raises:
            DatabaseError: the database failed.
        """
        return await self._in_thread(self._write_threads, work)

    async def _in_thread(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        future = threads.submit(work)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        remark = asyncio.get_running_loop().call_later(LONG_SECONDS, self._remark)
        try:
            return await asyncio.wrap_future(future)
        finally:
            remark.cancel()

    def _remark(self) -> None:
        log.warning("database.waiting", detail=f"database {self.name}: no response for {LONG_SECONDS} s")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say a driver's error in the operator's words, without the statement and its values."""
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


def advisory_lock(connection: Connection, purpose: int) -> None:
    """Let only one process at a time go on with this purpose, until its transaction ends; on SQLite that is a given."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = 0"))  # whoever is at it may take its time
        connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCKS, purpose)))
        connection.execute(text(f"SET LOCAL lock_timeout = {BUSY_TIMEOUT_MS}"))


def allow_long_transaction(connection: Connection) -> None:
    """Let this transaction last as long as it must: it is done once, and there may be much to do."""
    if connection.dialect.name == "postgresql" and _knows_transaction_timeout(connection.connection.driver_connection):
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
    """Whether the same statements may succeed later: nothing is wrong with them, but with where they were sent."""
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


def _is_rolled_back(cause: BaseException | None) -> bool:
    """Whether the transaction failed only because of another one: a deadlock, or a conflict (SQLSTATE class 40)."""
    state = getattr(getattr(cause, "orig", None), "sqlstate", None)
    return state is not None and state.startswith("40")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _compact_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _make_private(_dialect: Dialect, _entry: ConnectionPoolEntry, arguments: list[Any], _options: object) -> None:
    """A file that SQLite would make for everybody to read; the two beside it get the same mode."""
    with contextlib.suppress(OSError):  # it is there, or cannot be made: SQLite says which
        os.close(os.open(arguments[0], os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; the two functions below do
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # a commit that was reported survives a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA secure_delete = FAST")  # a secret that is ciphertext, or forgotten, is overwritten
    cursor.close()


def _prepare_postgresql(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    # A process that is frozen inside a transaction must not hold its locks for longer than its leases.
    cursor.execute(f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}")
    cursor.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("SET TimeZone = 'UTC'")  # else a time near the year 10,000 could be stored and not be read
    cursor.close()
    connection.commit()


def _limit_transactions(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """One that is frozen while it sends many rows at once is not idle for PostgreSQL: only this ends it."""
    if _knows_transaction_timeout(connection):
        cursor = connection.cursor()
        cursor.execute(f"SET transaction_timeout = {TRANSACTION_MS}")
        cursor.close()
        connection.commit()


def _knows_transaction_timeout(connection: Any) -> bool:  # noqa: ANN401 - psycopg's connection, as SQLAlchemy hands it out
    return bool(connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE)


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_deferred(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")

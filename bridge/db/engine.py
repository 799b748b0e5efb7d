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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import (
    Case,
    ColumnElement,
    Connection,
    Dialect,
    Engine,
    case,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from bridge.db.postgresql import (
    CONNECTION,
    LOCK_MS,
    Meaning,
    extend_limits,
    has_transaction_timeout,
    meaning_of,
    prepare_engines,
)
from bridge.db.postgresql_url import read_postgresql_url
from bridge.errors import BridgeError, ConfigurationError, DatabaseError, Problem
from bridge.logs import get_logger

log = get_logger("bridge.db")

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
LONG_READERS = 2
"""Connections for exports and verifications, which must not keep short reads waiting."""
WRITERS = 2
"""Connections that write: for polls and deliveries, and for longer work."""
LIVENESS_THREADS = 2
"""They must not wait for a connection while all others are in use (`liveness`)."""
BUSY_TIMEOUT_MS = 10_000
TRANSACTION_TRIES = 5
SLOW_SECONDS = 10
"""A transaction that takes longer than this is logged."""
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
_WRITTEN = "bridge_written"  # key of `Connection.info`
ADVISORY_LOCKS = 0x62726467  # "brdg": the class of the bridge's advisory locks in a PostgreSQL database
MIGRATION_LOCK, CONFIGURATION_LOCK, SYSTEM_LOG_LOCK = 1, 2, 3


@dataclass(slots=True)
class _Written:
    """Facts of a transaction that are reported once it is committed."""

    events: Counter[str] = field(default_factory=Counter)
    has_made_due: bool = False


class Database:
    """One database, SQLite or PostgreSQL; safe to share between tasks and threads."""

    def __init__(self, url: str) -> None:
        """Open nothing yet.

        Args:
            url: `sqlite:///…` or `postgresql://…`.

        Raises:
            ConfigurationError: the URL names no database that the bridge can use.
        """
        self._url, self._never_prepare = _driver_url(url)
        self.dialect: str = self._url.get_backend_name()
        self._writing = self._engine(writes=True)
        self._reading = self._engine(writes=False)
        self._looking, self._changing = self._reading, self._writing
        if self.dialect == "postgresql":
            prepare_engines((self._writing, self._reading), self.name)
            self._looking, self._changing = (
                engine.execution_options(isolation_level="AUTOCOMMIT") for engine in (self._reading, self._writing)
            )
        # One thread writes polls and deliveries: several would only wait for each other. Longer writes have
        # another on PostgreSQL; SQLite has one writer at a time anyway.
        self._write_threads = ThreadPoolExecutor(1, "database-write")
        self._aside_threads = self._write_threads
        if self.dialect != "sqlite":
            self._aside_threads = ThreadPoolExecutor(1, "database-aside")
        self._read_threads = ThreadPoolExecutor(READERS, "database-read")
        self._long_threads = ThreadPoolExecutor(LONG_READERS, "database-export")
        self._running: set[Future[Any]] = set()
        self._unwritten_since: float | None = None
        self._on_events: list[Callable[[Mapping[str, int]], None]] = []
        self._on_due: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"Database({self.name})"

    def on_events(self, call: Callable[[Mapping[str, int]], None]) -> None:
        """Call after each commit with the number of events that it wrote, by type; in the thread that wrote."""
        self._on_events.append(call)

    def on_due(self, call: Callable[[], None]) -> None:
        """Call after each commit of a transaction that has made work due (`note_due`); in the thread that wrote."""
        self._on_due.append(call)

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database, without symbolic links."""
        return Path(self._url.database).resolve() if self.dialect == "sqlite" else None

    @property
    def url(self) -> str:
        """The URL with its password, for another connection."""
        return str(self._url.render_as_string(hide_password=False))

    @property
    def name(self) -> str:
        """The URL for messages, without password and options."""
        hosts = self._url.query.get("host", ())
        host = self._url.host or ",".join((hosts,) if isinstance(hosts, str) else hosts)
        shown = self._url.set(query={}, drivername=self.dialect, host=host or None)
        return str(shown.render_as_string(hide_password=True))

    @property
    def unwritten_seconds(self) -> float:
        """Seconds since the first attempt to write after the last one that ended; 0 if nothing waits."""
        since = self._unwritten_since
        return 0 if since is None else time.monotonic() - since

    async def read(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in a transaction that only reads.

        Raises:
            DatabaseError: the database failed.
        """
        return await self._in_thread(self._read_threads, lambda: self.read_now(function, *args, **kwargs))

    async def look(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, for a single statement: PostgreSQL needs no transaction around it, which saves two round trips.

        Raises:
            DatabaseError: the database failed.
        """
        return await self._in_thread(self._read_threads, lambda: self.look_now(function, *args, **kwargs))

    async def write(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in a transaction: all of it happens, or none. For polls and deliveries.

        Raises:
            DatabaseError: the database failed.
        """
        return await self._in_thread(self._write_threads, lambda: self.write_now(function, *args, **kwargs))

    async def write_aside(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, for transactions that take longer than polls and deliveries should wait.

        Raises:
            DatabaseError: the database failed.
        """
        return await self._in_thread(self._aside_threads, lambda: self.write_now(function, *args, **kwargs))

    async def read_long(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `look`, concurrently with all other work: for exports and verifications.

        Raises:
            DatabaseError: the database failed.
        """
        work = self._long_threads.submit(lambda: self.read_once(function, *args, **kwargs))
        self._running.add(work)
        work.add_done_callback(self._running.discard)
        return await asyncio.wrap_future(work)

    def read_now(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, in this thread."""
        return self._transact(self._reading, lambda connection: function(connection, *args, **kwargs))

    def look_now(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `look`, in this thread."""
        return self._transact(self._looking, lambda connection: function(connection, *args, **kwargs))

    def read_once(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, in this thread, for long reads whose result goes elsewhere, perhaps to a slow reader.

        It sees one state of the database, has no time limit, and is never run again.
        """
        engine = self._reading
        if self.dialect == "postgresql":
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        for tries in range(1, TRANSACTION_TRIES + 1):
            has_begun = False
            try:
                with self._translated(), engine.begin() as connection:
                    if self.dialect == "postgresql":
                        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
                    has_begun = True
                    return function(connection, *args, **kwargs)
            except DatabaseError as error:
                # The server may have ended the connection while it was not in use.
                if has_begun or tries == TRANSACTION_TRIES or not _is_lost(error.__cause__):
                    raise
        raise AssertionError  # the last try returned or raised

    def write_now(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `write`, in this thread."""
        return self._write(self._writing, lambda connection: function(connection, *args, **kwargs))

    def change_now(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `write_now`, for a single statement that may run twice: PostgreSQL needs no transaction around it."""
        return self._write(self._changing, lambda connection: function(connection, *args, **kwargs))

    def _write(self, engine: Engine, function: Callable[[Connection], T]) -> T:
        self._unwritten_since = self._unwritten_since or time.monotonic()
        is_away = False
        try:
            return self._transact(engine, function)
        except DatabaseError as error:
            is_away = error.is_away
            raise
        finally:
            if not is_away:
                self._unwritten_since = None

    def _transact(self, engine: Engine, function: Callable[[Connection], T]) -> T:
        """Run a transaction; again if another one made it fail, or its connection was lost before it could commit."""
        is_lost = False
        for tries in range(1, TRANSACTION_TRIES + 1):
            committing = False
            try:
                with self._translated(), engine.begin() as connection:
                    if is_lost and self.dialect == "postgresql":
                        extend_limits(connection)
                    connection.info.pop(_WRITTEN, None)  # of a transaction that failed
                    result = function(connection)
                    written: _Written | None = connection.info.pop(_WRITTEN, None)
                    committing = True
            except DatabaseError as error:
                is_lost = not committing and _is_lost(error.__cause__)
                may_repeat = is_lost or _is_conflict(error.__cause__)
                if tries == TRANSACTION_TRIES or not may_repeat:
                    raise
            else:
                if written is not None:
                    self._report(written)
                return result
        raise AssertionError  # the last try returned or raised

    def _report(self, written: _Written) -> None:
        if written.events:
            for call in self._on_events:
                call(written.events)
        if written.has_made_due:
            for wake in self._on_due:
                wake()

    def truncate_wal(self, seconds: float) -> None:
        """Empty SQLite's write-ahead log, which has copies of deleted rows; PostgreSQL has no equivalent.

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
        for threads in (self._write_threads, self._aside_threads, self._read_threads, self._long_threads):
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
        return await self._in_thread(self._aside_threads, work)

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
        size = (WRITERS if writes else READERS + LONG_READERS) + LIVENESS_THREADS
        options: dict[str, Any] = {
            "pool_size": size,
            "max_overflow": 0,
            "pool_use_lifo": True,  # the caches of the connection that was used last are warm
            "json_serializer": _compact_json,
        }
        if self.dialect == "sqlite":
            engine = create_engine(self._url, connect_args={"check_same_thread": False}, **options)
            event.listen(engine, "do_connect", _make_private)
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_immediate if writes else _begin_deferred)
            return engine
        return create_engine(self._url, connect_args=self._connection_arguments, **options)

    @property
    def _connection_arguments(self) -> dict[str, Any]:
        """Of psycopg's connections."""
        return {**CONNECTION, "prepare_threshold": None} if self._never_prepare else dict(CONNECTION)


def sqlite_file(url: str) -> Path | None:
    """The file that a `sqlite:///` URL names; None for another database."""
    parsed = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def connection_arguments(url: str) -> dict[str, Any] | None:
    """Psycopg's arguments for a connection beside those of `Database`; None for SQLite.

    Raises:
        ConfigurationError: the URL names no database that the bridge can use.
    """
    parsed, _ = _driver_url(url)
    if parsed.get_backend_name() == "sqlite":
        return None
    _, arguments = parsed.get_dialect()().create_connect_args(parsed)
    return {**arguments, **CONNECTION}


def upsert(dialect: str) -> Callable[..., Any]:
    """The INSERT with ON CONFLICT of a kind of database, imported when it is used: the other one is not needed."""
    insert: Callable[..., Any] = import_module(f"sqlalchemy.dialects.{dialect}").insert
    return insert


def latest(time: ColumnElement[datetime | None], *others: ColumnElement[datetime | None]) -> Case[datetime | None]:
    """The latest of these times, of those that are not null; `time` never is."""
    later = case((others[0] > time, others[0]), else_=time)
    return latest(later, *others[1:]) if others[1:] else later


def count_events(connection: Connection, types: Iterable[str]) -> None:
    """Count events that the transaction has written: they are reported once it is committed."""
    _written(connection).events.update(types)


def note_due(connection: Connection) -> None:
    """Note that the transaction makes work due: this process acts on it once it is committed."""
    _written(connection).has_made_due = True


def _written(connection: Connection) -> _Written:
    written: _Written = connection.info.setdefault(_WRITTEN, _Written())
    return written


def advisory_lock(connection: Connection, lock: int) -> None:
    """Let one process at a time go on, until its transaction ends; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = 0"))  # the holder may take its time
        connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCKS, lock)))
        connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_MS}"))


def allow_long_transaction(connection: Connection) -> None:
    """Lift the time limit of this transaction, which is run once and may take long."""
    if connection.dialect.name == "postgresql" and has_transaction_timeout(connection.connection.driver_connection):
        connection.execute(text("SET LOCAL transaction_timeout = 0"))


def _driver_url(url: str) -> tuple[Any, bool]:
    """The URL for SQLAlchemy (whose type only this file knows), and whether nothing must be prepared."""
    never_prepare = False
    try:
        if url.startswith("postgres"):
            read = read_postgresql_url(url)
            url, never_prepare = read.url, read.never_prepare
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        problem = "is not a database URL: write sqlite:///file.db or postgresql://user:password@host/name"
        raise ConfigurationError("configuration", (Problem(key="database.url", message=problem),)) from None
    match parsed.drivername:
        case "sqlite":
            return parsed, False
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return parsed.set(drivername="postgresql+psycopg"), never_prepare
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
    if state is None:
        return isinstance(error, OperationalError)
    return meaning_of(state) in (Meaning.LOST, Meaning.AWAY, Meaning.CONFLICT)


def _remedy(error: DBAPIError) -> str:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return "" if code is None else SQLITE_REMEDIES.get(code & 0xFF, "")


def _is_conflict(cause: BaseException | None) -> bool:
    """Whether another transaction made this one fail: by a deadlock, a conflict, or by adding or removing a row."""
    state = getattr(getattr(cause, "orig", None), "sqlstate", None)
    return meaning_of(state) in (Meaning.CONFLICT, Meaning.REMOVED, Meaning.ADDED)


def _is_lost(cause: BaseException | None) -> bool:
    """Whether the connection was lost, perhaps long ago while it was not in use."""
    return isinstance(cause, DBAPIError) and cause.connection_invalidated


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


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_deferred(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")

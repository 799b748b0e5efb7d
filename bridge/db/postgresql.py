"""PostgreSQL in practice: the meaning of its errors, and connections that survive failovers, poolers and encodings."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry

from bridge.errors import EncodingError

IDLE_IN_TRANSACTION_MS: Final = 4_000
"""A process that is frozen inside a transaction keeps its locks no longer than it counts as alive (`liveness`)."""
LOCK_MS: Final = 10_000
TRANSACTION_MS: Final = 20_000
"""Longest duration of a writing transaction, and so of its locks."""
TRANSACTION_TIMEOUT_SINCE: Final = 17_00_00
CONNECTION: Final = {
    "connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 20_000, "client_encoding": "utf8",
}  # fmt: skip
"""A server that vanished from the network is noticed within half a minute."""
DROP_INTERVAL: Final = 1.0
"""Seconds between two droppings of all connections, so that a read-only server is not reconnected to all the time."""
POOLED: Final = "pooled"
"""Marks a connection whose server sessions are shared with other programs, by a pooler in between."""


class Meaning(StrEnum):
    """Meaning of an error."""

    LOST = "lost"
    """The session or its server is unusable: another connection may reach a usable one."""
    AWAY = "away"
    """The same statements may succeed later."""
    CONFLICT = "conflict"
    """Another transaction made this one fail: it is run again."""
    REMOVED = "removed"
    """Another transaction removed a row that this one refers to: it is run again, and sees that."""
    ADDED = "added"
    """Another transaction added the same row: it is run again, and sees that."""
    OTHER = "other"


SQLSTATES: Final[tuple[tuple[str, Meaning], ...]] = (
    ("08", Meaning.LOST),  # connection exceptions
    ("23503", Meaning.REMOVED),  # foreign key violation
    ("23505", Meaning.ADDED),  # unique violation
    ("25006", Meaning.LOST),  # read-only: after a failover, the old primary
    ("25P03", Meaning.LOST),  # idle in transaction for too long: the session has ended
    ("40", Meaning.CONFLICT),  # deadlock, serialization
    ("53", Meaning.AWAY),  # insufficient resources
    ("55", Meaning.AWAY),  # not in prerequisite state, such as a lock that was not available in time
    ("57P01", Meaning.LOST),  # shut down by an administrator
    ("57P02", Meaning.LOST),  # crashed
    ("57P03", Meaning.LOST),  # starting up, or shutting down
    ("57P05", Meaning.LOST),  # idle for too long
    ("57", Meaning.AWAY),  # operator intervention
    ("58", Meaning.AWAY),  # system error
)
"""Meaning by SQLSTATE; the first prefix counts."""


def meaning_of(sqlstate: str | None) -> Meaning:
    """The meaning of an error with this SQLSTATE."""
    return next((meaning for prefix, meaning in SQLSTATES if (sqlstate or "").startswith(prefix)), Meaning.OTHER)


def prepare_engines(engines: tuple[Engine, Engine], name: str) -> None:
    """Let the engine that writes (the first) and the one that reads survive failovers and poolers."""
    writing, reading = engines
    for engine in engines:
        event.listen(engine, "connect", _preparing(name, writes=engine is writing))
        event.listen(engine, "begin", _limiting(writes=engine is writing))
    dropped_at = -DROP_INTERVAL

    def drop_lost(context: ExceptionContext) -> None:
        """Drop all connections if one is lost: the others lead to the same server."""
        nonlocal dropped_at
        is_lost = meaning_of(getattr(context.original_exception, "sqlstate", None)) is Meaning.LOST
        if is_lost and time.monotonic() - dropped_at >= DROP_INTERVAL:
            dropped_at = time.monotonic()
            context.is_disconnect = True
            is_writing = context.engine is not None and context.engine.pool is writing.pool
            (reading if is_writing else writing).dispose()

    for engine in engines:
        event.listen(engine, "handle_error", drop_lost)


def check_encoding(connection: DBAPIConnection, name: str) -> None:
    """Refuse a database that cannot store every text.

    Raises:
        EncodingError: its encoding is not UTF8.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        connection.close()
        raise EncodingError(
            f"database {name}: its encoding is {encoding}, and names need UTF8: "
            "create another with ENCODING 'UTF8' TEMPLATE template0",
            is_away=False,
        )


def _preparing(name: str, *, writes: bool) -> Callable[[DBAPIConnection, ConnectionPoolEntry], None]:
    def prepare(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        check_encoding(connection, name)
        _send_arrays_binary(connection)
        cursor = connection.cursor()
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone() or (None,)
        entry.info["limits"] = _limits(connection, writes=writes)
        # A pooler reports a number of its own. Its sessions serve other programs too.
        entry.info[POOLED] = pid != connection.info.backend_pid
        if entry.info[POOLED]:
            connection.prepare_threshold = None
        else:
            for setting, value in entry.info["limits"].items():
                cursor.execute("SELECT set_config(%s, %s, false)", (setting, value))
        cursor.close()
        connection.commit()

    return prepare


def _send_arrays_binary(connection: DBAPIConnection) -> None:
    """Send arrays in binary form: psycopg writes and escapes text item by item, and the server reads it again."""
    from psycopg.types.array import ListBinaryDumper  # noqa: PLC0415 - SQLite does not need it

    connection.adapters.register_dumper(list, ListBinaryDumper)


def _limits(connection: DBAPIConnection, *, writes: bool) -> dict[str, str]:
    limits = {
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
        "lock_timeout": str(LOCK_MS),
        "TimeZone": "UTC",  # else a time near the year 10,000 could be stored and not be read
    }
    if writes and has_transaction_timeout(connection):
        # A process frozen while sending many rows is not idle to PostgreSQL: only this limit ends its transaction.
        limits["transaction_timeout"] = str(TRANSACTION_MS)
    return limits


def _limiting(*, writes: bool) -> Callable[[Connection], None]:
    """Through a pooler, settings must end with the transaction: the next program gets the same session."""

    def set_locally(connection: Connection) -> None:
        if not connection.info[POOLED]:
            return
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            if not writes:
                return  # a look locks nothing
            connection.exec_driver_sql("BEGIN")
        limits = connection.info["limits"]
        values = [text for pair in limits.items() for text in pair]
        calls = ", ".join(["set_config(%s, %s, true)"] * len(limits))
        connection.exec_driver_sql(f"SELECT {calls}", tuple(values))

    return set_locally


def extend_limits(connection: Connection) -> None:
    """Give this transaction ten times as long: the one before may not have been frozen, but slow."""
    limits = {"idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_MS}
    if "transaction_timeout" in connection.info["limits"]:
        limits["transaction_timeout"] = TRANSACTION_MS
        # Another value does not move a timer that runs: PostgreSQL only starts or stops it.
        connection.exec_driver_sql("SET LOCAL transaction_timeout = 0")
    for setting, limit in limits.items():
        connection.exec_driver_sql(f"SET LOCAL {setting} = {10 * limit}")


def has_transaction_timeout(connection: Any) -> bool:  # noqa: ANN401 - psycopg's connection, as SQLAlchemy hands it out
    """Whether the server knows `transaction_timeout`."""
    return bool(connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE)

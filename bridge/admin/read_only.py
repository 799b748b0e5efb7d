"""The database for commands that must not change it (`doctor`, `poll --dry-run`), and the records that doctor checks.

Opening a SQLite file as usual would turn an empty file into a database, change the journal mode of a foreign one, and
leave `-wal` and `-shm` files behind. So a file that is not in use is opened as immutable, and one in use read-only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, exists, func, literal, select

from bridge.admin.listing import columns_of
from bridge.db.engine import Database
from bridge.db.schema import SchemaState, schema_state
from bridge.db.tables import endpoint_secrets, endpoints, rooms, sessions

TIMEOUT_SECONDS = 4
"""For a connection, and for a statement."""


class ReadOnlyDatabase(Database):
    """A database on which every write fails."""

    def _engine(self, *, writes: bool) -> Engine:  # noqa: ARG002 - the signature of the method that it replaces
        if self.dialect == "sqlite":
            connect_args = {"check_same_thread": False, "timeout": TIMEOUT_SECONDS}
            return create_engine(_read_only_url(self._url), poolclass=NullPool, connect_args=connect_args)
        engine = create_engine(
            self._url,
            poolclass=NullPool,
            connect_args={
                **self._connection_arguments,
                "connect_timeout": TIMEOUT_SECONDS,
                "tcp_user_timeout": TIMEOUT_SECONDS * 1000,
            },
            execution_options={"postgresql_readonly": True},
        )
        event.listen(engine, "begin", _limit_statements)
        return engine


def _limit_statements(connection: Connection) -> None:
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{TIMEOUT_SECONDS}s'")


def _read_only_url(url: URL) -> URL:
    name = url.database or ""
    is_in_use = Path(f"{name}-wal").exists()
    mode = {"mode": "ro"} if is_in_use else {"immutable": "1"}
    return url.set(database=f"file:{quote(name)}").update_query_dict({"uri": "true", **mode})


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseState:
    """The server and the schema; `obstacle` is why the bridge could not write, as far as the server knows."""

    version: str
    schema: SchemaState
    obstacle: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomRecord:
    """The polls of a tracked room; `was_live` if it has ever had a session."""

    source: str
    room_id: str
    enabled: bool = True
    polled_at: datetime | None = None
    complete_at: datetime | None = None
    failures: int = 0
    last_failure: str | None = None
    was_live: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedText:
    """A secret or the headers of an endpoint, as stored."""

    endpoint: str
    what: str
    ciphertext: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRecord:
    """The address of an endpoint."""

    name: str
    url: str
    enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """The stored records that doctor checks."""

    rooms: Sequence[RoomRecord] = ()
    endpoints: Sequence[EndpointRecord] = ()
    texts: Sequence[EncryptedText] = ()


def read_state(connection: Connection) -> DatabaseState:
    """Return the kind and version of the database, its schema, and whether it accepts writes."""
    schema = schema_state(connection)
    if connection.dialect.name == "sqlite":
        return DatabaseState(version=f"SQLite {sqlite3.sqlite_version}", schema=schema, obstacle=None)
    version: str = connection.execute(select(func.current_setting("server_version"))).scalar_one()
    return DatabaseState(version=f"PostgreSQL {version}", schema=schema, obstacle=_obstacle(connection, schema))


def _obstacle(connection: Connection, schema: SchemaState) -> str | None:
    if connection.execute(select(func.pg_is_in_recovery())).scalar_one():
        return "the server is a standby, which cannot be written to"
    if connection.execute(select(func.current_setting("default_transaction_read_only"))).scalar_one() == "on":
        return "default_transaction_read_only is on"
    may_create = func.has_schema_privilege(func.current_schema(), "CREATE")
    if schema.is_fresh and not connection.execute(select(may_create)).scalar_one():
        return "the user may not create tables"
    if schema.is_current and not connection.execute(select(func.has_table_privilege("events", "INSERT"))).scalar_one():
        return "the user may not write to the tables"
    return None


def read_records(connection: Connection) -> Records:
    """Read the records that doctor checks; the schema must be current."""
    tracked = select(*_ROOM).where(rooms.c.tracked).order_by(rooms.c.source, rooms.c.upstream_id)
    known = select(endpoints.c.name, endpoints.c.url, (endpoints.c.state == "active").label("enabled"))
    secrets = (
        select(endpoints.c.name, literal("secret"), endpoint_secrets.c.ciphertext)
        .join(endpoints, endpoints.c.id == endpoint_secrets.c.endpoint_key)
        .order_by(endpoints.c.name, endpoint_secrets.c.id)
    )
    headers = select(endpoints.c.name, literal("headers"), endpoints.c.headers).order_by(endpoints.c.name)
    return Records(
        rooms=[RoomRecord(**row._asdict()) for row in connection.execute(tracked)],
        endpoints=[EndpointRecord(**row._asdict()) for row in connection.execute(known.order_by(endpoints.c.name))],
        texts=[
            EncryptedText(endpoint=name, what=what, ciphertext=text)
            for query in (secrets, headers)
            for name, what, text in connection.execute(query)
        ],
    )


_ROOM = (
    *columns_of(rooms, RoomRecord),
    rooms.c.upstream_id.label("room_id"),
    exists().where(sessions.c.room_key == rooms.c.id).label("was_live"),
)

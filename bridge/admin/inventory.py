"""What `bridge doctor` reads, and how: nothing is made, migrated or changed, not even one of SQLite's files.

Opening a SQLite file as usual would turn an empty one into a database, change the journal of a foreign one, and leave
`-wal` and `-shm` behind where it may not write; so a file that nobody is writing to is read as immutable.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, and_, create_engine, exists, func, select

from bridge.admin.endpoints import ListedEndpoint, list_endpoints
from bridge.admin.rooms import TroubledSource, troubled_sources
from bridge.db.engine import Database
from bridge.db.migrate import SchemaState, schema_state
from bridge.db.tables import cursors, endpoint_secrets, endpoints, events, rooms, sessions
from bridge.events.types import matches

CONNECT_SECONDS = 4


class ReadOnlyDatabase(Database):
    """The database for somebody who only looks; what would change it fails."""

    def _engine(self, *, writes: bool) -> Engine:  # noqa: ARG002 - the signature of what it replaces
        if self.dialect == "sqlite":
            return create_engine(
                _unchanging(self._url),
                poolclass=NullPool,
                connect_args={"check_same_thread": False, "timeout": CONNECT_SECONDS},
            )
        return create_engine(
            self._url,
            poolclass=NullPool,
            connect_args={"connect_timeout": CONNECT_SECONDS},
            execution_options={"postgresql_readonly": True},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseLook:
    """What a database is; `obstacle` is why the bridge could not write to it, as far as the server says."""

    version: str
    schema: SchemaState
    obstacle: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomRecord:
    """What is known of a room; `was_live` once there has been somebody in it."""

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
    """A secret, or the headers, of an endpoint, as stored."""

    endpoint: str
    what: str
    ciphertext: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """Everything that there is to examine; `owed_since` by the endpoint's name."""

    rooms: Sequence[RoomRecord] = ()
    endpoints: Sequence[ListedEndpoint] = ()
    owed_since: Mapping[str, datetime] = field(default_factory=dict)
    troubled_sources: Sequence[TroubledSource] = ()
    ciphertext: Sequence[EncryptedText] = ()


def look_at_database(connection: Connection) -> DatabaseLook:
    """Which kind and schema, and whether it takes writes."""
    schema = schema_state(connection)
    if connection.dialect.name == "sqlite":
        return DatabaseLook(version=f"SQLite {sqlite3.sqlite_version}", schema=schema, obstacle=None)
    version: str = connection.execute(select(func.current_setting("server_version"))).scalar_one()
    return DatabaseLook(version=f"PostgreSQL {version}", schema=schema, obstacle=_obstacle(connection, schema))


def take_stock(connection: Connection) -> Stock:
    """Read everything that the checks are about; the schema must be current."""
    return Stock(
        rooms=_room_records(connection),
        endpoints=list_endpoints(connection),
        owed_since=_owed_since(connection),
        troubled_sources=troubled_sources(connection),
        ciphertext=_encrypted_texts(connection),
    )


def _unchanging(url: URL) -> URL:
    name = url.database or ""
    if name.startswith("file:"):
        return url.update_query_dict({"mode": "ro"})
    is_in_use = Path(f"{name}-wal").exists()
    how = {"mode": "ro"} if is_in_use else {"immutable": "1"}
    return url.set(database=f"file:{quote(name)}").update_query_dict({"uri": "true", **how})


def _obstacle(connection: Connection, schema: SchemaState) -> str | None:
    if connection.execute(select(func.pg_is_in_recovery())).scalar_one():
        return "it is a standby, which only reads"
    if connection.execute(select(func.current_setting("default_transaction_read_only"))).scalar_one() == "on":
        return "its default_transaction_read_only is on"
    place = func.current_schema()
    if schema.is_fresh and not connection.execute(select(func.has_schema_privilege(place, "CREATE"))).scalar_one():
        return "the user may not create tables"
    if schema.is_current and not connection.execute(select(func.has_table_privilege("events", "INSERT"))).scalar_one():
        return "the user may not write into the tables"
    return None


def _room_records(connection: Connection) -> list[RoomRecord]:
    was_live = exists().where(sessions.c.room_key == rooms.c.id).label("was_live")
    tracked = select(rooms, was_live).where(rooms.c.tracked).order_by(rooms.c.source, rooms.c.upstream_id)
    return [
        RoomRecord(
            source=row.source,
            room_id=row.upstream_id,
            enabled=row.enabled,
            polled_at=row.polled_at,
            complete_at=row.complete_at,
            failures=row.failures,
            last_failure=row.last_failure,
            was_live=row.was_live,
        )
        for row in connection.execute(tracked)
    ]


def _owed_since(connection: Connection) -> dict[str, datetime]:
    """Since when the oldest event that each endpoint waits for has been in the log."""
    within_reach = and_(
        events.c.room_key == cursors.c.room_key,
        events.c.sequence > cursors.c.acked,
        events.c.sequence <= cursors.c.head,
    )
    oldest = (
        select(endpoints.c.name, endpoints.c.events, events.c.type, func.min(events.c.recorded_at).label("since"))
        .join(cursors, cursors.c.endpoint_key == endpoints.c.id)
        .join(events, within_reach)
        .where(cursors.c.acked < cursors.c.head)
        .group_by(endpoints.c.id, events.c.type)
    )
    since: dict[str, datetime] = {}
    for row in connection.execute(oldest):
        if matches(row.type, row.events):
            since[row.name] = min(row.since, since.get(row.name, row.since))
    return since


def _encrypted_texts(connection: Connection) -> list[EncryptedText]:
    headers = select(endpoints.c.name, endpoints.c.headers).order_by(endpoints.c.name)
    secrets = (
        select(endpoints.c.name, endpoint_secrets.c.ciphertext)
        .join(endpoints, endpoints.c.id == endpoint_secrets.c.endpoint_key)
        .order_by(endpoints.c.name, endpoint_secrets.c.id)
    )
    return [
        *(
            EncryptedText(endpoint=row.name, what="secret", ciphertext=row.ciphertext)
            for row in connection.execute(secrets)
        ),
        *(
            EncryptedText(endpoint=row.name, what="headers", ciphertext=row.headers)
            for row in connection.execute(headers)
        ),
    ]

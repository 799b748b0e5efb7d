"""The version of the schema: what the database has, and what this program needs.

Alembic is imported only to migrate, or for an error message: it loads the dialects of all databases, Mako and
Pygments, which takes as long as importing SQLAlchemy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, inspect, text

from bridge.db.engine import Database
from bridge.errors import SchemaError

HEAD: Final = "0003"
"""The newest revision in `migrations/versions`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaState:
    """`current` is None for a database that has never been migrated; `is_fresh` if it has no table at all."""

    current: str | None
    is_fresh: bool
    head: str = HEAD

    @property
    def is_current(self) -> bool:
        return self.current == self.head


def schema_state(connection: Connection) -> SchemaState:
    tables = inspect(connection).get_table_names()
    current: str | None = None
    if "alembic_version" in tables:
        current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return SchemaState(current=current, is_fresh=not tables)


def ensure_schema(database: Database) -> None:
    """Migrate a fresh SQLite file; refuse any other schema that is not the newest.

    Raises:
        SchemaError: the schema is outdated, or newer than this program.
    """
    state = database.read_now(schema_state)
    if state.is_current:
        return
    from bridge.db.migrate import migrate, refuse_newer  # noqa: PLC0415 - see the head of this file

    if state.is_fresh and database.dialect == "sqlite":
        database.write_now(migrate)
        return
    refuse_newer(state)
    none = "is empty" if state.is_fresh else "has tables, but no schema of the bridge"
    have = none if state.current is None else f"has schema {state.current}"
    raise SchemaError(f"database {database.name} {have}, this version needs {state.head}: run `bridge migrate`")

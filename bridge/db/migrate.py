"""Versions of the schema: the database's, this program's, and the migration from one to the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from bridge.db.engine import MIGRATION_LOCK, Database, advisory_lock, allow_long_transaction
from bridge.errors import SchemaError


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaState:
    """`current` is None for a database that has never been migrated; `is_fresh` if it has no table at all."""

    current: str | None
    head: str
    is_fresh: bool

    @property
    def is_current(self) -> bool:
        return self.current == self.head


def schema_state(connection: Connection) -> SchemaState:
    return SchemaState(
        current=MigrationContext.configure(connection).get_current_revision(),
        head=_scripts().get_current_head() or "",
        is_fresh=not inspect(connection).get_table_names(),
    )


def migrate(connection: Connection) -> None:
    """Bring the database to the newest schema, in the caller's transaction.

    Raises:
        SchemaError: the database was migrated by a newer version of the bridge.
    """
    allow_long_transaction(connection)
    advisory_lock(connection, MIGRATION_LOCK)
    state = schema_state(connection)
    if _is_newer(state):
        raise SchemaError(_TOO_NEW.format(state.current))
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def ensure_schema(database: Database) -> None:
    """Migrate a fresh SQLite file; refuse any other schema that is not the newest.

    Raises:
        SchemaError: the schema is outdated, or newer than this program.
    """
    state = database.read_now(schema_state)
    if state.is_current:
        return
    if state.is_fresh and database.dialect == "sqlite":
        database.write_now(migrate)
        return
    if _is_newer(state):
        raise SchemaError(_TOO_NEW.format(state.current))
    none = "is empty" if state.is_fresh else "has tables, but no schema of the bridge"
    have = none if state.current is None else f"has schema {state.current}"
    raise SchemaError(f"database {database.name} {have}, this version needs {state.head}: run `bridge migrate`")


_TOO_NEW = (
    "the database has schema {}, which this version of the bridge does not know: a newer one migrated it; "
    "run that version, or restore a backup"
)


def _is_newer(state: SchemaState) -> bool:
    known = {script.revision for script in _scripts().walk_revisions()}
    return state.current is not None and state.current not in known


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_location()).replace("%", "%%"))
    return config


@cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _location() -> Path:
    """Inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"

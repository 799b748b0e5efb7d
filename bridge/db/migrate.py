"""The migration from one version of the schema to another."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from bridge.db.engine import MIGRATION_LOCK, advisory_lock, allow_long_transaction
from bridge.db.schema import SchemaState, schema_state
from bridge.errors import SchemaError


def migrate(connection: Connection) -> None:
    """Bring the database to the newest schema, in the caller's transaction.

    Raises:
        SchemaError: the database was migrated by a newer version of the bridge.
    """
    allow_long_transaction(connection)
    advisory_lock(connection, MIGRATION_LOCK)
    refuse_newer(schema_state(connection))
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def refuse_newer(state: SchemaState) -> None:
    """Make sure that this version of the bridge knows the schema.

    Raises:
        SchemaError: it does not.
    """
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    if state.current is not None and state.current not in known:
        raise SchemaError(
            f"the database has schema {state.current}, which this version of the bridge does not know: a newer one "
            "migrated it; run that version, or restore a backup"
        )


def alembic_config() -> Config:
    """Return the configuration of Alembic: its scripts are inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "migrations"
    location = shipped if shipped.is_dir() else package.parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    return config

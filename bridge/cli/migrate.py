"""`bridge migrate`: the schema of the database."""

from __future__ import annotations

from bridge.cli.options import ConfigOption
from bridge.cli.output import print_message
from bridge.cli.settings import load_settings
from bridge.db.engine import Database
from bridge.db.migrate import migrate as migrate_schema
from bridge.db.schema import schema_state


def migrate(config: ConfigOption = None) -> None:
    """Bring the database to the newest schema."""
    database = Database(load_settings(config).database.url)
    try:
        before = database.read_now(schema_state)
        database.write_now(migrate_schema)
        after = database.read_now(schema_state)
    finally:
        database.close()
    if before.current == after.current:
        print_message(f"{database.name}: schema {after.current} is current, nothing to do")
    else:
        print_message(f"{database.name}: migrated from {before.current or 'nothing'} to {after.current}")

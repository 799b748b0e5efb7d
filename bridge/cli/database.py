"""The database that the configuration names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.cli.settings import exists
from bridge.config import Settings
from bridge.db.engine import Database, sqlite_file
from bridge.db.schema import ensure_schema
from bridge.errors import NotFoundError
from bridge.logs import configure_logs


@contextmanager
def open_database(settings: Settings, *, create: bool = False) -> Iterator[Database]:
    """Open the configured database.

    Args:
        settings: of the configuration.
        create: Create a SQLite file that does not exist. Commands that only read must not: the current directory may
            be the wrong one.

    Raises:
        NotFoundError: the database does not exist yet.
        SchemaError: its schema is outdated, or newer than this program.
    """
    if not create and (missing := missing_file(settings)) is not None:
        raise NotFoundError(
            f"there is no database {missing} yet: `bridge run` or `bridge migrate` creates it; "
            "if there should be one, change to its directory or correct database.url"
        )
    configure_logs(console=True, level="warning")
    database = Database(settings.database.url)
    try:
        ensure_schema(database)
        yield database
    finally:
        database.close()


def missing_file(settings: Settings) -> Path | None:
    """Return the file of a SQLite database that does not exist; connecting to it would create it."""
    file = sqlite_file(settings.database.url)
    return None if file is None or exists(file) else file

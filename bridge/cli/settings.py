"""The configuration that a command works with, and the database and sources that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.config import NO_FILE, Settings, load
from bridge.config.environment import PREFIX
from bridge.config.words import did_you_mean, one_of, quoted
from bridge.db.engine import Database, sqlite_file
from bridge.db.migrate import ensure_schema
from bridge.errors import NotFoundError, UsageError
from bridge.logs import configure_logs
from bridge.sources.protocol import SourceSettings

DEFAULT_CONFIG = Path("bridge.toml")


def load_settings(config: Path | None) -> Settings:
    """Load the configuration; without a file, the environment may be all of it.

    Raises:
        ConfigurationError: with every problem in it.
    """
    return load(find_file(config), os.environ)


def name_of(config: Path | None) -> str:
    """Return the name that messages give to the configuration of `load_settings`."""
    return str(find_file(config) or NO_FILE)


def find_file(config: Path | None) -> Path | None:
    """Return the configuration file; None if there is none, but `BRIDGE__…` variables are set."""
    if config is not None:
        return config
    only_environment = not exists(DEFAULT_CONFIG) and any(name.startswith(PREFIX) for name in os.environ)
    return None if only_environment else DEFAULT_CONFIG


@contextmanager
def open_database(settings: Settings, *, create: bool = False) -> Iterator[Database]:
    """Open the configured database.

    Args:
        settings: Name it.
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


def exists(path: Path) -> bool:
    """Whether the file exists; one that may not be looked at counts, and fails with a reason when it is opened."""
    try:
        return path.exists()
    except OSError:
        return True


def find_source(settings: Settings, name: str) -> SourceSettings:
    """Return the configured source with that name.

    Raises:
        UsageError: there is none.
    """
    known = {source.name: source for source in settings.sources}
    if name not in known:
        hint = did_you_mean(name, known) or (f"; there is {one_of(known)}" if known else "")
        raise UsageError(f"--source: there is no source {quoted(name)}{hint}")
    return known[name]

"""Options that many commands share, and how they find the configuration and the database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from bridge.config import Settings, load
from bridge.store.database import Database
from bridge.store.schema import ensure_schema

DEFAULT_CONFIG = Path("bridge.toml")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="BRIDGE_CONFIG", help="The configuration file; default ./bridge.toml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def load_settings(config: Path | None, overrides: Mapping[str, object] | None = None) -> Settings:
    """Load the configuration that the options name.

    Raises:
        ConfigurationError: with every problem in it.
    """
    return load(config or DEFAULT_CONFIG, os.environ, overrides or {})


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """The configured database, with a schema that this version can work with."""
    database = Database(settings.database.url)
    try:
        ensure_schema(database)
        yield database
    finally:
        database.close()

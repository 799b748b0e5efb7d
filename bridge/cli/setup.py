"""`bridge init`, `check` and `migrate`: what comes before the service runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bridge.cli.options import ConfigOption
from bridge.cli.output import count_of, print_message
from bridge.cli.settings import DEFAULT_CONFIG, load_settings, name_of
from bridge.compose import new_secret
from bridge.config.template import render
from bridge.db.engine import Database
from bridge.db.migrate import migrate as migrate_schema
from bridge.db.migrate import schema_state
from bridge.errors import UsageError


def init(
    path: Annotated[Path | None, typer.Argument(metavar="FILE", help="File to write; default ./bridge.toml.")] = None,
    config: ConfigOption = None,
) -> None:
    """Write a commented bridge.toml with a fresh secret (mode 0600). An existing file is not overwritten."""
    path = path or config or DEFAULT_CONFIG
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists and is not overwritten: name another file, or move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(render(new_secret("v1")))
    print_message(
        f"wrote {path}: set HUDDLE01_API_KEY, enter your rooms and endpoints, then `bridge check` and `bridge run`"
    )


def check(config: ConfigOption = None) -> None:
    """Validate the configuration; touches nothing else."""
    settings = load_settings(config)
    checked = name_of(config) if settings.has_file else "the environment alone"
    counts = (
        count_of(len(settings.sources), "source"),
        count_of(len(settings.rooms), "room"),
        count_of(len(settings.endpoints), "endpoint"),
    )
    print_message(f"{checked}: ok ({', '.join(counts)})")
    if not settings.rooms:
        print_message("note: no room is listed; only rooms added with `bridge rooms add` are polled")
    if not settings.endpoints:
        print_message("note: no endpoint is listed; events go only to endpoints added with `bridge endpoints add`")


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

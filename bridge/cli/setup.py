"""`bridge init`, `check` and `migrate`: what comes before running."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bridge.cli.options import DEFAULT_CONFIG, ConfigOption, load_settings, name_of
from bridge.cli.output import say
from bridge.config.template import render
from bridge.db.engine import Database
from bridge.db.migrate import migrate as migrate_schema
from bridge.db.migrate import schema_state
from bridge.errors import UsageError
from bridge.service import new_secret


def init(
    path: Annotated[Path | None, typer.Argument(help="Where to write it; default ./bridge.toml.")] = None,
    config: ConfigOption = None,
) -> None:
    """Write a commented bridge.toml with a fresh secret (mode 0600); refuses to overwrite."""
    path = path or config or DEFAULT_CONFIG
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists and is left as it is: name another file, or move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(render(new_secret("v1")))
    say(
        f"wrote {path}: set HUDDLE01_API_KEY, name your rooms and endpoints in it, then `bridge check` and `bridge run`"
    )


def check(config: ConfigOption = None) -> None:
    """Validate the configuration; touches nothing else."""
    settings = load_settings(config)
    checked = name_of(config) if settings.has_file else "the environment alone"
    say(
        f"{checked}: ok ({_count(len(settings.sources), 'source')}, "
        f"{_count(len(settings.rooms), 'room')}, {_count(len(settings.endpoints), 'endpoint')})"
    )
    if not settings.rooms:
        say("note: no room is listed, so none is polled unless it was added with `bridge rooms add`")
    if not settings.endpoints:
        say("note: no endpoint is listed, so nobody is told unless it was added with `bridge endpoints add`")


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
        say(f"{database.name}: schema {after.current} is current, nothing to do")
    else:
        say(f"{database.name}: migrated from {before.current or 'nothing'} to {after.current}")


def _count(assign_sequences: int, what: str) -> str:
    return f"{assign_sequences} {what}" if assign_sequences == 1 else f"{assign_sequences} {what}s"

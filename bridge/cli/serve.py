"""`bridge run`: the service."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated

import typer

from bridge.cli.options import ConfigOption, find_file
from bridge.config import Settings, load
from bridge.logs import configure_logs
from bridge.service import Role, Service


def run(
    role: Annotated[
        list[Role] | None, typer.Option(help="What this process does; may be repeated. Without: everything.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run the service: poll rooms, deliver events, serve the pages."""
    file = find_file(config)  # once: a file that is missing at a reload is a mistake, not a wish
    settings = load(file, os.environ)
    start_logs(settings)
    roles = frozenset(role or Role)
    asyncio.run(Service(settings, roles, reload=lambda: load(file, os.environ)).run())


def start_logs(settings: Settings) -> None:
    """Log as the configuration says; `auto` is for people on a terminal, else JSON."""
    form = settings.log.format
    configure_logs(console=form == "console" or (form == "auto" and sys.stderr.isatty()), level=settings.log.level)

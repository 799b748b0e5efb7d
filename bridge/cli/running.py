"""`bridge run`: the service."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from bridge.cli.options import ConfigOption, load_settings
from bridge.config import Settings
from bridge.logs import configure_logs
from bridge.service import Role, Service


def run(
    role: Annotated[
        list[Role] | None, typer.Option(help="What this process does; may be repeated. Without: everything.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run the service: poll rooms, deliver events, serve the pages."""
    settings = load_settings(config)
    start_logs(settings)
    roles = frozenset(role or Role)
    asyncio.run(Service(settings, roles, reload=lambda: load_settings(config)).run())


def start_logs(settings: Settings) -> None:
    """Log as the configuration says; `auto` is for people on a terminal, else JSON."""
    form = settings.log.format.value
    configure_logs(
        console=form == "console" or (form == "auto" and sys.stderr.isatty()), level=settings.log.level.value
    )

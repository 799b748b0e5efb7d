"""`bridge run`: the service."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from bridge.cli.options import ConfigOption
from bridge.cli.output import print_message
from bridge.cli.settings import find_file
from bridge.config import Settings, load
from bridge.logs import FLUSH_SECONDS, configure_logs, flush_logs
from bridge.notify import ServiceManager
from bridge.service import Role, Service


def run(
    role: Annotated[
        list[Role] | None, typer.Option(metavar="ROLE", help="poller, sender or web; repeatable. Default: all three.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run the service: poll rooms, deliver events, serve the dashboard."""
    file = find_file(config)  # once: a file that is missing at a reload is a mistake
    settings = load(file, os.environ)
    _start_logs(settings)

    def introduce(url: str | None) -> None:
        """Print a link that signs in, on a terminal, as long as there is no token."""
        if url is not None and not settings.web.tokens and sys.stderr.isatty():
            print_message(f"dashboard: {url.removesuffix('/')}{service.new_sign_in_path()} (this link signs in once)")

    service = Service(
        settings,
        frozenset(role or Role),
        reload=lambda: load(file, os.environ),
        on_ready=introduce,
        manager=ServiceManager(os.environ),
    )
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(service.run())
    finally:
        flush_logs(FLUSH_SECONDS)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop, if the extra `presence-bridge[speed]` is installed."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _start_logs(settings: Settings) -> None:
    form, level = settings.log.format, settings.log.level
    configure_logs(console=form == "console" or (form == "auto" and sys.stderr.isatty()), level=level, queued=True)

"""The modules that forks of the program share, loaded without a thread, loop or connection that they would inherit."""

import gc
import importlib
import pkgutil
import threading

from sqlalchemy import create_engine

import bridge.cli

COMMANDS = [f"bridge.cli.{module.name}" for module in pkgutil.iter_modules(bridge.cli.__path__)]
PARTS = ["bridge.delivery.client", "bridge.sources.huddle01.client", "bridge.web.app", "bridge.web.server", "structlog"]

for name in (*COMMANDS, *PARTS):
    importlib.import_module(name)  # the program imports them when they are used
create_engine("postgresql+psycopg://").dispose()  # the driver is loaded late; no connection is made
assert threading.active_count() == 1, "a fork would lose the other threads, and keep their locks"
gc.collect()
gc.freeze()  # else the collector writes to every page, and every fork copies it

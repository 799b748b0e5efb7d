"""The configuration that a command works with, and the sources that it names."""

from __future__ import annotations

import os
from pathlib import Path

from bridge.config import NO_FILE, Settings, load
from bridge.config.environment import PREFIX
from bridge.config.words import did_you_mean, one_of, quoted
from bridge.errors import UsageError
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


def exists(path: Path) -> bool:
    """Whether the file exists; one without permission counts too, and fails with a reason when it is opened."""
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

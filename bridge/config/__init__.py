"""`bridge.toml`, environment and flags as frozen settings: the rest of the bridge uses `load` and `Settings`."""

from __future__ import annotations

from bridge.config.checks import ListenAddress
from bridge.config.loading import NO_FILE, load
from bridge.config.models import Settings

__all__ = ["NO_FILE", "ListenAddress", "Settings", "load"]

"""`bridge.toml` and environment to frozen settings: `load` and `Settings` are what the rest of the bridge uses."""

from __future__ import annotations

from bridge.config.fields import ListenAddress
from bridge.config.loading import NO_FILE, load
from bridge.config.settings import Settings

__all__ = ["NO_FILE", "ListenAddress", "Settings", "load"]

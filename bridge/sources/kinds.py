"""The kinds of sources. A further kind is a folder beside this file and one line in `KINDS`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from bridge.sources.huddle01.client import open_huddle01
from bridge.sources.protocol import CheckableSource, SourceSettings

KINDS: Final[dict[str, Callable[[SourceSettings, Callable[[], datetime]], CheckableSource]]] = {
    "huddle01": open_huddle01,
}


def open_source(settings: SourceSettings, now: Callable[[], datetime]) -> CheckableSource:
    """The source that the settings describe; it must be closed."""
    return KINDS[settings.kind](settings, now)

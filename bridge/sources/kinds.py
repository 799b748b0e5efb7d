"""The kinds of sources. A further kind is a folder beside this file (see `bridge.sources.protocol`) and one line here.

The client of a kind is imported when a source is opened: a configuration is validated without HTTP clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pkgutil import resolve_name
from typing import Final, cast

from bridge.sources.protocol import CheckableSource, Poke, SourceSettings

Opener = Callable[[SourceSettings, Callable[[], datetime]], CheckableSource]
PokeReader = Callable[[SourceSettings, Mapping[str, str], bytes, datetime], Poke]
"""Verifies a poke: settings, headers (names in any case), body, now. Raises VerificationError."""

KINDS: Final[Mapping[str, str]] = {
    "huddle01": "bridge.sources.huddle01.client:open_huddle01",
}
"""The `Opener` of each kind, by the word that stands for it in the configuration."""
POKES: Final[Mapping[str, str]] = {
    "huddle01": "bridge.sources.huddle01.poke:read_poke",
}
"""The `PokeReader` of each kind whose upstream has webhooks of its own."""


def open_source(settings: SourceSettings, now: Callable[[], datetime]) -> CheckableSource:
    """The source that the settings describe; it must be closed."""
    return cast("Opener", resolve_name(KINDS[settings.kind]))(settings, now)


def poke_reader(kind: str) -> PokeReader | None:
    """The function that verifies pokes of a kind; None if its upstream sends none."""
    return cast("PokeReader", resolve_name(POKES[kind])) if kind in POKES else None

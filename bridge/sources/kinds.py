"""The kinds of sources. A further kind is a folder beside this file (see `bridge.sources.protocol`) and an entry here.

The client of a kind is imported when a source is opened: a configuration is validated without HTTP clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pkgutil import resolve_name
from typing import Final, cast

from bridge.sources.protocol import CheckableSource, Poke, SourceSettings

Opener = Callable[[SourceSettings, Callable[[], datetime]], CheckableSource]
PokeReader = Callable[[SourceSettings, Mapping[str, str], bytes, datetime], Poke]
"""Verifies a poke: settings, headers (names in any case), body, now. Raises VerificationError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of source; functions are named `module:name`.

    Args:
        opener: the `Opener`.
        poke: the `PokeReader`, if its upstream has webhooks of its own.
        base_url: the default; without one, the configuration must name it.
        requests_per_second: the default.
        own_keys: keys of `[sources.NAME]` that only some kinds have, and this one too.
        needs_secret: whether `api_secret` must be given.
        takes_websocket_urls: whether `ws://` and `wss://` are taken as http and https.
    """

    opener: str
    poke: str | None = None
    base_url: str = ""
    requests_per_second: float = 20.0
    own_keys: frozenset[str] = frozenset()
    needs_secret: bool = False
    takes_websocket_urls: bool = False


_DISCOVERY: Final = frozenset({"discover", "discover_rooms", "discover_forget"})
"""Keys of kinds whose source is a `ListingSource`."""
DEFAULT_KIND: Final = "huddle01"
KINDS: Final[Mapping[str, Kind]] = {
    "huddle01": Kind(
        opener="bridge.sources.huddle01.client:open_huddle01",
        poke="bridge.sources.huddle01.poke:read_poke",
        base_url="https://api.huddle01.com/api/v2/sdk",
        own_keys=_DISCOVERY,
    ),
    "livekit": Kind(
        opener="bridge.sources.livekit.client:open_livekit",
        poke="bridge.sources.livekit.poke:read_poke",
        requests_per_second=10.0,
        own_keys=frozenset({"api_secret", "ignore_kinds", "ignore_hidden"}) | _DISCOVERY,
        needs_secret=True,
        takes_websocket_urls=True,
    ),
}
"""Every kind, by its name in the configuration."""


def open_source(settings: SourceSettings, now: Callable[[], datetime]) -> CheckableSource:
    """The source that the settings describe; it must be closed."""
    return cast("Opener", resolve_name(KINDS[settings.kind].opener))(settings, now)


def poke_reader(kind: str) -> PokeReader | None:
    """The function that verifies pokes of a kind; None if its upstream sends none."""
    name = KINDS[kind].poke
    return None if name is None else cast("PokeReader", resolve_name(name))

"""Where presence comes from. The poller knows this protocol and nothing of Huddle01; a second kind is one new file."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bridge.rules.presence import Failure, Snapshot
    from bridge.sources.checkup import Checkup


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """One upstream account (one API key). `requests_per_second` is the budget over all its rooms; 0 is unlimited."""

    name: str
    kind: str
    base_url: str
    api_key: str = field(repr=False)
    timeout: timedelta = timedelta(seconds=8)
    max_concurrency: int = 16
    requests_per_second: float = 20.0
    discover: bool = False


class Source(Protocol):
    """An upstream account that can be asked who is in a room."""

    @property
    def name(self) -> str:
        """The account's name in the configuration."""
        ...

    async def fetch(self, room_id: str) -> Snapshot | Failure:
        """Ask once who is in the room; never raises for what the upstream or the network does: that is a Failure."""
        ...

    async def aclose(self) -> None:
        """Release the connections."""
        ...


class CheckableSource(Source, Protocol):
    """A source that `bridge doctor` can examine; the poller asks for less."""

    async def check_up(self) -> Checkup:
        """Ask once whether it answers and takes the key; never raises, as `fetch`."""
        ...

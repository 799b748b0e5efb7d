"""Protocol of a source: everything that a new kind must provide (CONTRIBUTING.md has a worked example).

A kind is a folder beside this file, with a client that does all I/O and a pure function that interprets a response, and
one line in `kinds.py`. Its source is a `CheckableSource`: `name`, `clock_skew`, `fetch`, `check_up`, `aclose`. `fetch`
never raises: it returns a `Snapshot` of the room, or a `Failure`, which changes nothing (both in
`bridge.rules.presence`). Abilities of only some upstreams are protocols of their own: `ListingSource`,
`RecordKeepingSource`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from bridge.events.types import matches
from bridge.rules.pokes import Expected

if TYPE_CHECKING:
    from bridge.rules.live_rooms import LiveRooms
    from bridge.rules.presence import Failure, Snapshot
    from bridge.rules.reconcile import RecordedSession, RecordedVisit
    from bridge.sources.checkup import Checkup


MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """One upstream account (one API key).

    `requests_per_second` is the budget over all its rooms, 0 is unlimited; `max_response_bytes` limits a
    response before and after decompression. `api_secret`, `ignore_kinds` and `ignore_hidden` are of some kinds only
    (`bridge.sources.kinds`). With `discover`, live rooms that one of the globs in `discover_rooms` matches are tracked,
    until `discover_forget` after they were last live.
    """

    name: str
    kind: str
    base_url: str
    api_key: str = field(repr=False)
    timeout: timedelta = timedelta(seconds=8)
    max_concurrency: int = 16
    requests_per_second: float = 20.0
    max_response_bytes: int = MAX_RESPONSE_BYTES
    api_secret: str = field(default="", repr=False)
    ignore_kinds: tuple[str, ...] = ("egress",)
    ignore_hidden: bool = True
    discover: bool = False
    discover_rooms: tuple[str, ...] = ("*",)
    discover_forget: timedelta = timedelta(hours=24)

    def discovers(self, room_id: str) -> bool:
        """Whether a live room of that id is tracked."""
        return self.discover and matches(room_id, self.discover_rooms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poke:
    """A verified message of the upstream: the peers of this room may have changed. It only causes a poll.

    `room_id` is None if it names no room; `fingerprint` is the same for the same message only; `expected` is what a
    poll should find if the message is true.
    """

    room_id: str | None
    fingerprint: bytes
    expected: Expected | None = None

    @property
    def may_be_live(self) -> bool:
        """Whether the room may have peers after the message."""
        return self.expected is None or self.expected.peer_id is not None


class Source(Protocol):
    """An upstream account whose rooms are polled."""

    @property
    def name(self) -> str:
        """The account's name in the configuration."""
        ...

    @property
    def clock_skew(self) -> timedelta | None:
        """Lead of this machine's clock over the upstream's at a recent response; None if unknown."""
        ...

    async def fetch(self, room_id: str) -> Snapshot | Failure:
        """Ask once for the peers of a room; whatever the upstream or the network does wrong is a Failure."""
        ...

    async def aclose(self) -> None:
        """Release the connections."""
        ...


@runtime_checkable
class RecordKeepingSource(Protocol):
    """A source that keeps a record of its past sessions; each method makes one request, and never raises."""

    @property
    def sessions_per_page(self) -> int:
        """A page with fewer sessions is the last one."""
        ...

    async def fetch_sessions(self, room_id: str, page: int) -> tuple[RecordedSession, ...] | Failure:
        """One page of a room's sessions, without their visits; the first page is 0."""
        ...

    async def fetch_visits(self, session_id: str) -> tuple[RecordedVisit, ...] | Failure:
        """The visits of a session."""
        ...


@runtime_checkable
class ListingSource(Protocol):
    """A source that can list its live rooms."""

    async def fetch_live_rooms(self) -> LiveRooms | Failure:
        """Ask once for the rooms that are live; never raises, as `fetch`."""
        ...


class CheckableSource(Source, Protocol):
    """A source that `bridge doctor` can examine."""

    async def check_up(self) -> Checkup:
        """Find out with one request if it responds and accepts the key; never raises, as `fetch`."""
        ...

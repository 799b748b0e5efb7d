"""Who is in a room, and what changed: every rule about presence lives in this file, and nothing else does.

Pure: `now`, ids and policy are arguments. The rules are CONTRACT section 4 ("Events") and DESIGN section 4:
only a valid answer changes presence; an incomplete one may add and never removes; a peer has left when
`leave_after_missed` complete snapshots in a row missed it, and its leave is dated at the first of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


class Absent:
    """The type of ABSENT: the upstream did not say (unlike null, which it did say)."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = Absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One participant as a snapshot saw it; `join_time` is the upstream's word, not yet judged."""

    peer_id: str
    join_time: datetime | None = None
    metadata: Json | Absent = ABSENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A valid answer. `complete` ones may remove peers; `no_session` says that the upstream knows of no session."""

    peers: tuple[Peer, ...]
    complete: bool = True
    no_session: bool = False
    notes: tuple[str, ...] = field(default=())
    """What was odd about the answer, for the log: never a reason to fail."""


class FailureKind(StrEnum):
    """Why a poll says nothing about the room."""

    UNAUTHORIZED = "unauthorized"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    BAD_ANSWER = "bad_answer"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A poll that changes nothing. `retry_after` is what the upstream asked for, uncapped."""

    kind: FailureKind
    detail: str
    status: int | None = None
    retry_after: timedelta | None = None


class FirstSnapshot(StrEnum):
    """What becomes of those who are already there when tracking starts: events, or silence."""

    EMIT = "emit"
    BASELINE = "baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class PresencePolicy:
    """How a room's snapshots are judged (CONTRACT section 3, `[polling]`)."""

    leave_after_missed: int = 1
    first_snapshot: FirstSnapshot = FirstSnapshot.EMIT

"""A stored session against the source's own record of it: every rule about matching and correcting is in this file.

Sessions are matched by overlap, visits by peer and overlap, never by their order: a session of the record may span
several stored ones, and the other way round. Pure. Times of the record are by the upstream's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from bridge.rules.presence import ABSENT, Absent, Json, LeaveReason, TimeSource

RECONCILED: Final = "reconciled"
"""`left_at_source` of a visit whose exit is from the source's record."""
CLOCK_TOLERANCE: Final = timedelta(seconds=2)
"""Differences between the two clocks that contradict nothing."""
GIVE_UP_AFTER: Final = timedelta(days=1)


class Outcome(StrEnum):
    """Result of comparing a session with the record."""

    RECONCILED = "reconciled"
    """The record is whole: every visit has its exit from it."""
    CONTRADICTED = "contradicted"
    """It is whole, and differs from what was seen by more than the stated uncertainty."""
    MISSING = "missing"
    """The record has no session at that time (yet)."""
    NOT_ENDED = "not_ended"
    """The record's session has not ended yet."""
    CUT_OFF = "cut_off"
    """The record lacks visits that were seen."""
    EXIT_MISSING = "exit_missing"
    """The record lacks the exits of some visits."""
    FAILED = "failed"
    """The source did not respond, or not with a record."""
    NO_RECORD = "no_record"
    """This kind of source keeps none."""
    ERASED = "erased"
    """A person of the session was erased: the record would bring them back."""

    @property
    def is_final(self) -> bool:
        """Whether asking again cannot change the result."""
        return self in (Outcome.RECONCILED, Outcome.CONTRADICTED, Outcome.NO_RECORD, Outcome.ERASED)


class VisitChange(StrEnum):
    """Effect of a reconciliation on a visit."""

    NONE = "none"
    CORRECTED = "corrected"
    ADDED = "added"
    CONTRADICTED = "contradicted"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedVisit:
    """A visit of the source's record; without `left_at`, its exit is not known."""

    peer_id: str
    joined_at: datetime
    left_at: datetime | None
    metadata: Json | Absent = ABSENT


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSession:
    """A session of the source's record; one under way has no end."""

    session_id: str
    started_at: datetime
    ended_at: datetime | None
    visits: tuple[RecordedVisit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenVisit:
    """An ended visit as stored; `visit_id` is None for one that is to be added."""

    visit_id: str | None
    peer_id: str
    joined_at: datetime
    joined_at_source: str
    joined_after: datetime | None
    last_seen_at: datetime
    left_at: datetime
    left_at_source: str
    leave_reason: str
    change: VisitChange = VisitChange.NONE
    metadata: Json | Absent = ABSENT
    """Of an added visit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenSession:
    """An ended session as stored; `neighbours` are (start, end) of the room's other sessions at that time."""

    started_at: datetime
    ended_at: datetime
    visits: tuple[SeenVisit, ...]
    neighbours: tuple[tuple[datetime, datetime], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """The session after the comparison: all its visits, each with its change, by joined_at and peer."""

    outcome: Outcome
    started_at: datetime
    ended_at: datetime
    visits: tuple[SeenVisit, ...]
    has_changed: bool
    notes: tuple[str, ...] = field(default=())


def overlapping(session: SeenSession, record: Iterable[RecordedSession]) -> list[RecordedSession]:
    """The sessions of the record that overlap the stored session."""
    margin = CLOCK_TOLERANCE
    return [
        one
        for one in record
        if one.started_at <= session.ended_at + margin
        and (one.ended_at is None or one.ended_at >= session.started_at - margin)
    ]


def reconcile(session: SeenSession, record: Sequence[RecordedSession]) -> Reconciliation:
    """Correct a session by the overlapping sessions of the record, with their visits."""
    visits = [visit for one in record for visit in one.visits]
    taken: set[int] = set()
    after: list[SeenVisit] = []
    without_match = without_exit = 0
    for seen in session.visits:
        index = _match(seen, visits)
        if index is None:
            without_match += 1
            after.append(seen)
            continue
        taken.add(index)
        without_exit += visits[index].left_at is None
        after.append(_corrected(seen, visits[index]))
    unseen = [visit for index, visit in enumerate(visits) if index not in taken and _belongs(visit, session)]
    after += [_added(visit, visit.left_at) for visit in unseen if visit.left_at is not None]
    without_exit += sum(visit.left_at is None for visit in unseen)
    after.sort(key=lambda visit: (visit.joined_at, visit.peer_id))
    started_at, ended_at = min(one.joined_at for one in after), max(one.left_at for one in after)
    has_changed = any(one.change is not VisitChange.NONE for one in after)
    if not has_changed:
        started_at, ended_at = session.started_at, session.ended_at
    outcome = _outcome(record, after, without_match=without_match, without_exit=without_exit)
    return Reconciliation(
        outcome=outcome,
        started_at=started_at,
        ended_at=ended_at,
        visits=tuple(after),
        has_changed=has_changed,
        notes=_notes(after, without_match, without_exit),
    )


def next_try(ended_at: datetime, after: timedelta, tries: int, outcome: Outcome, now: datetime) -> datetime | None:
    """When to ask again after `tries` tries: each wait is twice the one before; None when the record is final."""
    if outcome.is_final:
        return None
    due_at = now + after * 2 ** min(tries, 20)
    return due_at if due_at <= ended_at + GIVE_UP_AFTER else None


def _match(seen: SeenVisit, visits: Sequence[RecordedVisit]) -> int | None:
    """The visit of the same peer that overlaps most; one that began at the same time comes first."""
    earliest = seen.joined_at if seen.joined_after is None else min(seen.joined_after, seen.joined_at)
    best: tuple[bool, timedelta] | None = None
    found = None
    for index, visit in enumerate(visits):
        if visit.peer_id != seen.peer_id:
            continue
        end = seen.left_at if visit.left_at is None else visit.left_at
        overlap = min(end, seen.left_at) - max(visit.joined_at, earliest)
        is_same = abs(visit.joined_at - seen.joined_at) < timedelta(seconds=1)
        if (overlap >= -CLOCK_TOLERANCE or is_same) and (best is None or (is_same, overlap) > best):
            best, found = (is_same, overlap), index
    return found


def _corrected(seen: SeenVisit, visit: RecordedVisit) -> SeenVisit:
    joined_at = visit.joined_at
    left_at = seen.left_at if visit.left_at is None else visit.left_at
    after = replace(
        seen,
        joined_at=joined_at,
        joined_at_source=TimeSource.UPSTREAM.value,
        left_at=left_at,
        left_at_source=seen.left_at_source if visit.left_at is None else RECONCILED,
    )
    if after == seen:
        return seen
    change = VisitChange.CONTRADICTED if _contradicts(seen, visit) else VisitChange.CORRECTED
    return replace(after, change=change)


def _contradicts(seen: SeenVisit, visit: RecordedVisit) -> bool:
    """Whether the record differs by more than the stated uncertainty."""
    earliest = seen.joined_at if seen.joined_after is None else min(seen.joined_after, seen.joined_at)
    if seen.joined_at_source == TimeSource.OBSERVED and seen.joined_after is None:
        joins_as_seen = visit.joined_at <= seen.joined_at + CLOCK_TOLERANCE  # visits from before tracking began
    else:
        joins_as_seen = earliest - CLOCK_TOLERANCE <= visit.joined_at <= seen.joined_at + CLOCK_TOLERANCE
    if visit.left_at is None or seen.left_at_source == RECONCILED:
        return not joins_as_seen
    is_early = visit.left_at < seen.last_seen_at - CLOCK_TOLERANCE
    is_late = visit.left_at > seen.left_at + CLOCK_TOLERANCE and seen.leave_reason != LeaveReason.UNWATCHED
    return not joins_as_seen or is_early or is_late


def _belongs(visit: RecordedVisit, session: SeenSession) -> bool:
    """Whether a visit that no poll saw belongs to this session: of all of the room's, it is the nearest."""
    ours = _distance(visit, session.started_at, session.ended_at)
    return all((ours, session.started_at) <= (_distance(visit, *other), other[0]) for other in session.neighbours)


def _distance(visit: RecordedVisit, started_at: datetime, ended_at: datetime) -> timedelta:
    """How far a visit is from a session; negative, how much they overlap."""
    end = visit.joined_at if visit.left_at is None else visit.left_at
    return max(visit.joined_at, started_at) - min(end, ended_at)


def _added(visit: RecordedVisit, left_at: datetime) -> SeenVisit:
    return SeenVisit(
        visit_id=None,
        peer_id=visit.peer_id,
        joined_at=visit.joined_at,
        joined_at_source=TimeSource.UPSTREAM.value,
        joined_after=None,
        last_seen_at=left_at,
        left_at=left_at,
        left_at_source=RECONCILED,
        leave_reason=LeaveReason.ABSENT.value,
        change=VisitChange.ADDED,
        metadata=visit.metadata,
    )


def _outcome(
    record: Sequence[RecordedSession], visits: Sequence[SeenVisit], *, without_match: int, without_exit: int
) -> Outcome:
    if not record:
        return Outcome.MISSING
    if any(one.ended_at is None for one in record):
        return Outcome.NOT_ENDED
    if without_match:
        return Outcome.CUT_OFF
    if without_exit:
        return Outcome.EXIT_MISSING
    is_contradicted = any(visit.change is VisitChange.CONTRADICTED for visit in visits)
    return Outcome.CONTRADICTED if is_contradicted else Outcome.RECONCILED


def _notes(visits: Sequence[SeenVisit], without_match: int, without_exit: int) -> tuple[str, ...]:
    counted = [
        (sum(visit.change is change for visit in visits), change.value)
        for change in (VisitChange.CORRECTED, VisitChange.ADDED, VisitChange.CONTRADICTED)
    ]
    counted += [(without_match, "not in the record"), (without_exit, "without an exit in the record")]
    return tuple(f"{count} {what}" for count, what in counted if count)

"""From visits to the rows of attendance: every rule about them is in this file. Pure.

Everything is computed in whole milliseconds, cut as events print them. A span is [start, end); a person's time is the
union of the spans of all visits, so that two devices at once count once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from zoneinfo import ZoneInfo

from bridge.rules.reconcile import RECONCILED

Span = tuple[int, int]
"""Milliseconds since 1970: start and end."""
Row = dict[str, Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


class View(StrEnum):
    """Views of attendance."""

    VISIT = "visit"
    PERSON = "person"
    TOTAL = "total"


COLUMNS: Final[Mapping[View, tuple[str, ...]]] = {
    View.VISIT: (
        "room_id", "room_name", "session_id", "session_started_at", "session_ended_at", "person_key", "display_name",
        "peer_id", "visit_id", "joined_at", "joined_at_source", "left_at", "left_at_source", "last_seen_at",
        "duration_seconds", "uncertainty_seconds", "leave_reason", "still_present", "timezone",
    ),
    View.PERSON: (
        "room_id", "room_name", "session_id", "session_started_at", "session_ended_at", "person_key", "display_name",
        "first_joined_at", "last_left_at", "visits", "total_seconds", "total_hms", "percent_of_session",
        "uncertainty_seconds", "still_present", "times_source", "timezone",
    ),
    View.TOTAL: (
        "person_key", "display_name", "sessions", "visits", "first_joined_at", "last_left_at", "total_seconds",
        "total_hms", "timezone",
    ),
}  # fmt: skip
"""The columns of each view, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendedSession:
    """A session; `seen_until` is the room's last complete poll, which ends one that is under way."""

    room_id: str
    room_name: str | None
    session_id: str
    started_at: datetime
    ended_at: datetime | None
    seen_until: datetime | None = None

    @property
    def span(self) -> Span:
        end = self.ended_at or self.seen_until or self.started_at
        return milliseconds(self.started_at), max(milliseconds(end), milliseconds(self.started_at))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendedVisit:
    """A visit; one under way has no `left_at`. `joined_after` is the complete poll before it, if any."""

    visit_id: str
    peer_id: str
    person_key: str
    display_name: str
    joined_at: datetime
    joined_at_source: str
    joined_after: datetime | None
    last_seen_at: datetime
    left_at: datetime | None
    left_at_source: str | None
    leave_reason: str | None

    @property
    def span(self) -> Span:
        """The visit as it counts."""
        start = milliseconds(self.joined_at)
        return start, max(start, milliseconds(self.left_at or self.last_seen_at))

    @property
    def widest(self) -> Span:
        """From the earliest possible join to the latest possible leave."""
        start, end = self.span
        return min(start, start if self._earliest is None else self._earliest), end

    @property
    def narrowest(self) -> Span:
        """From the latest possible join to the earliest possible leave."""
        start, end = self.span
        if self.left_at is None or self.left_at_source == RECONCILED:
            return start, end
        return start, max(start, min(end, milliseconds(self.last_seen_at)))

    @property
    def _earliest(self) -> int | None:
        is_bracket = self.joined_at_source == "observed" and self.joined_after is not None
        return milliseconds(self.joined_after) if is_bracket and self.joined_after is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Options of the views; `roster` has a name (or None) for each key that is expected."""

    zone: ZoneInfo
    window: tuple[datetime, datetime] | None = None
    min_percent: float | None = None
    roster: Mapping[str, str | None] | None = None

    @property
    def window_span(self) -> Span | None:
        return None if self.window is None else (milliseconds(self.window[0]), milliseconds(self.window[1]))


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since 1970, cut."""
    return (moment - _EPOCH) // _MILLISECOND


def merged(sessions: Sequence[AttendedSession]) -> AttendedSession:
    """Sessions of a room that count as one (`merge_gap`), by start: the first, to the end of the last."""
    ends = [session.ended_at for session in sessions]
    last = None if None in ends else max(end for end in ends if end is not None)
    return replace(sessions[0], ended_at=last, seen_until=sessions[-1].seen_until)


def visit_rows(session: AttendedSession, visits: Iterable[AttendedVisit], report: Report) -> Iterator[Row]:
    """One row per visit, by join, then person."""
    for visit in sorted(visits, key=lambda visit: (visit.joined_at, visit.person_key, visit.visit_id)):
        spans = _cut([visit.span], report.window_span)
        if not spans:
            continue
        bracket = _length(_cut([visit.widest], report.window_span)) - _length(
            _cut([visit.narrowest], report.window_span)
        )
        yield {
            **_session_cells(session, report.zone),
            "person_key": visit.person_key,
            "display_name": visit.display_name,
            "peer_id": visit.peer_id,
            "visit_id": visit.visit_id,
            "joined_at": local_time(visit.joined_at, report.zone),
            "joined_at_source": visit.joined_at_source,
            "left_at": local_time(visit.left_at, report.zone),
            "left_at_source": visit.left_at_source,
            "last_seen_at": local_time(visit.last_seen_at, report.zone),
            "duration_seconds": _length(spans) / 1000,
            "uncertainty_seconds": bracket / 1000,
            "leave_reason": visit.leave_reason,
            "still_present": visit.left_at is None,
            "timezone": report.zone.key,
        }


def person_rows(session: AttendedSession, visits: Iterable[AttendedVisit], report: Report) -> Iterator[Row]:
    """One row per person of a session, by first join, then person; those of the roster who were not there come last."""
    people: dict[str, list[AttendedVisit]] = defaultdict(list)
    for visit in visits:
        people[visit.person_key].append(visit)
    rows = []
    for key, theirs in people.items():
        present = present_spans(theirs, report)
        if present and is_enough(session, present, report):
            counted = _within_window(theirs, report)
            rows.append((min(visit.joined_at for visit in counted), key, present, counted))
    for _, _, present, theirs in sorted(rows, key=lambda row: row[:2]):
        yield _person_row(session, theirs, present, report)
    for key in sorted((report.roster or {}).keys() - people.keys() | _outside(people, report)):
        if is_enough(session, [], report):
            yield _absent_row(session, key, report)


def total_row(visits: Sequence[tuple[AttendedSession, AttendedVisit]], report: Report) -> Row | None:
    """The row of one person over all sessions; None if nothing of it counts."""
    by_session: dict[str, list[tuple[AttendedSession, AttendedVisit]]] = defaultdict(list)
    for session, visit in visits:
        by_session[session.session_id].append((session, visit))
    spans: list[Span] = []
    counted: list[AttendedVisit] = []
    sessions = 0
    for pairs in by_session.values():
        session, theirs = pairs[0][0], [visit for _, visit in pairs]
        present = present_spans(theirs, report)
        if present and is_enough(session, present, report):
            sessions += 1
            spans += present
            counted += _within_window(theirs, report)
    if not counted:
        return None
    total = _length(union(spans))
    return _total(counted, report, sessions=sessions, total=total)


def absent_total(key: str, report: Report) -> Row:
    """The row of a person of the roster who was in no session."""
    name = (report.roster or {}).get(key)
    return {
        "person_key": key,
        "display_name": name or key,
        "sessions": 0,
        "visits": 0,
        "first_joined_at": None,
        "last_left_at": None,
        "total_seconds": 0.0,
        "total_hms": hours(0),
        "timezone": report.zone.key,
    }


def present_spans(visits: Iterable[AttendedVisit], report: Report) -> list[Span]:
    """The union of one person's visits, within the window; a visit of no length counts as present."""
    return union(_cut([visit.span for visit in visits], report.window_span))


def is_enough(session: AttendedSession, present: Iterable[Span], report: Report) -> bool:
    """Whether the presence reaches `min_percent`, unrounded."""
    if report.min_percent is None:
        return True
    part, whole = _share(session, present, report)
    return part * 100 >= report.min_percent * whole


def union(spans: Iterable[Span]) -> list[Span]:
    """The spans without overlaps, by start."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def hours(total: int) -> str:
    """Milliseconds as `H:MM:SS`, hours not wrapped, parts of a second cut."""
    seconds = total // 1000
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def local_time(moment: datetime | None, zone: ZoneInfo) -> str | None:
    """RFC 3339 with the zone's offset at that time, and milliseconds."""
    return None if moment is None else moment.astimezone(zone).isoformat(timespec="milliseconds")


def _within_window(visits: Iterable[AttendedVisit], report: Report) -> list[AttendedVisit]:
    return [visit for visit in visits if _cut([visit.span], report.window_span)]


def _outside(people: Mapping[str, Sequence[AttendedVisit]], report: Report) -> set[str]:
    """Those of the roster who came, but not within the window."""
    expected = (report.roster or {}).keys() & people.keys()
    return {key for key in expected if not present_spans(people[key], report)}


def _person_row(
    session: AttendedSession, visits: Sequence[AttendedVisit], present: Sequence[Span], report: Report
) -> Row:
    total, window = _length(present), report.window_span
    widest = union(_cut([visit.widest for visit in visits], window))
    narrowest = union(_cut([visit.narrowest for visit in visits], window))
    latest = max(visits, key=lambda visit: (visit.joined_at, visit.visit_id))
    return {
        **_session_cells(session, report.zone),
        "person_key": latest.person_key,
        "display_name": latest.display_name,
        **_times(visits, report.zone),
        "visits": len(visits),
        "total_seconds": total / 1000,
        "total_hms": hours(total),
        "percent_of_session": _percent(*_share(session, present, report)),
        "uncertainty_seconds": max(0, _length(widest) - _length(narrowest)) / 1000,
        "still_present": any(visit.left_at is None for visit in visits),
        "times_source": _times_source(visits),
        "timezone": report.zone.key,
    }


def _absent_row(session: AttendedSession, key: str, report: Report) -> Row:
    return {
        **_session_cells(session, report.zone),
        "person_key": key,
        "display_name": (report.roster or {}).get(key) or key,
        "first_joined_at": None,
        "last_left_at": None,
        "visits": 0,
        "total_seconds": 0.0,
        "total_hms": hours(0),
        "percent_of_session": 0.0,
        "uncertainty_seconds": 0.0,
        "still_present": False,
        "times_source": None,
        "timezone": report.zone.key,
    }


def _total(visits: Sequence[AttendedVisit], report: Report, *, sessions: int, total: int) -> Row:
    latest = max(visits, key=lambda visit: (visit.joined_at, visit.visit_id))
    return {
        "person_key": latest.person_key,
        "display_name": latest.display_name,
        "sessions": sessions,
        "visits": len(visits),
        **_times(visits, report.zone),
        "total_seconds": total / 1000,
        "total_hms": hours(total),
        "timezone": report.zone.key,
    }


def _times(visits: Sequence[AttendedVisit], zone: ZoneInfo) -> Row:
    ends = [visit.left_at for visit in visits]
    last = None if None in ends else max(end for end in ends if end is not None)
    return {
        "first_joined_at": local_time(min(visit.joined_at for visit in visits), zone),
        "last_left_at": local_time(last, zone),
    }


def _times_source(visits: Sequence[AttendedVisit]) -> str:
    reconciled = sum(visit.left_at_source == RECONCILED for visit in visits)
    return "observed" if not reconciled else "reconciled" if reconciled == len(visits) else "mixed"


def _session_cells(session: AttendedSession, zone: ZoneInfo) -> Row:
    return {
        "room_id": session.room_id,
        "room_name": session.room_name,
        "session_id": session.session_id,
        "session_started_at": local_time(session.started_at, zone),
        "session_ended_at": local_time(session.ended_at, zone),
    }


def _share(session: AttendedSession, present: Iterable[Span], report: Report) -> tuple[int, int]:
    """The presence within the window, or else the session, and the length of that.

    A visit may begin before its session, which began with the peers that the first poll saw.
    """
    start, end = report.window_span or session.span
    return _length(_cut(present, (start, end))), end - start


def _percent(part: int, whole: int) -> float:
    """Rounded half up to one decimal."""
    return (part * 2000 + whole) // (2 * whole) / 10 if whole > 0 else 0.0


def _cut(spans: Iterable[Span], bounds: Span | None) -> list[Span]:
    """The parts of the spans within the bounds; what only touches a window is outside of it."""
    if bounds is None:
        return list(spans)
    first, last = bounds
    return [
        (max(start, first), min(end, last))
        for start, end in spans
        if (start < last and end > first) or (start == end and first <= start < last)
    ]


def _length(spans: Iterable[Span]) -> int:
    return sum(end - start for start, end in spans)

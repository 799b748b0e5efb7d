"""Geometry of a session's timeline: a row per person with bars over time. `timeline.svg` draws it.

A bar is dark where the person was certainly present and light where they may have been: the same brackets as in the
attendance table (`bridge.rules.attendance`). Sizes are in units of the drawing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from bridge.rules.attendance import AttendedSession, AttendedVisit, Span, union
from bridge.web.pages.render import visible

LABELS = 190
"""Width of the column of names."""
BARS = 770
MARGIN = 16
ROW = 22
TOP = 28
STEPS = [timedelta(seconds=seconds) for seconds in (5, 10, 30)] + [
    timedelta(minutes=minutes) for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440)
]
MOST_TICKS = 9
LONGEST_NAME = 26
NARROWEST_BAR = 1.5
"""A visit of a second in a session of a day can still be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark on the axis of time."""

    x: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Presence from `x` on: certain, or with `maybe` only possible."""

    x: float
    width: float
    maybe: bool
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineRow:
    """One person."""

    y: float
    name: str
    short_name: str
    bars: Sequence[Bar]
    still_present: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A drawing of `width` by `height`."""

    rows: Sequence[TimelineRow]
    ticks: Sequence[Tick]
    height: float
    title: str
    width: float = LABELS + BARS + MARGIN
    top: float = TOP
    row_height: float = ROW
    left: float = LABELS
    right: float = LABELS + BARS


def draw_timeline(session: AttendedSession, visits: Sequence[AttendedVisit], zone: ZoneInfo) -> Timeline:
    """The people of a session in the order in which they joined first."""
    whole = _whole(session, visits)
    people: dict[str, list[AttendedVisit]] = defaultdict(list)
    for visit in sorted(visits, key=lambda one: (one.joined_at, one.person_key)):
        people[visit.person_key].append(visit)
    rows = [
        _row(theirs, whole, zone, y=TOP + ROW * number, is_open=session.ended_at is None)
        for number, theirs in enumerate(people.values())
    ]
    return Timeline(
        rows=rows,
        ticks=_ticks(whole, zone),
        height=TOP + ROW * len(rows) + 6,
        title=f"Presence in {session.room_name or session.room_id}",
    )


def _whole(session: AttendedSession, visits: Sequence[AttendedVisit]) -> Span:
    """The span of the session and all its visits; never empty."""
    spans = [session.span, *(visit.widest for visit in visits)]
    start = min(start for start, _ in spans)
    return start, max(start + 1000, *(end for _, end in spans))


def _row(visits: Sequence[AttendedVisit], whole: Span, zone: ZoneInfo, *, y: float, is_open: bool) -> TimelineRow:
    certain = union(visit.narrowest for visit in visits)
    possible = union(visit.widest for visit in visits)
    name = visible(visits[-1].display_name)
    return TimelineRow(
        y=y,
        name=name,
        short_name=name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…",
        bars=[
            *(_bar(span, whole, zone, maybe=True) for span in possible if span not in certain),
            *(_bar(span, whole, zone, maybe=False) for span in certain),
        ],
        still_present=is_open and any(visit.left_at is None for visit in visits),
    )


def _bar(span: Span, whole: Span, zone: ZoneInfo, *, maybe: bool) -> Bar:
    start, end = (_local(moment, zone) for moment in span)
    certainty = "possibly present" if maybe else "present"
    x, to = _x(span[0], whole), _x(span[1], whole)
    width = max(to - x, NARROWEST_BAR)
    return Bar(
        x=round(min(x, LABELS + BARS - width), 2),
        width=round(width, 2),
        maybe=maybe,
        title=f"{certainty} {start:%H:%M:%S} to {end:%H:%M:%S}",
    )


def _x(moment: int, whole: Span) -> float:
    return LABELS + BARS * (moment - whole[0]) / (whole[1] - whole[0])


def _ticks(whole: Span, zone: ZoneInfo) -> list[Tick]:
    """Round local times; steps of a day or less, so few that their texts do not touch."""
    length = timedelta(milliseconds=whole[1] - whole[0])
    step = next((step for step in STEPS if length / step <= MOST_TICKS), length / MOST_TICKS)
    size = max(int(step.total_seconds() * 1000), 1)
    offset = _local(whole[0], zone).utcoffset() or timedelta()
    ahead = int(offset.total_seconds() * 1000)
    first = -(-(whole[0] + ahead) // size) * size - ahead
    text = "%H:%M:%S" if step < timedelta(minutes=1) else "%H:%M" if length <= timedelta(hours=26) else "%d %b %H:%M"
    return [
        Tick(x=round(_x(moment, whole), 2), text=f"{_local(moment, zone):{text}}")
        for moment in range(first, whole[1] + 1, size)
    ]


def _local(moment: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(moment / 1000, UTC).astimezone(zone)

"""The drawing of a session: every bar in its place, whatever the visits are."""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from bridge.rules.attendance import AttendedSession, AttendedVisit
from bridge.web.pages.occupancy import WIDTH, draw_spark
from bridge.web.pages.timeline import BARS, LABELS, MOST_TICKS, draw_timeline
from tests.harness.builders import at

BERLIN = ZoneInfo("Europe/Berlin")


def session(start: float, end: float | None) -> AttendedSession:
    ended_at = None if end is None else at(end)
    return AttendedSession(
        room_id="r", room_name=None, session_id="ses_1", started_at=at(start), ended_at=ended_at, seen_until=at(1000)
    )


def visit(person: str, joined: float, last_seen: float, left: float | None) -> AttendedVisit:
    return AttendedVisit(
        visit_id=f"vis_{person}_{joined}",
        peer_id=person,
        person_key=person,
        display_name=person.title(),
        joined_at=at(joined),
        joined_at_source="upstream",
        joined_after=None,
        last_seen_at=at(last_seen),
        left_at=None if left is None else at(left),
        left_at_source=None if left is None else "observed",
        leave_reason=None if left is None else "absent",
    )


def test_a_person_has_a_row_with_what_is_certain_and_what_is_possible() -> None:
    visits = [visit("ann", 0, 90, 100), visit("bo", 50, 100, None), visit("ann", 60, 70, 80)]
    drawn = draw_timeline(session(0, None), visits, BERLIN)
    ann, bo = drawn.rows
    assert [(bar.maybe, bar.x - LABELS, bar.width) for bar in ann.bars] == [
        (True, 0, BARS * 0.1),
        (False, 0, BARS * 0.09),
    ]
    assert [row.still_present for row in (ann, bo)] == [False, True]
    assert ann.bars[0].title.startswith("possibly present 10:00:00")


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.floats(0, 90_000), st.floats(0, 90_000), st.floats(0, 90_000)),
        max_size=30,
    ),
    st.floats(0, 90_000),
)
def test_everything_lies_within_the_drawing(stays: list[tuple[str, float, float, float]], end: float) -> None:
    visits = [visit(name, *sorted(times)) for name, *times in stays]
    drawn = draw_timeline(session(0, end), visits, BERLIN)
    assert len(drawn.rows) == len({name for name, *_ in stays})
    assert len(drawn.ticks) <= MOST_TICKS + 1
    for row in drawn.rows:
        assert row.y < drawn.height
        for bar in row.bars:
            assert LABELS <= bar.x <= bar.x + bar.width <= LABELS + BARS + 0.02
            assert bar.width > 0
    assert all(LABELS <= tick.x <= LABELS + BARS for tick in drawn.ticks)
    assert drawn.ticks == sorted(drawn.ticks, key=lambda tick: tick.x)


@given(st.lists(st.tuples(st.floats(0, 86_000), st.floats(0.1, 400)), max_size=40))
def test_the_small_drawing_shows_the_most_at_once(stays: list[tuple[float, float]]) -> None:
    spans = [(at(start), min(at(start + length), at(86_400))) for start, length in stays]
    most = max((sum(a <= start < b for a, b in spans) for start, _ in spans), default=0)
    drawn = draw_spark(spans, at(0), at(0) + timedelta(days=1), 5)
    assert drawn.most == most
    assert drawn.path.endswith(f"H{WIDTH}V28Z")

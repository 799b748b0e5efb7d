"""Rows of attendance: figures computed by hand, and random meetings with random polls of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.rules.attendance import (
    COLUMNS,
    AttendedSession,
    AttendedVisit,
    Report,
    View,
    hours,
    local_time,
    merged,
    person_rows,
    total_row,
    union,
    visit_rows,
)
from bridge.rules.presence import PeerJoined, PeerLeft, RoomEmptied, RoomOccupied
from tests.harness.builders import Room, at, peer

UTC = ZoneInfo("UTC")
PLAIN = Report(zone=UTC)
SESSION = AttendedSession(room_id="r", room_name=None, session_id="ses_1", started_at=at(0), ended_at=at(1000))


def visit(joined: float, left: float | None, key: str = "ann", **changes: Any) -> AttendedVisit:  # noqa: ANN401 - any field of a visit
    fields: dict[str, Any] = {
        "visit_id": f"vis_{joined}",
        "peer_id": "p",
        "person_key": key,
        "display_name": key.title(),
        "joined_at": at(joined),
        "joined_at_source": "upstream",
        "joined_after": None,
        "last_seen_at": at(joined if left is None else left),
        "left_at": None if left is None else at(left),
        "left_at_source": None if left is None else "observed",
        "leave_reason": None if left is None else "absent",
    }
    return AttendedVisit(**fields | changes)


def only_row(*visits: AttendedVisit, report: Report = PLAIN, session: AttendedSession = SESSION) -> dict[str, Any]:
    (row,) = person_rows(session, visits, report)
    assert tuple(row) == COLUMNS[View.PERSON]
    return row


@pytest.mark.parametrize(
    ("visits", "total", "percent"),
    [
        ([visit(0, 100)], 100.0, 10.0),
        ([visit(0, 100), visit(50, 150)], 150.0, 15.0),  # two devices at once
        ([visit(0, 100), visit(10, 20), visit(100, 200)], 200.0, 20.0),
        ([visit(0, 100), visit(900, 1000)], 200.0, 20.0),
        ([visit(0, None, last_seen_at=at(333.3))], 333.3, 33.3),
        ([visit(0, 0)], 0.0, 0.0),
        ([visit(0, 1000)], 1000.0, 100.0),
        ([visit(5, 5.25)], 0.25, 0.0),
        ([visit(100, 50)], 0.0, 0.0),  # the clocks of two machines
    ],
)
def test_a_person_was_there_for_the_union_of_all_visits(
    visits: list[AttendedVisit], total: float, percent: float
) -> None:
    row = only_row(*visits)
    assert (row["total_seconds"], row["percent_of_session"], row["visits"]) == (total, percent, len(visits))


def test_a_row_has_the_first_join_the_last_leave_and_the_newest_name() -> None:
    row = only_row(visit(300, 400, display_name="Anna"), visit(10, 500), session=replace(SESSION, ended_at=None))
    assert (row["first_joined_at"], row["last_left_at"]) == (local_time(at(10), UTC), local_time(at(500), UTC))
    assert (row["display_name"], row["session_ended_at"], row["still_present"]) == ("Anna", None, False)
    present = only_row(visit(300, None), visit(10, 500))
    assert (present["last_left_at"], present["still_present"]) == (None, True)


@pytest.mark.parametrize(
    ("visits", "bracket", "source"),
    [
        ([visit(0, 100, last_seen_at=at(90))], 10.0, "observed"),
        ([visit(50, 100, joined_at_source="observed", joined_after=at(30), last_seen_at=at(90))], 30.0, "observed"),
        ([visit(50, 100, joined_at_source="observed", last_seen_at=at(90))], 10.0, "observed"),
        ([visit(0, 100, last_seen_at=at(90)), visit(80, 120)], 0.0, "observed"),  # the other device covers it
        ([visit(0, 100, last_seen_at=at(90), left_at_source="reconciled")], 0.0, "reconciled"),
        ([visit(0, 100, left_at_source="reconciled"), visit(200, 300, last_seen_at=at(290))], 10.0, "mixed"),
        ([visit(0, None)], 0.0, "observed"),
    ],
)
def test_the_uncertainty_is_the_widest_less_the_narrowest(
    visits: list[AttendedVisit], bracket: float, source: str
) -> None:
    row = only_row(*visits)
    assert (row["uncertainty_seconds"], row["times_source"]) == (bracket, source)


def test_a_window_cuts_and_leaves_out() -> None:
    report = Report(zone=UTC, window=(at(100), at(300)))
    visits = [visit(0, 200), visit(250, 260), visit(0, 100, "bo"), visit(299, 400, "cy"), visit(300, 400, "dan")]
    rows = {row["person_key"]: row for row in person_rows(SESSION, visits, report)}

    assert {key: row["total_seconds"] for key, row in rows.items()} == {"ann": 110.0, "cy": 1.0}
    assert (rows["ann"]["percent_of_session"], rows["ann"]["visits"]) == (55.0, 2)
    assert [row["duration_seconds"] for row in visit_rows(SESSION, visits, report)] == [100.0, 10.0, 1.0]


def test_the_least_percentage_compares_unrounded() -> None:
    visits = [visit(0, 799.999), visit(0, 800, "bo")]
    rows = list(person_rows(SESSION, visits, Report(zone=UTC, min_percent=80)))
    assert [row["person_key"] for row in rows] == ["bo"]
    other = replace(SESSION, session_id="ses_2", started_at=at(2000), ended_at=at(2100))
    pairs = [(SESSION, visits[0]), (other, visit(2000, 2100))]
    total = total_row(pairs, Report(zone=UTC, min_percent=80))
    assert total is not None
    assert (total["sessions"], total["total_seconds"]) == (1, 100.0)
    assert total_row(pairs[:1], Report(zone=UTC, min_percent=80)) is None


def test_who_joined_before_the_session_began_counts_from_the_join() -> None:
    """A session begins with the peers that the first poll saw; an incomplete one may miss the first to join."""
    early = visit(-300, 500)
    row = only_row(early, visit(-100, -50))
    assert (row["total_seconds"], row["percent_of_session"]) == (800.0, 50.0)
    assert [row["duration_seconds"] for row in visit_rows(SESSION, [early], PLAIN)] == [800.0]
    assert list(person_rows(SESSION, [early], Report(zone=UTC, min_percent=50.1))) == []
    total = total_row([(SESSION, early)], PLAIN)
    assert total is not None
    assert total["total_seconds"] == 800.0
    window = Report(zone=UTC, window=(at(-200), at(200)))
    row = only_row(early, report=window)
    assert (row["total_seconds"], row["percent_of_session"]) == (400.0, 100.0)


def test_the_roster_adds_those_who_were_not_there() -> None:
    report = Report(zone=UTC, roster={"zed": None, "ann": "Ann A.", "bo": "Bo B."})
    rows = list(person_rows(SESSION, [visit(0, 10)], report))
    assert [(row["person_key"], row["display_name"], row["total_hms"], row["visits"]) for row in rows] == [
        ("ann", "Ann", "0:00:10", 1),
        ("bo", "Bo B.", "0:00:00", 0),
        ("zed", "zed", "0:00:00", 0),
    ]


def test_sessions_that_count_as_one_are_as_long_as_all_of_them() -> None:
    later = replace(SESSION, session_id="ses_2", started_at=at(1010), ended_at=at(2000))
    both = merged([SESSION, later])
    assert (both.session_id, both.ended_at) == ("ses_1", at(2000))
    assert only_row(visit(0, 1000), visit(1010, 2000), session=both)["percent_of_session"] == 99.5


def test_hours_are_not_wrapped_and_offsets_follow_the_clock_change() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert hours(100 * 3600 * 1000 + 61_999) == "100:01:01"
    before = datetime(2026, 10, 25, 0, 59, 59, 999999, tzinfo=UTC)
    assert local_time(before, berlin) == "2026-10-25T02:59:59.999+02:00"
    assert local_time(before + timedelta(seconds=1), berlin) == "2026-10-25T02:00:00.999+01:00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """The truth: one stay of a person, under a peer id of its own."""

    person: str
    peer_id: str
    start: int
    end: int


STAYS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 90), st.integers(1, 40)), min_size=1, max_size=8).map(
    lambda found: [
        Stay(person=person, peer_id=f"p{index}", start=start, end=start + length)
        for index, (person, start, length) in enumerate(found)
    ]
)
POLLS = st.lists(
    st.tuples(st.integers(1, 25), st.sampled_from(["complete", "complete", "complete", "incomplete", "failed"])),
    min_size=1,
    max_size=20,
)


def observe(
    stays: Sequence[Stay], polls: Sequence[tuple[int, str]], *, has_times: bool
) -> list[tuple[AttendedSession, list[AttendedVisit], set[str]]]:
    """Poll a meeting by the rules of presence; returns its sessions, their visits and the peers that polls saw."""
    room, now = Room(), 0
    found: list[tuple[AttendedSession, list[AttendedVisit], set[str]]] = []
    for gap, kind in [*polls, (200, "complete")]:
        now += gap
        if kind == "failed":
            continue
        there = [stay for stay in stays if stay.start <= now < stay.end][: 1 if kind == "incomplete" else None]
        peers = [peer(one.peer_id, one.start if has_times else None, {"email": one.person}) for one in there]
        for change in room.diff(now, *peers, complete=kind == "complete").changes:
            match change:
                case RoomOccupied(session=begun):
                    session = replace(SESSION, session_id=begun.session_id, started_at=begun.started_at)
                    found.append((session, [], set()))
                case PeerJoined(visit=joined):
                    found[-1][2].add(joined.peer_id)
                case PeerLeft(visit=left):
                    found[-1][1].append(
                        AttendedVisit(
                            visit_id=left.visit_id,
                            peer_id=left.peer_id,
                            person_key=left.person_key,
                            display_name=left.display_name,
                            joined_at=left.joined_at,
                            joined_at_source=left.joined_at_source,
                            joined_after=left.joined_after,
                            last_seen_at=left.last_seen_at,
                            left_at=change.left_at,
                            left_at_source=change.left_at_source,
                            leave_reason=change.reason,
                        )
                    )
                case RoomEmptied():
                    found[-1] = replace(found[-1][0], ended_at=change.ended_at), *found[-1][1:]
                case _:
                    pass
    return found


@given(stays=STAYS, polls=POLLS, has_times=st.booleans())
def test_the_true_time_lies_within_the_stated_bracket(
    stays: list[Stay], polls: list[tuple[int, str]], *, has_times: bool
) -> None:
    for session, visits, seen in observe(stays, polls, has_times=has_times):
        for row in person_rows(session, visits, PLAIN):
            total, bracket = row["total_seconds"], row["uncertainty_seconds"]
            assert 0 <= row["percent_of_session"] <= 100
            theirs = [one for one in stays if one.person == row["person_key"] and one.peer_id in seen]
            truth = sum(last - first for first, last in union((one.start, one.end) for one in theirs))
            by_peer = {one.peer_id: one for one in visits}
            before_join = sum((by_peer[one.peer_id].joined_at - at(one.start)).total_seconds() for one in theirs)
            assert total - bracket <= truth <= total + before_join

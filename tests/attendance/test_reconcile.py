"""Sessions against the source's own record: by rules, and a week in a simulated room through the database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given

from bridge.attendance.query import Selection, list_attendance
from bridge.attendance.reconcile import (
    ReconciledSession,
    ReconcileTerms,
    find_due,
    find_ended,
    reconcile_session,
    take_request,
)
from bridge.attendance.verify import verify_log
from bridge.rules.attendance import Report, View, union
from bridge.rules.identity import IdentityPolicy
from bridge.rules.presence import Failure, Snapshot
from bridge.rules.reconcile import (
    Outcome,
    RecordedSession,
    RecordedVisit,
    SeenSession,
    SeenVisit,
    VisitChange,
    next_try,
    overlapping,
    reconcile,
)
from bridge.runtime import Runtime
from bridge.simulator import Simulation, documents
from bridge.sources.huddle01.record import read_sessions, read_visits
from bridge.sources.huddle01.responses import interpret
from bridge.sources.protocol import SourceSettings
from tests.harness.builders import START, at
from tests.harness.store_driver import StoreDriver
from tests.rules.test_attendance import POLLS, STAYS, Stay, observe


def saw(peer_id: str, joined: float, seen_until: float, left: float, **changes: Any) -> SeenVisit:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {
        "visit_id": f"vis_{peer_id}",
        "peer_id": peer_id,
        "joined_at": at(joined),
        "joined_at_source": "upstream",
        "joined_after": None,
        "last_seen_at": at(seen_until),
        "left_at": at(left),
        "left_at_source": "observed",
        "leave_reason": "absent",
    }
    return SeenVisit(**fields | changes)


def stay(peer_id: str, joined: float, left: float | None) -> RecordedVisit:
    return RecordedVisit(peer_id=peer_id, joined_at=at(joined), left_at=None if left is None else at(left))


def recorded(*visits: RecordedVisit, start: float = 0, end: float | None = 100) -> RecordedSession:
    ended_at = None if end is None else at(end)
    return RecordedSession(session_id="s", started_at=at(start), ended_at=ended_at, visits=visits)


ONE = SeenSession(started_at=at(0), ended_at=at(100), visits=(saw("a", 0, 90, 100),))


@pytest.mark.parametrize(
    ("session", "record", "outcome", "visits"),
    [
        (ONE, [recorded(stay("a", 0, 95))], "reconciled", [("a", 0, 95, "corrected")]),
        (
            ONE,
            [recorded(stay("a", 0, 95), stay("b", 50, 55))],
            "reconciled",
            [("a", 0, 95, "corrected"), ("b", 50, 55, "added")],
        ),
        (ONE, [], "missing", [("a", 0, 100, "none")]),
        (ONE, [recorded(stay("a", 0, 95), end=None)], "not_ended", [("a", 0, 95, "corrected")]),
        (ONE, [recorded(stay("b", 50, 55))], "cut_off", [("a", 0, 100, "none"), ("b", 50, 55, "added")]),
        (ONE, [recorded(stay("a", 0, None))], "exit_missing", [("a", 0, 100, "none")]),
        (ONE, [recorded(stay("a", 0, 50))], "contradicted", [("a", 0, 50, "contradicted")]),
        (ONE, [recorded(stay("a", 0, 200), end=200)], "contradicted", [("a", 0, 200, "contradicted")]),
        (ONE, [recorded(stay("a", 30, 95))], "contradicted", [("a", 30, 95, "contradicted")]),
        (ONE, [recorded(stay("a", 0, 101.5), end=102)], "reconciled", [("a", 0, 101.5, "corrected")]),  # clocks differ
        (
            replace(ONE, visits=(saw("a", 20, 90, 100, joined_at_source="observed", joined_after=at(10)),)),
            [recorded(stay("a", 12, 95))],
            "reconciled",
            [("a", 12, 95, "corrected")],
        ),
        (
            replace(ONE, visits=(saw("a", 0, 90, 100, leave_reason="unwatched"),)),
            [recorded(stay("a", 0, 500), end=500)],
            "reconciled",
            [("a", 0, 500, "corrected")],
        ),
        (  # two of the record's sessions in one of ours, rejoins in the order of the record
            replace(ONE, visits=(saw("a", 0, 20, 30), saw("a", 60, 90, 100, visit_id="vis_2"))),
            [recorded(stay("a", 60, 95), start=60), recorded(stay("a", 0, 25), end=30)],
            "reconciled",
            [("a", 0, 25, "corrected"), ("a", 60, 95, "corrected")],
        ),
        (  # one of the record's sessions in several of ours: who belongs to another one is not added
            replace(ONE, neighbours=((at(120), at(200)),)),
            [recorded(stay("a", 0, 95), stay("b", 125, 190), stay("c", 108, 112), stay("d", 114, 116), end=200)],
            "reconciled",
            [("a", 0, 95, "corrected"), ("c", 108, 112, "added")],
        ),
    ],
)  # fmt: skip
def test_each_outcome_has_a_name(
    session: SeenSession,
    record: Sequence[RecordedSession],
    outcome: str,
    visits: list[tuple[str, float, float, str]],
) -> None:
    found = reconcile(session, record)
    assert found.outcome == outcome
    assert [
        (one.peer_id, (one.joined_at - START).total_seconds(), (one.left_at - START).total_seconds(), one.change.value)
        for one in found.visits
    ] == visits
    stored = tuple(replace(one, visit_id=str(index), change=VisitChange.NONE) for index, one in enumerate(found.visits))
    assert not reconcile(replace(session, visits=stored), record).has_changed


def test_a_record_is_asked_for_ever_more_rarely_for_a_day() -> None:
    now, tries, waits = at(120), 0, []
    while True:
        tries += 1
        due = next_try(at(0), timedelta(minutes=2), tries, Outcome.MISSING, now)
        if due is None:
            break
        waits.append(due - now)
        now = due
    assert waits == [timedelta(minutes=2) * 2**n for n in range(1, len(waits) + 1)]
    assert now <= at(86_400) < now + 2 * waits[-1]
    assert next_try(at(0), timedelta(minutes=2), 1, Outcome.RECONCILED, at(120)) is None


@given(stays=STAYS, polls=POLLS)
def test_reconciled_times_are_the_true_times(stays: list[Stay], polls: list[tuple[int, str]]) -> None:
    """Every stay that overlaps or is nearest to a session that polls saw."""
    for has_times in (True, False):
        seen = observe(stays, polls, has_times=has_times)
        record = [recorded(*(stay(one.peer_id, one.start, one.end) for one in stays), end=1000)]
        spans = [(session.started_at, session.ended_at or at(0)) for session, _, _ in seen]
        found = []
        for session, visits, _ in seen:
            assert session.ended_at is not None
            ours = SeenSession(
                started_at=session.started_at,
                ended_at=session.ended_at,
                visits=tuple(
                    saw(
                        one.peer_id, 0, 0, 0, visit_id=one.visit_id, joined_at=one.joined_at, left_at=one.left_at,
                        joined_at_source=one.joined_at_source, joined_after=one.joined_after,
                        last_seen_at=one.last_seen_at,
                    )
                    for one in visits
                ),
                neighbours=tuple(span for span in spans if span != (session.started_at, session.ended_at)),
            )  # fmt: skip
            assert overlapping(ours, record) == record
            result = reconcile(ours, record)
            assert result.outcome is Outcome.RECONCILED
            found += [(one.peer_id, one.joined_at, one.left_at) for one in result.visits]
            assert result.started_at <= min(one.joined_at for one in result.visits)
        if seen:
            assert sorted(found) == sorted({(one.peer_id, at(one.start), at(one.end)) for one in stays})


class SimulatedWeek:
    """A simulated room by its own clock, polled through the real rules of reading, into a database."""

    name, sessions_per_page = "main", 10

    def __init__(self, store: StoreDriver, begins: datetime) -> None:
        self.store = store
        self.offset = (begins - START).total_seconds()
        self.seconds = 0.0
        self.simulation = Simulation(now=self._epoch_milliseconds, seed=1)
        self.simulation.add_room("r")
        self.failing = False
        store.track("r", seconds=self.offset)

    def _epoch_milliseconds(self) -> int:
        return int(at(self.offset + self.seconds).timestamp() * 1000)

    def run(self, until: float, *, polled: bool = True) -> None:
        """Poll every 10 seconds."""
        while self.seconds < until:
            self.seconds = min(self.seconds + 10, until)
            if polled:
                self.poll()

    def poll(self) -> None:
        response = documents.participants(self.simulation.room("r").present.values())
        read = interpret(200, {}, documents.encode(response), at(self.offset + self.seconds))
        assert isinstance(read, Snapshot)
        self.store.poll(self.offset + self.seconds, r=read)

    def join(self, peer_id: str, key: str) -> None:
        self.simulation.join("r", peer_id=peer_id, metadata={"email": key})

    def leave(self, peer_id: str) -> None:
        self.simulation.leave("r", peer_id)

    async def fetch_sessions(self, room_id: str, page: int) -> tuple[RecordedSession, ...] | Failure:
        if self.failing:
            return read_sessions(503, {}, b"busy", START)
        body = documents.encode(documents.sessions_page(self.simulation.room(room_id), limit=10, cursor=page))
        return read_sessions(200, {}, body, START)

    async def fetch_visits(self, session_id: str) -> tuple[RecordedVisit, ...] | Failure:
        session = self.simulation.owned_session(session_id, self.simulation.api_keys[0])
        assert session is not None
        return read_visits(200, {}, documents.encode(documents.session_participants(session)), START)

    def truth(self) -> dict[str, float]:
        """Seconds of each person, from nothing but the simulator's own record."""
        spans: dict[str, list[tuple[int, int]]] = {}
        for session in self.simulation.room("r").sessions:
            for visit in session.visits:
                assert isinstance(visit.metadata, dict)
                spans.setdefault(str(visit.metadata["email"]), []).append((visit.joined_at, visit.left_at or 0))
        return {key: sum(end - start for start, end in union(found)) / 1000 for key, found in spans.items()}

    def rows(self, view: View) -> list[dict[str, Any]]:
        report = Report(zone=ZoneInfo("Europe/Berlin"))
        return self.store.database.read_now(list_attendance, Selection(), view, report, merge_gap=timedelta(0))

    def reconcile(self, *, dry_run: bool = False) -> list[ReconciledSession]:
        now = at(self.offset + self.seconds)
        runtime = Runtime(now=lambda: now, new_id=self.store.new_id, jitter=lambda: 0.5)
        account = SourceSettings(name="main", kind="huddle01", base_url="", api_key="key", requests_per_second=0)
        terms = ReconcileTerms(after=timedelta(minutes=2), identity=IdentityPolicy(), dry_run=dry_run)
        found = self.store.database.read_now(find_ended, Selection())

        async def run() -> list[ReconciledSession]:
            return [
                await reconcile_session(self.store.database, account, self, each, runtime, terms)  # type: ignore[arg-type]
                for each in found
            ]

        return asyncio.run(run())


@pytest.fixture
def week(store: StoreDriver) -> SimulatedWeek:
    """From Saturday before the clocks go back in Berlin: at 01:00 UTC on Sunday, 2026-10-25."""
    week = SimulatedWeek(store, datetime(2026, 10, 25, 0, 59, tzinfo=ZoneInfo("UTC")))
    week.simulation.end_lag_seconds = 180
    week.run(20)
    for second, act, peer_id, key in [
        (23, "join", "a1", "ann"),
        (31, "join", "b1", "bo"),
        (44, "join", "a2", "ann"),  # a second device
        (72, "leave", "a1", ""),
        (85, "join", "a1", "ann"),  # under the same peer id
        (91, "join", "q", "quick"),
        (93, "leave", "q", ""),  # between two polls
        (123, "leave", "a2", ""),
    ]:
        week.run(second // 10 * 10)
        week.seconds = float(second)
        getattr(week, act)(peer_id, *([key] if key else []))
    week.run(130)
    week.run(200, polled=False)  # the bridge is down
    week.leave("b1")
    week.run(260, polled=False)
    week.run(300)
    week.seconds = 303.0
    week.leave("a1")
    week.run(330)
    week.seconds = 331.0
    week.join("c1", "cy")  # within the lag: the same session upstream, another one of ours
    week.run(350)
    week.leave("c1")
    week.run(360)
    return week


def test_a_week_is_exact_after_reconciling_and_within_its_bracket_before(week: SimulatedWeek) -> None:
    truth = week.truth()
    assert truth["quick"] == 2.0
    before = week.rows(View.PERSON)
    assert {row["person_key"] for row in before} == {"ann", "bo", "cy"}
    for row in before:
        assert abs(row["total_seconds"] - truth[row["person_key"]]) <= row["uncertainty_seconds"], row
        assert row["times_source"] == "observed"
    assert [row["session_started_at"] for row in before[:1]] == ["2026-10-25T02:59:23.000+02:00"]
    assert before[-1]["session_started_at"] == "2026-10-25T02:04:31.000+01:00"

    assert [one.outcome for one in week.reconcile()] == [Outcome.NOT_ENDED, Outcome.NOT_ENDED]
    week.run(700)
    assert [one.outcome for one in week.reconcile()] == [Outcome.RECONCILED, Outcome.RECONCILED]

    after = week.rows(View.PERSON)
    assert {row["person_key"]: row["total_seconds"] for row in after} == truth
    assert {(row["uncertainty_seconds"], row["times_source"]) for row in after} == {(0.0, "reconciled")}
    assert {row["person_key"]: row["total_seconds"] for row in week.rows(View.TOTAL)} == truth
    assert week.store.database.read_now(verify_log).problems == []


def test_seven_lessons_across_the_clock_change(store: StoreDriver) -> None:
    """Each day at nine in Berlin, with rejoins, second devices, visits between two polls, and two downtimes."""
    zone = ZoneInfo("Europe/Berlin")
    monday = datetime(2026, 10, 19, 9, tzinfo=zone)
    week = SimulatedWeek(store, monday)
    week.simulation.end_lag_seconds = 180
    rng = Random(26)  # noqa: S311 - a script, not a secret
    for day in range(7):
        nine = datetime(2026, 10, 19 + day, 9, tzinfo=zone)
        down = range(600, 780) if day in {2, 5} else range(0)
        polls = [(second, "poll", "", "") for second in range(0, 2_000, 20) if second not in down]
        for second, act, peer_id, key in sorted([*polls, *lesson(rng, day)]):
            week.seconds = nine.timestamp() - monday.timestamp() + second
            match act:
                case "join":
                    week.join(peer_id, key)
                case "leave":
                    week.leave(peer_id)
                case _:
                    week.poll()

    truth = week.truth()
    before = week.rows(View.PERSON)
    assert len({row["session_id"] for row in before}) >= 7
    for key in {row["person_key"] for row in before}:
        mine = [row for row in before if row["person_key"] == key]
        seconds = sum(row["total_seconds"] for row in mine)
        assert abs(seconds - truth[key]) <= sum(row["uncertainty_seconds"] for row in mine), key
    assert truth.keys() - {row["person_key"] for row in before} == {f"quick-{day}" for day in range(7)}
    assert {row["session_started_at"][-6:] for row in before} == {"+02:00", "+01:00"}

    assert {one.outcome for one in week.reconcile()} == {Outcome.RECONCILED}
    assert {row["person_key"]: row["total_seconds"] for row in week.rows(View.TOTAL)} == truth
    assert {row["uncertainty_seconds"] for row in week.rows(View.PERSON)} == {0.0}
    assert week.store.database.read_now(verify_log).problems == []


def lesson(rng: Random, day: int) -> Iterator[tuple[int, str, str, str]]:
    """Joins and leaves of twelve people in half an hour, and of one who is there for two seconds."""
    for number in range(12):
        start, end = rng.randrange(1, 400), rng.randrange(1_000, 1_700)
        away, back = rng.randrange(420, 580), rng.randrange(800, 990)
        devices = [(start, away), (back, end)] if number % 3 else [(start, end)]
        yield from stays(f"phone-{day}-{number}", f"person-{number}", devices)
        if number % 4 == 0:
            yield from stays(f"laptop-{day}-{number}", f"person-{number}", [(start + 30, end + 45)])
    yield from stays(f"quick-{day}", f"quick-{day}", [(502, 504)])


def stays(peer_id: str, key: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, str, str, str]]:
    for start, end in spans:
        yield start, "join", peer_id, key
        yield end, "leave", peer_id, key


def test_a_second_run_changes_nothing_and_a_dry_run_neither(week: SimulatedWeek) -> None:
    week.run(700)
    sequence = week.store.room("r").last_sequence
    assert [one.has_changed for one in week.reconcile(dry_run=True)] == [True, True]
    assert week.store.room("r").last_sequence == sequence
    assert [one.has_changed for one in week.reconcile()] == [True, True]
    events = week.store.log("r")[sequence:]
    assert [event["type"] for event in events] == ["session.reconciled"] * 2
    assert sorted(one["change"] for one in events[0]["data"]["visits"]) == ["added", *["corrected"] * 4]
    assert [one.has_changed for one in week.reconcile()] == [False, False]
    assert week.store.room("r").last_sequence == sequence + 2


def test_a_record_that_cannot_be_had_is_asked_for_again(week: SimulatedWeek) -> None:
    week.failing = True
    assert [one.outcome for one in week.reconcile()] == [Outcome.FAILED, Outcome.FAILED]
    now, after = at(week.offset + week.seconds), timedelta(minutes=2)
    assert week.store.database.read_now(find_due, now, after, 10) == []
    assert len(week.store.database.read_now(find_due, now + 2 * after, after, 10)) == 2


def test_requests_are_taken_out_of_the_sources_budget(store: StoreDriver) -> None:
    store.track("r")
    account = SourceSettings(name="main", kind="huddle01", base_url="", api_key="key", requests_per_second=2)
    waits = [store.write(take_request, account, at(1)).total_seconds() for _ in range(4)]
    assert waits[0] == 0
    assert 0 < waits[-1] <= 0.5
    assert store.claim(1, rate=2) == []

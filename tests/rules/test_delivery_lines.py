"""Many decisions, one after the other: rooms with lines of events, an endpoint with bad days, and days that pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.rules.delivery import (
    Advance,
    Circuit,
    CursorState,
    DeadLetter,
    Decision,
    DeliveryPolicy,
    Disable,
    EndpointState,
    GiveWay,
    Outcome,
    PostResult,
    Retry,
    decide,
    decide_at_last,
    decide_behind,
    has_used_up_schedule,
    judge,
)

START = datetime(2026, 11, 23, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
POLICY = DeliveryPolicy()
WHOLE_SCHEDULE = sum(POLICY.retry_schedule, timedelta())
PROBE_AT_MOST = POLICY.probe_at_most * 1.2

Receiver = Callable[["Try"], Outcome | int]
"""A outcome, or the status of an response."""


@dataclass(frozen=True, kw_only=True)
class Try:
    at: datetime
    room: str
    event: str


@dataclass(kw_only=True)
class Line:
    owed: list[tuple[datetime, str]]
    """Events and when they happen; none is known before."""
    state: CursorState = field(default_factory=CursorState)
    retry_at: datetime = START

    def due_at(self) -> datetime | None:
        return max(self.owed[0][0], self.retry_at) if self.owed else None


@dataclass(kw_only=True)
class Runtime:
    """One endpoint with its rooms; steps from one due attempt to the next, as the store and the sender would."""

    lines: dict[str, Line]
    receiver: Receiver
    jitter: float = 0.5
    endpoint: EndpointState = field(default_factory=EndpointState)
    now: datetime = START
    disabled: bool = False
    was_open: bool = False
    tries: list[Try] = field(default_factory=list)
    delivered: list[Try] = field(default_factory=list)
    dead: list[Try] = field(default_factory=list)

    def run(self, until: datetime) -> None:
        while not self.disabled and (due := self.next_due()) is not None and due[0] <= until:
            self.now = max(self.now, due[0])
            self.attempt(due[1])

    def next_due(self) -> tuple[datetime, str] | None:
        held = self.endpoint.paused_until or START
        dues = ((line.due_at(), room) for room, line in self.lines.items())
        earliest = min(((at, room) for at, room in dues if at is not None), default=None)
        return None if earliest is None else (max(earliest[0], held), earliest[1])

    def attempt(self, room: str) -> None:
        line = self.lines[room]
        others = [place for place, (at, _) in enumerate(line.owed) if place and at <= self.now]
        is_patient = has_used_up_schedule(line.state, len(self.tries_of(line.owed[0][1])), POLICY, self.now)
        turn = line.state.failed_attempts + self.endpoint.probes
        attempt, result = self.send(room, 0)
        decision = decide(
            result,
            line.state,
            self.endpoint,
            POLICY,
            may_give_way=bool(others) and is_patient,
            now=self.now,
            jitter=self.jitter,
        )
        line.state, self.endpoint = decision.cursor, decision.endpoint
        self.was_open |= self.endpoint.circuit is Circuit.OPEN
        if isinstance(decision.step, GiveWay):
            self.find_the_culprit(room, others[turn % len(others)], decision.step.at)
        else:
            self.take(line, attempt, decision)

    def find_the_culprit(self, room: str, place: int, retry_at: datetime) -> None:
        line = self.lines[room]
        other, result = self.send(room, place)
        decision = decide_behind(result, line.state, self.endpoint, at=retry_at, now=self.now)
        line.state, self.endpoint = decision.cursor, decision.endpoint
        if result.outcome is not Outcome.DELIVERED:
            self.take(line, other, decision)
            return
        assert decision.release_since is not None
        self.release(decision.release_since, but=line)
        attempt, result = self.send(room, 0)
        decision = decide_at_last(result, line.state, self.endpoint, POLICY, now=self.now, jitter=self.jitter)
        line.state, self.endpoint = decision.cursor, decision.endpoint
        ended = len(self.delivered) + len(self.dead)
        self.take(line, attempt, decision)
        if place == 1 and len(self.delivered) + len(self.dead) > ended:
            self.delivered.append(other)
            line.owed.pop(0)

    def send(self, room: str, place: int) -> tuple[Try, PostResult]:
        attempt = Try(at=self.now, room=room, event=self.lines[room].owed[place][1])
        self.tries.append(attempt)
        said = self.receiver(attempt)
        if isinstance(said, int):
            return attempt, judge(said, headers={}, response=b"", now=self.now, duration=SECOND)
        return attempt, PostResult(outcome=said, duration=SECOND)

    def take(self, line: Line, attempt: Try, decision: Decision) -> None:
        match decision.step:
            case Advance():
                self.delivered.append(attempt)
                line.owed.pop(0)
            case DeadLetter():
                self.dead.append(attempt)
                line.owed.pop(0)
            case Retry(at=at):
                line.retry_at = at
            case Disable():
                self.disabled = True
            case GiveWay():
                raise AssertionError("to whom?")
        if decision.release_since is not None:
            self.release(decision.release_since)

    def release(self, since: datetime, *, but: Line | None = None) -> None:
        for line in self.lines.values():
            first = line.state.first_failed_at
            if line is not but and first is not None and first >= since:
                line.retry_at = self.now
                line.state = CursorState(
                    rejections=line.state.rejections, first_failed_at=first, last_failed_at=line.state.last_failed_at
                )

    def tries_of(self, event: str) -> list[Try]:
        return [attempt for attempt in self.tries if attempt.event == event]


def line(*owed: tuple[timedelta, str]) -> Line:
    return Line(owed=[(START + after, event) for after, event in owed])


def every(step: timedelta, count: int, name: str) -> Iterable[tuple[timedelta, str]]:
    return ((step * assign_sequences, f"{name}{assign_sequences}") for assign_sequences in range(1, count + 1))


def down(*spans: tuple[timedelta, timedelta]) -> Receiver:
    def receive(attempt: Try) -> Outcome:
        since_start = attempt.at - START
        return Outcome.RETRYABLE if any(a <= since_start < b for a, b in spans) else Outcome.DELIVERED

    return receive


def poisoned(*events: str) -> Receiver:
    return lambda attempt: Outcome.RETRYABLE if attempt.event in events else Outcome.DELIVERED


def test_a_poison_event_ends_as_a_dead_letter_and_other_rooms_never_notice() -> None:
    runtime = Runtime(
        lines={
            "a": line((0 * SECOND, "poison"), (0 * SECOND, "next")),
            "b": line(*every(MINUTE, 8000, "b")),
            "c": line(*every(HOUR, 130, "c")),
        },
        receiver=poisoned("poison"),
    )

    runtime.run(START + 130 * HOUR)

    assert [attempt.event for attempt in runtime.dead] == ["poison"]
    assert len(runtime.tries_of("poison")) == 3 + 14  # until the endpoint proved well, and then the whole schedule
    assert runtime.delivered[-1].event != "poison"
    assert any(attempt.event == "next" for attempt in runtime.delivered)
    assert not runtime.was_open
    happened = {
        event: at for name in "bc" for at, event in line(*every(MINUTE if name == "b" else HOUR, 8000, name)).owed
    }
    assert all(attempt.at == happened[attempt.event] for attempt in runtime.delivered if attempt.room in "bc")


def test_a_poison_event_does_not_open_the_circuit_while_the_other_rooms_are_quiet() -> None:
    runtime = Runtime(
        lines={"a": line((0 * SECOND, "poison")), "b": line((MINUTE, "b1"), (60 * HOUR, "b2"), (90 * HOUR, "b3"))},
        receiver=poisoned("poison"),
    )

    runtime.run(START + 110 * HOUR)

    assert not runtime.was_open
    assert [attempt.at - START for attempt in runtime.delivered] == [MINUTE, 60 * HOUR, 90 * HOUR]
    assert [attempt.event for attempt in runtime.dead] == ["poison"]


def test_an_outage_is_probed_in_turns_and_over_when_the_first_probe_says_so() -> None:
    rooms = [f"room{assign_sequences:02}" for assign_sequences in range(20)]
    runtime = Runtime(
        lines={room: line((0 * SECOND, f"{room}-1"), (2 * HOUR, f"{room}-2")) for room in rooms},
        receiver=down((0 * SECOND, 20 * HOUR)),
    )

    runtime.run(START + 30 * HOUR)

    assert runtime.was_open
    probes = [attempt for attempt in runtime.tries if MINUTE < attempt.at - START < 20 * HOUR]
    assert all(later.at > sooner.at for sooner, later in pairwise(probes)), "one at a time"
    assert {attempt.room for attempt in probes[:20]} == set(rooms), "each room has its turn before one has a second"
    assert len(runtime.delivered) == 40
    assert runtime.delivered[-1].at - START <= 20 * HOUR + PROBE_AT_MOST
    assert len({attempt.at for attempt in runtime.delivered}) == 1, "everything owed is due at once"


def test_a_poison_event_cannot_speak_for_all_when_the_endpoint_recovers() -> None:
    rooms = [f"room{assign_sequences}" for assign_sequences in range(6)]
    outage = down((0 * SECOND, 3 * HOUR))
    runtime = Runtime(
        lines={room: line((0 * SECOND, f"{room}-1")) for room in rooms},
        receiver=lambda attempt: Outcome.RETRYABLE if attempt.event == "room0-1" else outage(attempt),
    )

    runtime.run(START + 4 * HOUR)

    assert sorted(attempt.room for attempt in runtime.delivered) == rooms[1:]
    assert runtime.delivered[-1].at - START <= 3 * HOUR + 2 * PROBE_AT_MOST


def test_an_outage_longer_than_the_schedule_dead_letters_nothing() -> None:
    for spans in ([(0, 100)], [(0, 1), (2, 104)], [(0, 1), (2, 3), (4, 5), (6, 110)]):
        runtime = Runtime(
            lines={room: line(*every(30 * MINUTE, 20, room)) for room in "abc"},
            receiver=down(*((a * HOUR, b * HOUR) for a, b in spans)),
        )

        runtime.run(START + 240 * HOUR)

        assert not runtime.dead
        assert len(runtime.delivered) == 60


def test_rooms_below_the_circuits_threshold_recover_together() -> None:
    runtime = Runtime(
        lines={"a": line((0 * SECOND, "a1")), "b": line((0 * SECOND, "b1")), "c": line((20 * HOUR, "c1"))},
        receiver=down((0 * SECOND, 19 * HOUR)),
    )

    runtime.run(START + 21 * HOUR)

    assert not runtime.was_open
    assert [attempt.event for attempt in runtime.delivered] == ["a1", "b1", "c1"]
    first, second, _ = runtime.delivered
    assert first.at == second.at <= START + 19 * HOUR + PROBE_AT_MOST, "noticed as soon as with many rooms"


def test_an_endpoint_with_one_room_is_noticed_to_be_back_as_soon_as_others() -> None:
    runtime = Runtime(lines={"a": line(*every(HOUR, 30, "a"))}, receiver=down((0 * SECOND, 29 * HOUR)))

    runtime.run(START + 30 * HOUR)

    assert not runtime.dead
    assert runtime.delivered[0].at - START <= 29 * HOUR + PROBE_AT_MOST
    assert [attempt.event for attempt in runtime.delivered] == [
        f"a{assign_sequences}" for assign_sequences in range(1, 31)
    ]


def test_a_poison_event_of_the_only_room_ends_as_a_dead_letter() -> None:
    runtime = Runtime(
        lines={"a": line((0 * SECOND, "poison"), (MINUTE, "a1"), (2 * MINUTE, "a2"))},
        receiver=lambda attempt: 500 if attempt.event == "poison" else 200,
    )

    runtime.run(START + 90 * HOUR)

    (parked,) = runtime.dead
    assert parked.event == "poison"
    assert parked.at - START >= WHOLE_SCHEDULE * 0.8
    assert [attempt.event for attempt in runtime.delivered] == ["a1", "a2"]
    assert len(runtime.tries_of("a1")) == 1, "what was accepted does not come again"
    assert not runtime.was_open


def test_a_schedule_is_not_over_sooner_because_an_endpoint_that_may_be_down_is_asked_more_often() -> None:
    runtime = Runtime(
        lines={"a": line((0 * SECOND, "poison")), "b": line((HOUR, "b1"), (2 * HOUR, "b2"))},
        receiver=poisoned("poison"),
    )

    runtime.run(START + 100 * HOUR)

    (parked,) = runtime.dead
    assert parked.at - START >= WHOLE_SCHEDULE * 0.8


def test_two_poison_events_in_a_row_do_not_hold_the_only_room_for_ever() -> None:
    runtime = Runtime(
        lines={
            "a": line(
                *(
                    (assign_sequences * SECOND, name)
                    for assign_sequences, name in enumerate(["bad1", "bad2", "a1", "a2", "a3"])
                )
            )
        },
        receiver=lambda attempt: 500 if attempt.event.startswith("bad") else 200,
    )

    runtime.run(START + 24 * 9 * HOUR)

    assert [attempt.event for attempt in runtime.dead] == ["bad1", "bad2"]
    assert [attempt.event for attempt in runtime.delivered] == ["a1", "a2", "a3"]
    assert not runtime.disabled


def test_an_event_that_is_accepted_in_the_end_is_no_poison() -> None:
    """An endpoint that failed for longer than a schedule takes, and comes back half."""
    outage, count = down((0 * SECOND, 80 * HOUR)), 0

    def receive(attempt: Try) -> Outcome | int:
        nonlocal count
        count += 1
        return 500 if outage(attempt) is Outcome.RETRYABLE or count % 2 else 200

    runtime = Runtime(
        lines={"a": line(*((assign_sequences * SECOND, f"a{assign_sequences}") for assign_sequences in range(6)))},
        receiver=receive,
    )

    runtime.run(START + 24 * 9 * HOUR)

    assert not runtime.dead
    assert [attempt.event for attempt in runtime.delivered] == [f"a{assign_sequences}" for assign_sequences in range(6)]


def test_a_kind_of_event_that_is_poison_does_not_stop_everything_else() -> None:
    """Every room's line stands behind one, so that nothing could ever succeed."""
    rooms = [f"room{assign_sequences}" for assign_sequences in range(8)]
    runtime = Runtime(
        lines={
            room: line((0 * SECOND, f"{room}-joined"), (HOUR, f"{room}-empty"), (2 * HOUR, f"{room}-again"))
            for room in rooms
        },
        receiver=lambda attempt: 500 if attempt.event.endswith("empty") else 200,
    )

    runtime.run(START + 2 * WHOLE_SCHEDULE + 24 * HOUR)

    assert runtime.was_open
    assert not runtime.disabled
    assert sorted(attempt.event for attempt in runtime.dead) == [f"{room}-empty" for room in rooms]
    assert sorted(attempt.event for attempt in runtime.delivered if "again" in attempt.event) == [
        f"{room}-again" for room in rooms
    ]


@pytest.mark.parametrize("response", [Outcome.RETRYABLE, 500, 502, 503, 429])
def test_no_answer_of_an_endpoint_that_is_down_costs_an_event(response: Outcome | int) -> None:
    outage = down((0 * SECOND, 90 * HOUR))
    for rooms in ("a", "abcdefgh"):
        runtime = Runtime(
            lines={room: line((0 * SECOND, f"{room}1"), (0 * SECOND, f"{room}2")) for room in rooms},
            receiver=lambda attempt: response if outage(attempt) is Outcome.RETRYABLE else 200,
        )

        runtime.run(START + 91 * HOUR)

        assert not runtime.dead
        assert len(runtime.delivered) == 2 * len(rooms)


def test_an_endpoint_that_never_answers_again_is_disabled_after_five_days_and_loses_nothing() -> None:
    for rooms in (1, 3, 30):
        runtime = Runtime(
            lines={str(room): line((0 * SECOND, f"{room}-1"), (HOUR, f"{room}-2")) for room in range(rooms)},
            receiver=lambda _: Outcome.RETRYABLE,
        )

        runtime.run(START + 400 * HOUR)

        assert runtime.disabled
        assert 120 * HOUR <= runtime.tries[-1].at - START <= 120 * HOUR + POLICY.retry_schedule[-1] * 1.2
        assert not runtime.dead
        assert sum(len(line.owed) for line in runtime.lines.values()) == 2 * rooms


spans = st.integers(0, 300).map(lambda minutes: minutes * 10 * MINUTE)
outages = st.lists(st.tuples(spans, spans).map(sorted), max_size=4)
histories = st.lists(st.lists(spans, max_size=5), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(histories=histories, outages=outages, poison=st.integers(0, 7), jitter=st.floats(0, 1, exclude_max=True))
def test_whatever_happens_order_holds_and_every_event_has_one_end(
    histories: list[list[timedelta]], outages: list[list[timedelta]], poison: int, jitter: float
) -> None:
    lines = {
        str(room): line(*((at, f"{room}/{assign_sequences}") for assign_sequences, at in enumerate(sorted(times))))
        for room, times in enumerate(histories)
    }
    expected = {room: [event for _, event in line.owed] for room, line in lines.items()}
    is_down = down(*((a, b) for a, b in outages))
    bad = f"{poison}/0"
    runtime = Runtime(
        lines=lines,
        receiver=lambda attempt: Outcome.RETRYABLE if attempt.event == bad else is_down(attempt),
        jitter=jitter,
    )

    runtime.run(START + 60 * 24 * HOUR)

    for room, events in expected.items():
        ended = [attempt.event for attempt in runtime.tries if attempt in runtime.delivered or attempt in runtime.dead]
        waiting = [event for _, event in runtime.lines[room].owed]
        assert [event for event in ended if event.split("/")[0] == room] + waiting == events
    for parked in runtime.dead:
        assert len(runtime.tries_of(parked.event)) >= len(POLICY.retry_schedule) + 1
    if runtime.disabled:
        successes = [attempt.at for attempt in runtime.delivered if attempt.at <= runtime.tries[-1].at]
        assert not successes or runtime.tries[-1].at - successes[-1] >= POLICY.disable_after
    else:
        assert all(event == bad for line in runtime.lines.values() for _, event in line.owed)

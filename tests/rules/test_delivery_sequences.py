"""Many decisions, one after the other: rooms with events, an endpoint with outages, and days that pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.rules.delivery import (
    Acknowledge,
    Circuit,
    CursorState,
    DeadLetter,
    DeliveryPolicy,
    Disable,
    EndpointState,
    Outcome,
    PostResult,
    Retry,
    decide,
)

START = datetime(2026, 11, 23, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
POLICY = DeliveryPolicy()
LONGEST_PROBE_WAIT = POLICY.longest_probe_wait * 1.2


@dataclass(frozen=True, kw_only=True)
class Attempt:
    at: datetime
    room: str
    event: str


Receiver = Callable[[Attempt], Outcome]


@dataclass(kw_only=True)
class Cursor:
    owed: list[tuple[datetime, str]]
    """Events with the time at which they happen."""
    state: CursorState = field(default_factory=CursorState)
    retry_at: datetime = START

    def due_at(self) -> datetime | None:
        return max(self.owed[0][0], self.retry_at) if self.owed else None


@dataclass(kw_only=True)
class Endpoint:
    """One endpoint with its rooms; steps from one due attempt to the next, as the database and the sender would."""

    cursors: dict[str, Cursor]
    receiver: Receiver
    jitter: float = 0.5
    state: EndpointState = field(default_factory=EndpointState)
    now: datetime = START
    disabled: bool = False
    was_open: bool = False
    attempts: list[Attempt] = field(default_factory=list)
    delivered: list[Attempt] = field(default_factory=list)
    dead: list[Attempt] = field(default_factory=list)

    def run(self, until: datetime) -> None:
        while not self.disabled and (due := self.next_due()) is not None and due[0] <= until:
            self.now = max(self.now, due[0])
            self.attempt(due[1])

    def next_due(self) -> tuple[datetime, str] | None:
        dues = ((cursor.due_at(), room) for room, cursor in self.cursors.items())
        earliest = min(((at, room) for at, room in dues if at is not None), default=None)
        return None if earliest is None else (self.state.earliest(earliest[0]), earliest[1])

    def attempt(self, room: str) -> None:
        cursor = self.cursors[room]
        attempt = Attempt(at=self.now, room=room, event=cursor.owed[0][1])
        self.attempts.append(attempt)
        result = PostResult(outcome=self.receiver(attempt), duration=SECOND)
        decision = decide(result, cursor.state, self.state, POLICY, now=self.now, jitter=self.jitter)
        cursor.state, self.state = decision.cursor, decision.endpoint
        self.was_open |= self.state.circuit is Circuit.OPEN
        match decision.step:
            case Acknowledge():
                self.delivered.append(attempt)
                cursor.owed.pop(0)
            case DeadLetter():
                self.dead.append(attempt)
                cursor.owed.pop(0)
            case Retry(at=at):
                cursor.retry_at = at
            case Disable():
                self.disabled = True
        if decision.releases:
            for waiting in self.cursors.values():
                waiting.retry_at = min(waiting.retry_at, self.now)

    def attempts_of(self, event: str) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.event == event]


def cursor(*owed: tuple[timedelta, str]) -> Cursor:
    return Cursor(owed=[(START + after, event) for after, event in owed])


def every(step: timedelta, count: int, name: str) -> Iterable[tuple[timedelta, str]]:
    return ((step * number, f"{name}{number}") for number in range(1, count + 1))


def down(*spans: tuple[timedelta, timedelta]) -> Receiver:
    def receive(attempt: Attempt) -> Outcome:
        since_start = attempt.at - START
        return Outcome.RETRYABLE if any(a <= since_start < b for a, b in spans) else Outcome.DELIVERED

    return receive


def failing_on(*events: str) -> Receiver:
    return lambda attempt: Outcome.RETRYABLE if attempt.event in events else Outcome.DELIVERED


def test_an_event_that_always_fails_does_not_open_the_circuit_while_other_rooms_are_quiet() -> None:
    endpoint = Endpoint(
        cursors={"a": cursor((0 * SECOND, "bad")), "b": cursor((MINUTE, "b1"), (60 * HOUR, "b2"), (90 * HOUR, "b3"))},
        receiver=failing_on("bad"),
    )

    endpoint.run(START + 110 * HOUR)

    assert not endpoint.was_open
    assert [attempt.at - START for attempt in endpoint.delivered] == [MINUTE, 60 * HOUR, 90 * HOUR]
    assert [attempt.event for attempt in endpoint.dead] == ["bad"]


def test_an_event_that_always_fails_does_not_hide_that_the_endpoint_recovered() -> None:
    rooms = [f"room{number}" for number in range(6)]
    outage = down((0 * SECOND, 3 * HOUR))
    endpoint = Endpoint(
        cursors={room: cursor((0 * SECOND, f"{room}-1")) for room in rooms},
        receiver=lambda attempt: Outcome.RETRYABLE if attempt.event == "room0-1" else outage(attempt),
    )

    endpoint.run(START + 4 * HOUR)

    assert sorted(attempt.room for attempt in endpoint.delivered) == rooms[1:]
    assert endpoint.delivered[-1].at - START <= 3 * HOUR + 2 * LONGEST_PROBE_WAIT


spans = st.integers(0, 300).map(lambda minutes: minutes * 10 * MINUTE)
outages = st.lists(st.tuples(spans, spans).map(sorted), max_size=4)
histories = st.lists(st.lists(spans, max_size=5), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(histories=histories, outages=outages, bad_room=st.integers(0, 7), jitter=st.floats(0, 1, exclude_max=True))
def test_events_end_in_order_and_only_a_used_up_schedule_makes_a_dead_letter(
    histories: list[list[timedelta]], outages: list[list[timedelta]], bad_room: int, jitter: float
) -> None:
    cursors = {
        str(room): cursor(*((at, f"{room}/{number}") for number, at in enumerate(sorted(times))))
        for room, times in enumerate(histories)
    }
    expected = {room: [event for _, event in one.owed] for room, one in cursors.items()}
    outage = down(*((a, b) for a, b in outages))
    bad = f"{bad_room}/0"
    endpoint = Endpoint(
        cursors=cursors,
        receiver=lambda attempt: Outcome.RETRYABLE if attempt.event == bad else outage(attempt),
        jitter=jitter,
    )

    endpoint.run(START + 60 * 24 * HOUR)

    for room, events in expected.items():
        ended = [one.event for one in endpoint.attempts if one in endpoint.delivered or one in endpoint.dead]
        waiting = [event for _, event in endpoint.cursors[room].owed]
        assert [event for event in ended if event.split("/")[0] == room] + waiting == events
    for dead in endpoint.dead:
        assert len(endpoint.attempts_of(dead.event)) >= len(POLICY.retry_schedule) + 1
    if endpoint.disabled:
        successes = [one.at for one in endpoint.delivered if one.at <= endpoint.attempts[-1].at]
        assert not successes or endpoint.attempts[-1].at - successes[-1] >= POLICY.disable_after
    else:
        assert all(event == bad for one in endpoint.cursors.values() for _, event in one.owed)

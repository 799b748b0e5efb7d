"""The tables and diagrams of docs/delivery.md are those of bridge/rules/delivery.py."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from bridge.config.durations import parse_duration
from bridge.rules.delivery import (
    Acknowledge,
    Cause,
    Circuit,
    CursorState,
    DeadLetter,
    DeadLetterReason,
    DeliveryPolicy,
    Disable,
    DisableReason,
    EndpointState,
    Outcome,
    PostResult,
    Retry,
    Step,
    decide,
    outcome_of,
)
from tests.docs import pages

START = datetime(2026, 1, 1, tzinfo=UTC)
SHORT_POLICY = DeliveryPolicy(
    retry_schedule=(timedelta(seconds=5), timedelta(minutes=1)),
    refused_schedule=(timedelta(seconds=5),),
    disable_after=timedelta(hours=2),
    circuit_failures=2,
)
BY_OPERATOR = "by an operator"
EDGE = re.compile(r"^ +(?P<start>\S+) --> (?P<end>\S+)(?: : (?P<words>.+))?$", re.MULTILINE)

Happened = tuple[Outcome, Step, Circuit, Circuit]


@dataclass(slots=True)
class RandomWalk:
    """An endpoint with three cursors and random outcomes, for as long as it takes to see every step."""

    random: Random
    outcomes: Sequence[Outcome]
    now: datetime = START
    endpoint: EndpointState = field(default_factory=EndpointState)
    cursors: list[CursorState] = field(default_factory=lambda: [CursorState()] * 3)

    def step(self) -> Happened:
        self.now += timedelta(minutes=self.random.choice((0, 1, 20)))
        cursor = self.random.randrange(len(self.cursors))
        outcome = Outcome.GONE if self.random.random() < 0.002 else self.random.choice(self.outcomes)
        result = PostResult(outcome=outcome, duration=timedelta())
        before = self.endpoint
        decision = decide(result, self.cursors[cursor], before, SHORT_POLICY, now=self.now, jitter=self.random.random())
        self.cursors[cursor], self.endpoint = decision.cursor, decision.endpoint
        if isinstance(decision.step, Disable):  # an operator enables it again
            self.cursors, self.endpoint = [CursorState()] * 3, EndpointState()
        return outcome, decision.step, before.circuit, decision.endpoint.circuit


@pytest.fixture(scope="module")
def happened() -> list[Happened]:
    walks = [
        (Outcome.DELIVERED, Outcome.RETRYABLE, Outcome.RETRYABLE, Outcome.BLOCKED, Outcome.REJECTED, Outcome.REJECTED),
        (Outcome.RETRYABLE, Outcome.BLOCKED, Outcome.REJECTED),
    ]
    return [
        event
        for seed, outcomes in enumerate(walks)
        for walk in [RandomWalk(Random(seed), outcomes)]  # noqa: S311 - a seed, not a secret
        for event in (walk.step() for _ in range(10_000))
    ]


def name_of(step: Step) -> tuple[str, ...]:
    match step:
        case Acknowledge() | Retry():
            return (type(step).__name__,)
        case DeadLetter(reason=reason):
            return ("DeadLetter", reason.value)
        case Disable(reason=disabled):
            return ("Disable", disabled.value)


def edges(diagram: str) -> Iterator[tuple[str, str, frozenset[str]]]:
    for found in EDGE.finditer(pages.block(pages.DELIVERY, f"diagram: {diagram}")):
        yield found["start"], found["end"], frozenset((found["words"] or "").split(", "))


def covered(cell: str) -> Iterable[int]:
    first, _, last = cell.partition("\N{EN DASH}")
    return range(int(first), int(last or first) + 1)


def first_codes(title: str, column: str) -> list[str]:
    """The first code in each row of the table of a section whose first column has this title."""
    return [pages.codes(row[column])[0] for row in pages.table(pages.DELIVERY, title, column)]


def test_the_table_of_statuses_is_that_of_the_code() -> None:
    rows = pages.table(pages.DELIVERY, "What a response means")
    documented = [(status, pages.codes(row["outcome"])[0]) for row in rows for status in covered(row["status"])]

    assert documented == [(status, outcome_of(status).value) for status in range(100, 600)]


def test_every_cause_is_explained() -> None:
    assert sorted(first_codes("What a response means", "cause")) == sorted(cause.value for cause in Cause)


def test_every_step_is_listed_with_the_outcomes_that_lead_to_it(happened: list[Happened]) -> None:
    documented = {
        (outcome, tuple(pages.codes(row["step"])))
        for row in pages.table(pages.DELIVERY, "The life of an event")
        for outcome in pages.codes(row["after"])
    }

    assert documented == {(outcome.value, name_of(step)) for outcome, step, _, _ in happened}


def test_the_diagram_of_an_event_has_the_steps_of_the_code(happened: list[Happened]) -> None:
    by_code: dict[tuple[str, str], set[str]] = {("owed", "dead"): {DeadLetterReason.SKIPPED}}
    for outcome, step, _, _ in happened:
        match step:
            case Acknowledge():
                edge, word = ("owed", "acknowledged"), outcome.value
            case Retry():
                edge, word = ("owed", "owed"), outcome.value
            case DeadLetter(reason=reason):
                edge, word = ("owed", "dead"), reason.value
            case Disable(reason=disabled):
                edge, word = ("owed", "kept"), disabled.value
        by_code.setdefault(edge, set()).add(word)

    drawn = {(start, end): words for start, end, words in edges("event") if start == "owed"}
    assert drawn == by_code


def test_the_diagram_of_an_endpoint_has_the_changes_of_the_code(happened: list[Happened]) -> None:
    by_code = set()
    for _, step, before, after in happened:
        state = "disabled" if isinstance(step, Disable) else after.value
        if state != before.value:
            by_code.add((before.value, state))

    drawn = {(start, end) for start, end, words in edges("endpoint") if BY_OPERATOR not in words and start != "[*]"}
    assert drawn == by_code
    reasons = {words for _, end, words in edges("endpoint") if end == "disabled" and BY_OPERATOR not in words}
    assert reasons == {frozenset(reason.value for reason in DisableReason)}


def test_every_reason_of_a_dead_letter_is_explained() -> None:
    assert sorted(first_codes("Dead letters", "reason")) == sorted(reason.value for reason in DeadLetterReason)


def test_the_defaults_are_those_of_the_policy() -> None:
    policy = DeliveryPolicy()
    rows = pages.table(pages.DELIVERY, "Retries")
    defaults = {
        pages.codes(row["setting"])[0]: tuple(parse_duration(step) for step in row["default"].split()) for row in rows
    }

    assert defaults == {
        "retry_schedule": policy.retry_schedule,
        "refused_schedule": policy.refused_schedule,
        "disable_after": (policy.disable_after,),
        "timeout": (policy.timeout,),
    }

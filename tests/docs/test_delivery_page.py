"""docs/delivery.md says what bridge/rules/delivery.py does: statuses, causes, steps, schedules, both diagrams."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from bridge.config.durations import parse_duration
from bridge.rules.delivery import (
    RETRY_AFTER_CAP,
    RETRY_AFTER_STATUSES,
    Advance,
    Cause,
    Circuit,
    CursorState,
    DeadLetter,
    DeadLetterReason,
    DeliveryPolicy,
    Disable,
    DisableReason,
    EndpointState,
    GiveWay,
    Outcome,
    PostResult,
    Retry,
    Step,
    classify,
    decide,
)
from tests.docs import pages

START = datetime(2026, 1, 1, tzinfo=UTC)
HASTY = DeliveryPolicy(
    retry_schedule=(timedelta(seconds=5), timedelta(minutes=1)),
    refused_schedule=(timedelta(seconds=5),),
    disable_after=timedelta(hours=2),
    circuit_failures=2,
)
EDGE = re.compile(r"^ +(?P<start>\S+) --> (?P<end>\S+)(?: : (?P<words>.+))?$", re.MULTILINE)

Happened = tuple[Outcome, Step, Circuit, Circuit]


@dataclass(slots=True)
class Walk:
    """An endpoint with three lines and any luck, for as long as it takes to see everything that can happen to it."""

    chance: Random
    moods: Sequence[Outcome]
    now: datetime = START
    endpoint: EndpointState = field(default_factory=EndpointState)
    lines: list[CursorState] = field(default_factory=lambda: [CursorState()] * 3)

    def step(self) -> Happened:
        self.now += timedelta(minutes=self.chance.choice((0, 1, 20)))
        line = self.chance.randrange(len(self.lines))
        outcome = Outcome.GONE if self.chance.random() < 0.002 else self.chance.choice(self.moods)
        status = self.chance.choice((500, None)) if outcome is Outcome.RETRYABLE else None
        cause = None if status is None else Cause.STATUS
        result = PostResult(outcome=outcome, duration=timedelta(), status=status, cause=cause)
        before, may_give_way = self.endpoint, self.chance.random() < 0.5
        jitter = self.chance.random()
        decision = decide(
            result, self.lines[line], before, HASTY, may_give_way=may_give_way, now=self.now, jitter=jitter
        )
        self.lines[line], self.endpoint = decision.cursor, decision.endpoint
        if isinstance(decision.step, Disable):
            self.lines, self.endpoint = [CursorState()] * 3, self.endpoint.enabled_again()
        return outcome, decision.step, before.circuit, decision.endpoint.circuit


@pytest.fixture(scope="module")
def happened() -> list[Happened]:
    walks = [
        (Outcome.DELIVERED, Outcome.RETRYABLE, Outcome.RETRYABLE, Outcome.BLOCKED, Outcome.REJECTED, Outcome.REJECTED),
        (Outcome.RETRYABLE, Outcome.BLOCKED, Outcome.REJECTED),
    ]
    return [
        event
        for seed, moods in enumerate(walks)
        for walk in [Walk(Random(seed), moods)]  # noqa: S311 - chance by a seed, not a secret
        for event in (walk.step() for _ in range(10_000))
    ]


def name_of(step: Step) -> tuple[str, ...]:
    match step:
        case Advance() | Retry() | GiveWay():
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


def test_the_table_of_statuses_is_what_the_code_decides() -> None:
    rows = pages.table(pages.DELIVERY, "What an response means")
    documented = [(status, pages.codes(row["outcome"])[0]) for row in rows for status in covered(row["status"])]

    assert documented == [(status, classify(status).value) for status in range(100, 600)]


def test_every_cause_is_explained() -> None:
    causes = section_rows("What an response means", "cause")

    assert set(causes) == {cause.value for cause in Cause}
    assert causes[Cause.BLOCKED] == "`blocked`"


def section_rows(title: str, column: str) -> dict[str, str]:
    """The outcomes by the first column, of the table of a section that has that column."""
    lines = [pages.cells(line) for line in pages.section(pages.DELIVERY, title).splitlines() if line.startswith("|")]
    start = next(place for place, row in enumerate(lines) if row[0] == column)
    return {pages.codes(row[0])[0]: row[1] for row in lines[start + 2 :]}


def test_every_step_is_listed_with_the_verdicts_that_lead_to_it(happened: list[Happened]) -> None:
    documented = {
        (outcome, tuple(pages.codes(row["what happens"])))
        for row in pages.table(pages.DELIVERY, "The life of an event")
        for outcome in pages.codes(row["after"])
    }

    assert documented == {(outcome.value, name_of(step)) for outcome, step, _, _ in happened}


def test_the_walk_saw_every_verdict_and_every_reason(happened: list[Happened]) -> None:
    reasons = {name_of(step)[-1] for _, step, _, _ in happened}

    assert {outcome for outcome, *_ in happened} == set(Outcome)
    assert {*DeadLetterReason, *DisableReason} <= reasons


def test_the_diagram_of_an_event_has_the_steps_of_the_code(happened: list[Happened]) -> None:
    by_code: dict[tuple[str, str], set[str]] = {}
    for outcome, step, _, _ in happened:
        match step:
            case Advance():
                edge, word = ("owed", "acknowledged"), outcome.value
            case Retry() | GiveWay():
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

    drawn = {(start, end) for start, end, words in edges("endpoint") if "by a person" not in words and start != "[*]"}
    assert drawn == by_code
    reasons = {words for start, end, words in edges("endpoint") if end == "disabled" and "by a person" not in words}
    assert reasons == {frozenset(reason.value for reason in DisableReason)}


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


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    policy = DeliveryPolicy()
    retries, circuit = pages.section(pages.DELIVERY, "Retries"), pages.section(pages.DELIVERY, "The circuit")

    spent = sum(policy.retry_schedule, timedelta())
    assert f"{len(policy.retry_schedule)} retries over {round(spent / timedelta(hours=1))} hours" in retries
    assert all(str(status) in retries for status in RETRY_AFTER_STATUSES)
    assert f"up to {RETRY_AFTER_CAP // timedelta(hours=1)} hours" in retries
    assert policy.circuit_failures == 5
    assert circuit.lstrip().startswith("Five events")
    assert f"every {policy.probe_at_most // timedelta(minutes=1)} minutes" in circuit

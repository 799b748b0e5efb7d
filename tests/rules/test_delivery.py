"""The decision after one response: the tables of docs/delivery.md, case by case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bridge.rules.delivery import (
    Acknowledge,
    Cause,
    Circuit,
    CursorState,
    DeadLetter,
    DeadLetterReason,
    Decision,
    DeliveryPolicy,
    Disable,
    DisableReason,
    EndpointState,
    Outcome,
    PostResult,
    Retry,
    classify_response,
    decide,
    outcome_of,
    retry_redelivery,
)

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
POLICY = DeliveryPolicy()
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
MIDDLE = 0.5
"""The jitter that leaves a step as it is."""


def result(outcome: Outcome, *, retry_after: timedelta | None = None) -> PostResult:
    return PostResult(outcome=outcome, duration=SECOND, retry_after=retry_after)


RETRYABLE, REJECTED, DELIVERED = (result(v) for v in (Outcome.RETRYABLE, Outcome.REJECTED, Outcome.DELIVERED))


def after(
    posted: PostResult,
    cursor: CursorState | None = None,
    endpoint: EndpointState | None = None,
    *,
    policy: DeliveryPolicy = POLICY,
    jitter: float = MIDDLE,
) -> Decision:
    return decide(posted, cursor or CursorState(), endpoint or EndpointState(), policy, now=NOW, jitter=jitter)


@pytest.mark.parametrize(
    ("outcome", "statuses"),
    [
        (Outcome.DELIVERED, [200, 201, 202, 204, 226, 299]),
        (Outcome.RETRYABLE, range(300, 400)),
        (Outcome.RETRYABLE, [*range(401, 408), 421, 425]),
        (Outcome.RETRYABLE, [408, 429, *range(500, 600)]),
        (Outcome.RETRYABLE, [101, 199, 600, 999]),
        (Outcome.GONE, [410]),
        (Outcome.REJECTED, [400, 409, *range(411, 421), *range(422, 425), *range(426, 429), *range(430, 500)]),
    ],
)
def test_every_status_has_its_outcome(outcome: Outcome, statuses: Iterable[int]) -> None:
    assert {outcome_of(status) for status in statuses} == {outcome}


def test_only_a_success_needs_no_details() -> None:
    classified = classify_response(
        204, headers={"location": "/x", "retry-after": "9"}, body=b"ok", now=NOW, duration=SECOND
    )

    assert classified == PostResult(outcome=Outcome.DELIVERED, status=204, duration=SECOND, response=b"ok")


def test_a_redirect_is_not_followed_and_its_target_is_escaped() -> None:
    target = "https://elsewhere.example/\x1b[31m"

    classified = classify_response(302, headers={"location": target}, body=b"", now=NOW, duration=SECOND)

    assert classified.outcome is Outcome.RETRYABLE
    assert classified.cause is Cause.STATUS
    assert classified.detail == r"status 302, redirect to 'https://elsewhere.example/\x1b[31m' not followed"


@pytest.mark.parametrize(("status", "counts"), [(429, True), (503, True), (500, False), (400, False), (301, False)])
def test_retry_after_counts_on_429_and_503_only(status: int, *, counts: bool) -> None:
    classified = classify_response(status, headers={"retry-after": "120"}, body=b"", now=NOW, duration=SECOND)

    assert classified.retry_after == (2 * MINUTE if counts else None)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(("last", "step"), [(DAY, Disable), (2 * DAY, Retry)])
def test_time_in_which_nothing_was_tried_does_not_disable_an_endpoint(
    last: timedelta, step: type, *, is_open: bool
) -> None:
    cursor = CursorState(failed_attempts=1, last_failed_at=NOW - (10 * DAY if is_open else last))
    endpoint = EndpointState(failing_since=NOW - 30 * DAY, failures_in_row=1)
    if is_open:
        endpoint = replace(endpoint, circuit=Circuit.OPEN, paused_until=NOW - last)

    decision = after(RETRYABLE, cursor, endpoint)

    assert isinstance(decision.step, step)
    assert decision.endpoint.failing_since == (NOW if step is Retry else NOW - 30 * DAY)


def test_a_policy_without_a_retry_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="retry_schedule"):
        DeliveryPolicy(retry_schedule=())


@pytest.mark.parametrize(
    ("endpoint", "releases"),
    [
        (EndpointState(), False),
        (EndpointState(failures_in_row=4, last_success_at=NOW - DAY), False),
        (EndpointState(failures_in_row=5, circuit=Circuit.OPEN, last_success_at=NOW - DAY), True),
    ],
)
def test_the_success_that_closes_the_circuit_makes_everything_due(endpoint: EndpointState, *, releases: bool) -> None:
    decision = after(DELIVERED, endpoint=endpoint)

    assert decision.releases == releases
    assert decision.endpoint.circuit is Circuit.CLOSED


@pytest.mark.parametrize("outcome", [Outcome.RETRYABLE, Outcome.BLOCKED])
@pytest.mark.parametrize(("failed_attempts", "step"), list(enumerate(POLICY.retry_schedule)))
@pytest.mark.parametrize("endpoint", [EndpointState(), EndpointState(last_success_at=NOW - SECOND)])
def test_a_failed_event_waits_by_the_retry_schedule(
    outcome: Outcome, failed_attempts: int, step: timedelta, endpoint: EndpointState
) -> None:
    failed = CursorState(failed_attempts=failed_attempts, last_failed_at=NOW - MINUTE)

    decision = after(result(outcome), failed, endpoint)

    assert decision.step == Retry(at=NOW + step)
    assert decision.cursor == CursorState(failed_attempts=failed_attempts + 1, last_failed_at=NOW)


@pytest.mark.parametrize("endpoint", [EndpointState(), EndpointState(last_success_at=NOW - SECOND)])
def test_an_event_that_used_up_its_schedule_while_the_circuit_is_closed_is_a_dead_letter(
    endpoint: EndpointState,
) -> None:
    decision = after(RETRYABLE, CursorState(failed_attempts=13, last_failed_at=NOW - DAY), endpoint)

    assert decision.step == DeadLetter(reason=DeadLetterReason.EXHAUSTED)
    assert decision.cursor == CursorState()


def test_nothing_is_given_up_while_the_circuit_is_open() -> None:
    endpoint = EndpointState(circuit=Circuit.OPEN, failures_in_row=5, failing_since=NOW - DAY)
    cursor = CursorState(failed_attempts=13, last_failed_at=NOW - MINUTE)

    decision = after(RETRYABLE, cursor, endpoint)

    assert isinstance(decision.step, Retry)
    assert decision.cursor == CursorState(failed_attempts=13, last_failed_at=NOW)


@pytest.mark.parametrize(
    ("rejections", "step"),
    [
        (0, Retry(at=NOW + 5 * SECOND)),
        (1, Retry(at=NOW + 5 * MINUTE)),
        (2, DeadLetter(reason=DeadLetterReason.REJECTED)),
    ],
)
def test_a_rejected_event_is_tried_twice_more_and_becomes_a_dead_letter(
    rejections: int, step: Retry | DeadLetter
) -> None:
    decision = after(REJECTED, CursorState(rejections=rejections))

    assert decision.step == step
    assert decision.cursor == (CursorState(rejections=rejections + 1) if rejections < 2 else CursorState())
    assert decision.endpoint.failures_in_row == 0


def test_without_a_refused_schedule_a_rejected_event_is_a_dead_letter_at_once() -> None:
    decision = after(REJECTED, policy=DeliveryPolicy(refused_schedule=()))

    assert decision.step == DeadLetter(reason=DeadLetterReason.REJECTED)


def test_a_gone_endpoint_is_disabled_at_once_and_keeps_its_event() -> None:
    cursor = CursorState(failed_attempts=2)

    decision = after(result(Outcome.GONE), cursor)

    assert decision.step == Disable(reason=DisableReason.GONE)
    assert decision.cursor == cursor


def test_an_event_counts_once_in_the_row_of_failures_until_the_next_success() -> None:
    first = after(RETRYABLE)
    again = after(RETRYABLE, first.cursor, first.endpoint)
    ended = after(DELIVERED, endpoint=again.endpoint)
    failed_before = CursorState(failed_attempts=2, last_failed_at=NOW - MINUTE)

    assert [first.endpoint.failures_in_row, again.endpoint.failures_in_row] == [1, 1]
    assert after(RETRYABLE, failed_before, ended.endpoint).endpoint.failures_in_row == 1


def test_the_fifth_failing_event_opens_the_circuit_and_pauses_the_endpoint() -> None:
    endpoint = EndpointState(failures_in_row=4, failing_since=NOW - MINUTE)

    decision = after(RETRYABLE, endpoint=endpoint)

    assert decision.endpoint.circuit is Circuit.OPEN
    assert decision.endpoint.paused_until == NOW + 5 * SECOND
    assert decision.step == Retry(at=NOW + 5 * SECOND)


def test_a_failed_probe_goes_to_the_end_of_the_queue_and_does_not_count_for_the_event() -> None:
    endpoint = EndpointState(
        circuit=Circuit.OPEN, failures_in_row=5, probes=1, paused_until=NOW, failing_since=NOW - DAY
    )
    cursor = CursorState(failed_attempts=2, last_failed_at=NOW - MINUTE)

    decision = after(RETRYABLE, cursor, endpoint)

    assert decision.step == Retry(at=NOW + 30 * SECOND)
    assert decision.endpoint.paused_until == NOW + 30 * SECOND
    assert decision.endpoint.probes == 2
    assert decision.cursor.failed_attempts == 2


@pytest.mark.parametrize(("probes", "wait"), [(0, 5 * SECOND), (2, 2 * MINUTE), (3, 5 * MINUTE), (50, 5 * MINUTE)])
def test_probes_follow_the_schedule_but_wait_five_minutes_at_most(probes: int, wait: timedelta) -> None:
    endpoint = EndpointState(circuit=Circuit.OPEN, failures_in_row=5, probes=probes)

    assert after(RETRYABLE, endpoint=endpoint).endpoint.paused_until == NOW + wait


def test_an_attempt_under_way_when_the_circuit_opened_is_no_probe() -> None:
    paused = NOW + 5 * SECOND
    endpoint = EndpointState(circuit=Circuit.OPEN, failures_in_row=5, probes=1, paused_until=paused, failing_since=NOW)

    decision = after(RETRYABLE, endpoint=endpoint)

    assert decision.endpoint == endpoint
    assert decision.step == Retry(at=paused)


def test_a_rejection_does_not_close_the_circuit() -> None:
    endpoint = EndpointState(circuit=Circuit.OPEN, failures_in_row=5, probes=2, paused_until=NOW)

    decision = after(REJECTED, endpoint=endpoint)

    assert decision.endpoint.circuit is Circuit.OPEN
    assert decision.step == Retry(at=NOW + 2 * MINUTE)


def test_retry_after_pauses_the_whole_endpoint_and_a_success_does_not_shorten_it() -> None:
    asked = result(Outcome.RETRYABLE, retry_after=10 * MINUTE)

    paused = after(asked)
    then = after(DELIVERED, endpoint=paused.endpoint)

    assert paused.step == Retry(at=NOW + 10 * MINUTE)
    assert paused.endpoint.paused_until == then.endpoint.paused_until == NOW + 10 * MINUTE


def test_a_later_shorter_retry_after_does_not_shorten_an_earlier_longer_one() -> None:
    endpoint = EndpointState(paused_until=NOW + 10 * MINUTE)

    assert after(result(Outcome.RETRYABLE, retry_after=SECOND), endpoint=endpoint).endpoint == EndpointState(
        paused_until=NOW + 10 * MINUTE, failures_in_row=1, failing_since=NOW
    )


@pytest.mark.parametrize("posted", [RETRYABLE, REJECTED, result(Outcome.BLOCKED)])
@pytest.mark.parametrize(
    ("failing_since", "cursor", "circuit", "disabled"),
    [
        (NOW - 5 * DAY, CursorState(failed_attempts=1), Circuit.CLOSED, True),
        (NOW - 5 * DAY, CursorState(rejections=1), Circuit.CLOSED, True),
        (NOW - 5 * DAY + SECOND, CursorState(failed_attempts=1), Circuit.CLOSED, False),
        (NOW - 9 * DAY, CursorState(), Circuit.CLOSED, False),  # the first failure after quiet days
        (NOW - 5 * DAY, CursorState(), Circuit.OPEN, True),
    ],
)
def test_an_endpoint_is_disabled_after_five_days_without_a_success(
    posted: PostResult, failing_since: datetime, cursor: CursorState, circuit: Circuit, *, disabled: bool
) -> None:
    endpoint = EndpointState(failing_since=failing_since, circuit=circuit)

    step = after(posted, cursor, endpoint).step

    assert (step == Disable(reason=DisableReason.FAILING)) == disabled


@pytest.mark.parametrize(
    ("outcome", "tries", "wait"),
    [
        (Outcome.DELIVERED, 0, None),
        (Outcome.GONE, 0, None),
        (Outcome.RETRYABLE, 0, 5 * SECOND),
        (Outcome.BLOCKED, 12, DAY),
        (Outcome.RETRYABLE, 13, None),
        (Outcome.REJECTED, 1, 5 * MINUTE),
        (Outcome.REJECTED, 2, None),
    ],
)
def test_a_redelivery_follows_the_same_schedules_and_then_ends(
    outcome: Outcome, tries: int, wait: timedelta | None
) -> None:
    at = retry_redelivery(result(outcome), tries, POLICY, now=NOW, jitter=MIDDLE)

    assert at == (None if wait is None else NOW + wait)


spans = st.timedeltas(min_value=timedelta(0), max_value=10 * DAY)
moments = st.none() | spans.map(lambda span: NOW - span)
jitters = st.floats(min_value=0, max_value=1, exclude_max=True)
cursors = st.builds(
    CursorState,
    failed_attempts=st.integers(0, 20),
    rejections=st.integers(0, 3),
    last_failed_at=moments,
)
endpoints = st.builds(
    EndpointState,
    failures_in_row=st.integers(0, 9),
    failing_since=moments,
    last_success_at=moments,
    circuit=st.sampled_from(Circuit),
    probes=st.integers(0, 30),
    paused_until=st.none() | st.timedeltas(min_value=-DAY, max_value=DAY).map(lambda span: NOW + span),
)
results = st.builds(
    PostResult,
    outcome=st.sampled_from(Outcome),
    duration=st.just(SECOND),
    retry_after=st.none() | st.timedeltas(min_value=timedelta(0), max_value=DAY),
)


@given(posted=results, cursor=cursors, endpoint=endpoints, jitter=jitters)
def test_no_attempt_is_made_before_retry_after_or_during_a_pause(
    posted: PostResult, cursor: CursorState, endpoint: EndpointState, jitter: float
) -> None:
    decision = after(posted, cursor, endpoint, jitter=jitter)

    if isinstance(decision.step, Retry):
        assert decision.step.at >= NOW + (posted.retry_after or timedelta(0))
        assert endpoint.paused_until is None or decision.step.at >= endpoint.paused_until
        assert decision.endpoint.paused_until is None or decision.step.at >= decision.endpoint.paused_until


@given(cursor=cursors, endpoint=endpoints, jitter=jitters)
def test_a_success_always_acknowledges_and_resets(cursor: CursorState, endpoint: EndpointState, jitter: float) -> None:
    decision = after(DELIVERED, cursor, endpoint, jitter=jitter)

    assert decision.step == Acknowledge()
    assert decision.cursor == CursorState()
    assert decision.endpoint == EndpointState(last_success_at=NOW, paused_until=endpoint.paused_until)


@given(posted=results, cursor=cursors, endpoint=endpoints)
def test_an_endpoint_that_succeeded_lately_is_disabled_only_by_a_410(
    posted: PostResult, cursor: CursorState, endpoint: EndpointState
) -> None:
    assume(endpoint.failing_since is None or NOW - endpoint.failing_since < POLICY.disable_after)

    step = after(posted, cursor, endpoint).step

    assert isinstance(step, Disable) == (posted.outcome is Outcome.GONE)


@given(posted=results, cursor=cursors, endpoint=endpoints)
def test_only_a_success_closes_the_circuit(posted: PostResult, cursor: CursorState, endpoint: EndpointState) -> None:
    decision = after(posted, cursor, endpoint)

    if endpoint.circuit is Circuit.OPEN and posted.outcome is not Outcome.DELIVERED:
        assert decision.endpoint.circuit is Circuit.OPEN
        assert not decision.releases

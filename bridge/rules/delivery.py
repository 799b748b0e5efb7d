"""The meaning of a response to a delivery, and what happens next: every rule about both is in this file.

`classify_response` turns a response into a `PostResult`. `decide` turns a result, the failures of the event that is
next at a cursor (`CursorState`) and the health of the endpoint (`EndpointState`) into a `Decision`. Pure: `now` and
jitter are arguments. docs/delivery.md explains the rules:

| outcome | the event | the endpoint |
|---|---|---|
| delivered | acknowledged | failures forgotten; an open circuit closes, and everything it owes is due at once |
| rejected | tried again by `refused_schedule`, then a dead letter | failing |
| retryable, blocked; circuit closed | tried again by `retry_schedule`, then a dead letter | failing |
| retryable, blocked; circuit open | waits; its schedule does not advance | paused until the next probe |
| gone (status 410) | stays owed | disabled at once |

- The circuit opens when `circuit_failures` different events fail one after the other without a success in between. An
  event counts once, so that one bad event cannot open it. While it is open, one cursor at a time probes the endpoint:
  the one that waited longest; a failed probe goes to the end of the queue.
- `Retry-After` of 429 and 503 pauses the whole endpoint; a success does not shorten it.
- Without one success for `disable_after`, the endpoint is disabled and its backlog kept. While the circuit is closed,
  it takes an event that failed before: the first failure after quiet days is not enough. A time in which nothing was
  tried (the bridge was stopped, or the clock was set forward) does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from bridge.rules.backoff import JITTER, LONGEST_RETRY_AFTER, jittered, parse_retry_after

RETRY_AFTER_STATUSES: Final = frozenset({429, 503})


class Outcome(StrEnum):
    """Outcome of an attempt: `rejected` concerns the event, all others but `delivered` the endpoint."""

    DELIVERED = "delivered"
    RETRYABLE = "retryable"
    REJECTED = "rejected"
    GONE = "gone"
    BLOCKED = "blocked"


OUTCOMES: Final[tuple[tuple[range, Outcome], ...]] = (
    (range(200, 300), Outcome.DELIVERED),
    (range(401, 409), Outcome.RETRYABLE),
    (range(410, 411), Outcome.GONE),
    (range(421, 422), Outcome.RETRYABLE),
    (range(425, 426), Outcome.RETRYABLE),
    (range(429, 430), Outcome.RETRYABLE),
    (range(400, 500), Outcome.REJECTED),
)
"""Outcome by status; the first range that has it counts. Any other status is retryable.

So are those about the endpoint's URL, route or login (3xx, 401 to 407, 421, 425): the event is not to blame, and a
deployment that responds 404 for ten minutes must lose nothing.
"""


class Cause(StrEnum):
    """Why an attempt did not deliver, in one word."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    BLOCKED = "blocked"
    RESET = "reset"
    PROTOCOL = "protocol"
    STATUS = "status"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostResult:
    """Result of one POST; `response` is the beginning of the response's body."""

    outcome: Outcome
    duration: timedelta
    status: int | None = None
    cause: Cause | None = None
    detail: str = ""
    retry_after: timedelta | None = None
    response: bytes = b""


class Circuit(StrEnum):
    """Open: the endpoint counts as down and is only probed."""

    CLOSED = "closed"
    OPEN = "open"


class RedeliveryState(StrEnum):
    """State of a redelivery."""

    OWED = "owed"
    DONE = "done"
    FAILED = "failed"


class DeadLetterReason(StrEnum):
    """Why an event became a dead letter: rejected by the endpoint, retries used up, or skipped by an operator."""

    REJECTED = "rejected"
    EXHAUSTED = "exhausted"
    SKIPPED = "skipped"


class DisableReason(StrEnum):
    """Why an endpoint was disabled: status 410, or no success for `disable_after`."""

    GONE = "gone"
    FAILING = "failing"


def _steps(text: str) -> tuple[timedelta, ...]:
    units = {"s": "seconds", "m": "minutes", "h": "hours"}
    return tuple(timedelta(**{units[step[-1]]: int(step[:-1])}) for step in text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryPolicy:
    """Time-outs and schedules (`[delivery]`).

    `circuit_failures` failing events in a row open the circuit; probes follow `retry_schedule` with waits of at most
    `longest_probe_wait` (or the first step, if that is longer).

    Raises:
        ValueError: `retry_schedule` is empty.
    """

    timeout: timedelta = timedelta(seconds=15)
    retry_schedule: tuple[timedelta, ...] = _steps("5s 30s 2m 5m 15m 30m 1h 2h 5h 10h 14h 20h 24h")
    refused_schedule: tuple[timedelta, ...] = _steps("5s 5m")
    disable_after: timedelta = timedelta(days=5)
    rotation_grace: timedelta = timedelta(hours=24)
    circuit_failures: int = 5
    longest_probe_wait: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        if not self.retry_schedule:
            raise ValueError("retry_schedule needs at least one step")

    def probe_wait(self, probes: int) -> timedelta:
        """The wait after so many failed probes."""
        step = self.retry_schedule[min(probes, len(self.retry_schedule) - 1)]
        return min(step, max(self.longest_probe_wait, self.retry_schedule[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorState:
    """Failures of the event that is next at a cursor; all zero for an event that was not tried yet."""

    failed_attempts: int = 0
    rejections: int = 0
    last_failed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointState:
    """Health of an endpoint over all its rooms. No attempt is made before `paused_until`."""

    failures_in_row: int = 0
    failing_since: datetime | None = None
    last_success_at: datetime | None = None
    circuit: Circuit = Circuit.CLOSED
    probes: int = 0
    paused_until: datetime | None = None

    def is_paused(self, now: datetime) -> bool:
        """Whether no attempt may be made now. A pause longer than any rule makes is from a wrong clock."""
        return self.paused_until is not None and now < self.paused_until <= now + LONGEST_RETRY_AFTER

    def earliest(self, at: datetime) -> datetime:
        """The time `at`, or the end of the pause if that is later."""
        return at if self.paused_until is None else max(self.paused_until, at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge:
    """The event is done with; the cursor moves past it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The event is tried again at this time; its room waits for it."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """The event is parked for the operator; the cursor moves past it."""

    reason: DeadLetterReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Disable:
    """The endpoint gets nothing more until it is enabled; its backlog stays, this event included."""

    reason: DisableReason


Step = Acknowledge | Retry | DeadLetter | Disable


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Consequences of an attempt, to be written in one transaction.

    `releases`: the circuit closed, so every cursor of the endpoint that waits for a retry is due at once.
    """

    step: Step
    cursor: CursorState
    endpoint: EndpointState
    releases: bool = False


def outcome_of(status: int) -> Outcome:
    """Outcome of a response with this status."""
    return next((outcome for statuses, outcome in OUTCOMES if status in statuses), Outcome.RETRYABLE)


def classify_response(
    status: int, *, headers: Mapping[str, str], body: bytes, now: datetime, duration: timedelta
) -> PostResult:
    """Result of an attempt that got a response.

    Args:
        status: of the response.
        headers: by lower-case name: `retry-after` counts on 429 and 503, `location` is only shown.
        body: the beginning of it.
        now: time of the response.
        duration: of the attempt.
    """
    outcome = outcome_of(status)
    if outcome is Outcome.DELIVERED:
        return PostResult(outcome=outcome, status=status, duration=duration, response=body)
    location = headers.get("location")
    return PostResult(
        outcome=outcome,
        status=status,
        cause=Cause.STATUS,
        detail=f"status {status}" + (f", redirect to {location!a} not followed" if location else ""),
        retry_after=parse_retry_after(headers.get("retry-after"), now) if status in RETRY_AFTER_STATUSES else None,
        duration=duration,
        response=body,
    )


def decide(
    result: PostResult,
    cursor: CursorState,
    endpoint: EndpointState,
    policy: DeliveryPolicy,
    *,
    now: datetime,
    jitter: float,
) -> Decision:
    """Decide the consequences of an attempt.

    Args:
        result: of the attempt.
        cursor: before the attempt.
        endpoint: before the attempt.
        policy: schedules and limits.
        now: time of the result.
        jitter: uniform in [0, 1): a delay is its step ± 20 %, but never ends before a pause of the endpoint.
    """
    match result.outcome:
        case Outcome.DELIVERED:
            return _after_success(endpoint, now)
        case Outcome.GONE:
            gone = replace(endpoint, failing_since=endpoint.failing_since or now)
            return Decision(step=Disable(reason=DisableReason.GONE), cursor=cursor, endpoint=gone)
        case Outcome.REJECTED | Outcome.RETRYABLE | Outcome.BLOCKED:
            if _was_idle(cursor, endpoint, policy, now):
                endpoint = replace(endpoint, failing_since=now)
            failing = _failing(result, endpoint, policy, now, jitter)
    if _has_failed_too_long(cursor, failing, policy, now):
        return Decision(step=Disable(reason=DisableReason.FAILING), cursor=cursor, endpoint=failing)
    if result.outcome is Outcome.REJECTED:
        return _after_rejection(cursor, failing, policy, now, jitter)
    if failing.circuit is Circuit.OPEN:
        failed = replace(cursor, last_failed_at=now)
        return Decision(step=Retry(at=failing.earliest(now)), cursor=failed, endpoint=failing)
    return _after_failure(cursor, failing, policy, now, jitter)


def retry_redelivery(
    result: PostResult, attempts: int, policy: DeliveryPolicy, *, now: datetime, jitter: float
) -> datetime | None:
    """The time of the next attempt at a redelivery; None if it has ended. The schedules are those of live events.

    Args:
        result: of the attempt.
        attempts: of this redelivery before this one.
        policy: schedules.
        now: time of the result.
        jitter: uniform in [0, 1).
    """
    match result.outcome:
        case Outcome.DELIVERED | Outcome.GONE:
            return None
        case Outcome.REJECTED:
            schedule = policy.refused_schedule
        case Outcome.RETRYABLE | Outcome.BLOCKED:
            schedule = policy.retry_schedule
    if attempts >= len(schedule):
        return None
    return now + max(jittered(schedule[attempts], jitter), result.retry_after or timedelta())


def _after_success(endpoint: EndpointState, now: datetime) -> Decision:
    return Decision(
        step=Acknowledge(),
        cursor=CursorState(),
        endpoint=EndpointState(last_success_at=now, paused_until=endpoint.paused_until),
        releases=endpoint.circuit is Circuit.OPEN,
    )


def _failing(
    result: PostResult, endpoint: EndpointState, policy: DeliveryPolicy, now: datetime, jitter: float
) -> EndpointState:
    failing = replace(endpoint, failing_since=endpoint.failing_since or now)
    if failing.circuit is Circuit.OPEN:
        failing = _pause_until_next_probe(failing, policy, now, jitter)
    if result.retry_after is not None:
        failing = replace(failing, paused_until=failing.earliest(now + result.retry_after))
    return failing


def _after_rejection(
    cursor: CursorState, endpoint: EndpointState, policy: DeliveryPolicy, now: datetime, jitter: float
) -> Decision:
    if cursor.rejections >= len(policy.refused_schedule):
        return Decision(step=DeadLetter(reason=DeadLetterReason.REJECTED), cursor=CursorState(), endpoint=endpoint)
    at = now + jittered(policy.refused_schedule[cursor.rejections], jitter)
    rejected = replace(cursor, rejections=cursor.rejections + 1)
    return Decision(step=Retry(at=endpoint.earliest(at)), cursor=rejected, endpoint=endpoint)


def _after_failure(
    cursor: CursorState, endpoint: EndpointState, policy: DeliveryPolicy, now: datetime, jitter: float
) -> Decision:
    """The circuit is closed: the failure may open it, counts for the event, or is the event's last."""
    in_row = endpoint.failures_in_row + (0 if _is_counted(cursor, endpoint) else 1)
    endpoint = replace(endpoint, failures_in_row=in_row)
    failed = replace(cursor, last_failed_at=now)
    if in_row >= policy.circuit_failures:
        opened = _pause_until_next_probe(replace(endpoint, circuit=Circuit.OPEN, probes=0), policy, now, jitter)
        return Decision(step=Retry(at=opened.earliest(now)), cursor=failed, endpoint=opened)
    if cursor.failed_attempts >= len(policy.retry_schedule):
        return Decision(step=DeadLetter(reason=DeadLetterReason.EXHAUSTED), cursor=CursorState(), endpoint=endpoint)
    wait = jittered(policy.retry_schedule[cursor.failed_attempts], jitter)
    failed = replace(failed, failed_attempts=cursor.failed_attempts + 1)
    return Decision(step=Retry(at=endpoint.earliest(now + wait)), cursor=failed, endpoint=endpoint)


def _pause_until_next_probe(
    endpoint: EndpointState, policy: DeliveryPolicy, now: datetime, jitter: float
) -> EndpointState:
    if endpoint.is_paused(now):
        return endpoint  # the attempt was started before the circuit opened: it was no probe
    wait = jittered(policy.probe_wait(endpoint.probes), jitter)
    return replace(endpoint, probes=endpoint.probes + 1, paused_until=now + wait)


def _has_failed_too_long(cursor: CursorState, endpoint: EndpointState, policy: DeliveryPolicy, now: datetime) -> bool:
    has_failed_before = endpoint.circuit is Circuit.OPEN or cursor != CursorState()
    return has_failed_before and now - (endpoint.failing_since or now) >= policy.disable_after


def _was_idle(cursor: CursorState, endpoint: EndpointState, policy: DeliveryPolicy, now: datetime) -> bool:
    """Whether the attempt before this one is longer ago than any wait, so that it was not the endpoint that delayed."""
    last = endpoint.paused_until if endpoint.circuit is Circuit.OPEN else cursor.last_failed_at
    longest = max(LONGEST_RETRY_AFTER, *policy.retry_schedule) * (1 + JITTER)
    return last is not None and now - last > longest


def _is_counted(cursor: CursorState, endpoint: EndpointState) -> bool:
    """Whether this event is already one of the failures in a row."""
    if cursor.last_failed_at is None:
        return False
    return endpoint.last_success_at is None or cursor.last_failed_at >= endpoint.last_success_at

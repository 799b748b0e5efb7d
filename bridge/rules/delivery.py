"""What an response to a delivery means, and what happens next: everything about both must live here, in this file.

`judge` turns an response into an `PostResult`. `decide` turns an result, the failures of the event at the head of a room's
line (`CursorState`) and the health of the endpoint (`EndpointState`) into the next step. Pure: `now` and jitter are
arguments, nothing is remembered here. The rules are DESIGN section 3 and the table of webhooks.md section 2:

- An event that the endpoint refuses is tried by `refused_schedule`, then dead-lettered, and its room goes on.
- An event in trouble waits by `retry_schedule`. After the whole schedule it is a dead letter if the endpoint
  otherwise works: it succeeded since the event's first failure, and no other event failed since. If not, the event
  waits on with the last step: nothing is dropped because its endpoint is down.
- As long as nothing shows that the endpoint otherwise works, no wait is longer than `probe_at_most` (or the first step,
  if that is longer): an endpoint with few rooms must not be noticed later to be back than one with many. The schedule
  is not over sooner for that.
- Where every line stands behind an event that fails, nothing could ever show that the endpoint works. So an event that
  has failed as often and for as long as its whole schedule takes, and is answered with a server's error once more,
  *gives way*: another event of its line is sent at once. If that one is accepted, the event before it is tried a last
  time; if it fails in that way again, it is the poison, and a dead letter. If not, it waits as before.
- `failures_in_row` counts events that got into trouble one after the other without a success between. An event
  counts once however often it fails, so a poison event alone can never open the circuit for the other rooms.
- `circuit_failures` of them open the circuit. Then no failure is held against an event; one cursor at a time, the
  one with the earliest next attempt, probes the endpoint, and goes to the back of the line when it fails.
- A success closes the circuit, and all that got into trouble since the success before is due at once, its schedule
  started anew. What was in trouble even then keeps its own time: its own failures, not an outage, made it wait.
- `Retry-After` of 429 and 503 speaks for the endpoint: none of its cursors is tried before. Successes do not lift it.
- Without one success for `disable_after`, the endpoint is disabled; its backlog stays. The first failure of an event
  after quiet days does not suffice: while the circuit is closed, it takes an event that has failed before.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from itertools import accumulate
from typing import Final

RETRY_AFTER_STATUSES: Final = frozenset({429, 503})
ABOUT_THE_ENDPOINT: Final = frozenset({408, 429, 502, 503, 504})
"""Trouble that no event can be to blame for."""
RETRY_AFTER_CAP: Final = timedelta(hours=24)
JITTER: Final = 0.2
EPOCH: Final = datetime.fromtimestamp(0, tz=UTC)

_MAX_DIGITS: Final = 9


class Outcome(StrEnum):
    """What one attempt says: about the event (refused), or about the endpoint (all others)."""

    DELIVERED = "delivered"
    RETRYABLE = "retryable"
    REJECTED = "refused"
    GONE = "gone"
    BLOCKED = "blocked"


class Cause(StrEnum):
    """Why an attempt did not deliver, in the one word that an operator looks for."""

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
    """One POST and what became of it; `response` is the beginning of the body, raw."""

    outcome: Outcome
    duration: timedelta
    status: int | None = None
    cause: Cause | None = None
    detail: str = ""
    retry_after: timedelta | None = None
    response: bytes = b""


class Circuit(StrEnum):
    """Open: the endpoint is thought to be down, and only probed."""

    CLOSED = "closed"
    OPEN = "open"


class DeadLetterReason(StrEnum):
    """Why an event was parked: the endpoint refused it, or its retries are used up."""

    REJECTED = "refused"
    EXHAUSTED = "exhausted"


class DisableReason(StrEnum):
    """Why an endpoint gets nothing any more: it said 410, or nothing succeeded for `disable_after`."""

    GONE = "gone"
    FAILING = "failing"


def _steps(text: str) -> tuple[timedelta, ...]:
    units = {"s": "seconds", "m": "minutes", "h": "hours"}
    return tuple(timedelta(**{units[step[-1]]: int(step[:-1])}) for step in text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryPolicy:
    """How long and how often is tried (CONTRACT section 3, `[delivery]`).

    `circuit_failures` troubled events in a row open the circuit; probes follow `retry_schedule`, but wait no longer
    than `probe_at_most` (or the first step), so that a recovered endpoint is noticed soon.

    Raises:
        ValueError: `retry_schedule` is empty.
    """

    timeout: timedelta = timedelta(seconds=15)
    retry_schedule: tuple[timedelta, ...] = _steps("5s 30s 2m 5m 15m 30m 1h 2h 5h 10h 14h 20h 24h")
    refused_schedule: tuple[timedelta, ...] = _steps("5s 5m")
    disable_after: timedelta = timedelta(days=5)
    rotation_grace: timedelta = timedelta(hours=24)
    circuit_failures: int = 5
    probe_at_most: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        if not self.retry_schedule:
            raise ValueError("retry_schedule needs at least one step: an endpoint in trouble is tried again")

    @property
    def longest_probe_wait(self) -> timedelta:
        """How long an endpoint that may be down is left alone at most."""
        return max(self.probe_at_most, self.retry_schedule[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorState:
    """How the event at the head of a room's line has failed; all zero for an event that was not tried yet.

    `first_failed_at` and `last_failed_at` are about trouble; rejections only count.
    """

    failed_attempts: int = 0
    rejections: int = 0
    first_failed_at: datetime | None = None
    last_failed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointState:
    """The health of an endpoint over all its rooms. No cursor of it is tried before `paused_until`."""

    failures_in_row: int = 0
    failing_since: datetime | None = None
    last_success_at: datetime | None = None
    circuit: Circuit = Circuit.CLOSED
    probes: int = 0
    paused_until: datetime | None = None

    def enabled_again(self) -> EndpointState:
        """A person enabled it: it starts anew, and everything it is owed is due at once."""
        return EndpointState(last_success_at=self.last_success_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """Acknowledge the event and go on with the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Keep the event at the head of the line and try it again then, not earlier."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Park the event, acknowledge it and go on with the next."""

    reason: DeadLetterReason


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveWay:
    """Send another event of the line at once, to learn which is to blame; if that is not accepted, try again then."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Disable:
    """Stop delivering to this endpoint, and keep what it is owed: this event too."""

    reason: DisableReason


Step = Advance | Retry | DeadLetter | GiveWay | Disable


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What happens next, to be written in one transaction.

    With `release_since`, every cursor of the endpoint whose `first_failed_at` is not before it is due at once and
    its `failed_attempts` start from 0 again.
    """

    step: Step
    cursor: CursorState
    endpoint: EndpointState
    release_since: datetime | None = None


def classify(status: int) -> Outcome:
    """The table of webhooks.md section 2."""
    match status:
        case 408 | 429:
            return Outcome.RETRYABLE
        case 410:
            return Outcome.GONE
        case _ if 200 <= status <= 299:  # noqa: PLR2004 - the classes of RFC 9110 section 15
            return Outcome.DELIVERED
        case _ if 300 <= status <= 499:  # noqa: PLR2004 - see above
            return Outcome.REJECTED
        case _:
            return Outcome.RETRYABLE


def judge(
    status: int, *, headers: Mapping[str, str], response: bytes, now: datetime, duration: timedelta
) -> PostResult:
    """What a complete response means.

    Args:
        status: of the response.
        headers: of the response, found by lower-case names: `retry-after` is heeded on 429 and 503, and a `location`
            is never followed, only shown.
        response: the beginning of its body.
        now: when it came.
        duration: of the attempt.
    """
    outcome = classify(status)
    if outcome is Outcome.DELIVERED:
        return PostResult(outcome=outcome, status=status, duration=duration, response=response)
    location = headers.get("location")
    return PostResult(
        outcome=outcome,
        status=status,
        cause=Cause.STATUS,
        detail=f"answered {status}" + (f", not followed to {location!a}" if location else ""),
        retry_after=parse_retry_after(headers.get("retry-after"), now) if status in RETRY_AFTER_STATUSES else None,
        duration=duration,
        response=response,
    )


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """How long the receiver asks us to wait: seconds or an HTTP date (RFC 9110 section 10.2.3).

    Returns:
        Never negative, at most 24 hours; None if it does not say, or not in a way that can be understood.
    """
    # Said twice, the header comes as one, with a comma between. So has a date, which can do without its weekday. The
    # longer wait is safe.
    waits = [_asked_wait(part.strip(), now) for part in (value or "").split(",")]
    return max((wait for wait in waits if wait is not None), default=None)


def _asked_wait(text: str, now: datetime) -> timedelta | None:
    if text.isascii() and text.isdigit():
        digits = text.lstrip("0") or "0"
        return min(timedelta(seconds=int(digits)), RETRY_AFTER_CAP) if len(digits) <= _MAX_DIGITS else RETRY_AFTER_CAP
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    wait = (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    return min(max(wait, timedelta(0)), RETRY_AFTER_CAP)


def decide(
    result: PostResult,
    cursor: CursorState,
    endpoint: EndpointState,
    policy: DeliveryPolicy,
    *,
    may_give_way: bool = False,
    now: datetime,
    jitter: float,
) -> Decision:
    """What happens after an attempt.

    Args:
        result: of the attempt.
        cursor: of the event that was attempted, before the attempt.
        endpoint: before the attempt is counted.
        policy: how long and how often.
        may_give_way: whether the event has failed for long enough (`has_used_up_schedule`), and another event of the
            line is at hand that could be sent in its place.
        now: when the result came.
        jitter: a chance assign_sequences in [0, 1): every delay is its step ± 20 %, but never ends before `Retry-After`.
    """
    match result.outcome:
        case Outcome.DELIVERED:
            return _after_success(endpoint, now)
        case Outcome.GONE:
            gone = replace(endpoint, failing_since=endpoint.failing_since or now)
            return Decision(step=Disable(reason=DisableReason.GONE), cursor=cursor, endpoint=gone)
        case Outcome.REJECTED | Outcome.RETRYABLE | Outcome.BLOCKED:
            failing = _failing(result, endpoint, policy, now, jitter)
    if _has_failed_too_long(cursor, failing, policy, now):
        return Decision(step=Disable(reason=DisableReason.FAILING), cursor=cursor, endpoint=failing)
    if result.outcome is Outcome.REJECTED:
        return _after_refusal(cursor, failing, policy, now, jitter)
    decision = _after_trouble(cursor, failing, policy, now, jitter)
    step, works = decision.step, _works_otherwise(cursor, decision.endpoint)
    if may_give_way and isinstance(step, Retry) and not works and _may_be_about_the_event(result):
        return replace(decision, step=GiveWay(at=step.at))
    return decision


def has_used_up_schedule(cursor: CursorState, tries: int, policy: DeliveryPolicy, now: datetime) -> bool:
    """Whether an event has failed as often and for as long as its whole schedule takes, whatever it waited for.

    Args:
        cursor: of the event, before this attempt.
        tries: how often the event was tried before this attempt.
        policy: has the schedule.
        now: when the result of this attempt came.
    """
    is_tried_enough = tries >= len(policy.retry_schedule)
    return is_tried_enough and is_schedule_over(cursor, policy, now)


def is_schedule_over(cursor: CursorState, policy: DeliveryPolicy, now: datetime) -> bool:
    """Whether the event failed first so long ago that its whole schedule could be over."""
    whole = sum(policy.retry_schedule, timedelta()) * (1 - JITTER)
    return cursor.first_failed_at is not None and now - cursor.first_failed_at >= whole


def decide_behind(
    result: PostResult, cursor: CursorState, endpoint: EndpointState, *, at: datetime, now: datetime
) -> Decision:
    """What happens after the attempt at an event to which the one at the head of the line gave way.

    If it was accepted, the endpoint works, and the event that gave way has its last word at once (`decide_at_last`).

    Args:
        result: of the attempt.
        cursor: of the event that gave way, after its last attempt.
        endpoint: before this attempt is counted.
        at: when the event that gave way is tried again if this one was not accepted.
        now: when the result came.
    """
    match result.outcome:
        case Outcome.DELIVERED:
            return replace(_after_success(endpoint, now), step=Retry(at=now), cursor=cursor)
        case Outcome.GONE:
            return Decision(step=Disable(reason=DisableReason.GONE), cursor=cursor, endpoint=endpoint)
        case Outcome.REJECTED | Outcome.RETRYABLE | Outcome.BLOCKED:
            if result.retry_after is not None:
                endpoint = replace(endpoint, paused_until=_later(endpoint.paused_until, now + result.retry_after))
            return Decision(step=Retry(at=_later(endpoint.paused_until, at)), cursor=cursor, endpoint=endpoint)


def decide_at_last(
    result: PostResult,
    cursor: CursorState,
    endpoint: EndpointState,
    policy: DeliveryPolicy,
    *,
    now: datetime,
    jitter: float,
) -> Decision:
    """What happens after an event that gave way was tried once more, right after another one was accepted.

    Args are those of `decide`.
    """
    if result.outcome is Outcome.RETRYABLE and _may_be_about_the_event(result):
        parked = DeadLetter(reason=DeadLetterReason.EXHAUSTED)
        return Decision(step=parked, cursor=CursorState(), endpoint=endpoint)
    return decide(result, cursor, endpoint, policy, now=now, jitter=jitter)


def retry_redelivery(
    result: PostResult, tries: int, policy: DeliveryPolicy, *, now: datetime, jitter: float
) -> datetime | None:
    """When a redelivery that a person asked for is tried again; None if it is done with, one way or the other.

    It follows the same schedules as the event itself once did, but has no circuit and judges nobody.

    Args:
        result: of the attempt.
        tries: attempts of this redelivery before this one.
        policy: how long and how often.
        now: when the result came.
        jitter: a chance assign_sequences in [0, 1).
    """
    match result.outcome:
        case Outcome.DELIVERED | Outcome.GONE:
            return None
        case Outcome.REJECTED:
            schedule = policy.refused_schedule
        case Outcome.RETRYABLE | Outcome.BLOCKED:
            schedule = policy.retry_schedule
    if tries >= len(schedule):
        return None
    asked = timedelta() if result.retry_after is None else result.retry_after
    return now + max(_jittered(schedule[tries], jitter), asked)


def _after_success(endpoint: EndpointState, now: datetime) -> Decision:
    return Decision(
        step=Advance(),
        cursor=CursorState(),
        endpoint=EndpointState(last_success_at=now, paused_until=endpoint.paused_until),
        release_since=(endpoint.last_success_at or EPOCH) if endpoint.failures_in_row else None,
    )


def _failing(
    result: PostResult, endpoint: EndpointState, policy: DeliveryPolicy, now: datetime, jitter: float
) -> EndpointState:
    failing = replace(endpoint, failing_since=endpoint.failing_since or now)
    if failing.circuit is Circuit.OPEN:
        failing = _next_probe(failing, policy, now, jitter)
    if result.retry_after is not None:
        failing = replace(failing, paused_until=_later(failing.paused_until, now + result.retry_after))
    return failing


def _after_refusal(
    cursor: CursorState, endpoint: EndpointState, policy: DeliveryPolicy, now: datetime, jitter: float
) -> Decision:
    if cursor.rejections >= len(policy.refused_schedule):
        return Decision(step=DeadLetter(reason=DeadLetterReason.REJECTED), cursor=CursorState(), endpoint=endpoint)
    at = now + _jittered(policy.refused_schedule[cursor.rejections], jitter)
    return Decision(
        step=Retry(at=_later(endpoint.paused_until, at)),
        cursor=replace(cursor, rejections=cursor.rejections + 1),
        endpoint=endpoint,
    )


def _after_trouble(
    cursor: CursorState, endpoint: EndpointState, policy: DeliveryPolicy, now: datetime, jitter: float
) -> Decision:
    failed = replace(cursor, first_failed_at=cursor.first_failed_at or now, last_failed_at=now)
    if endpoint.circuit is Circuit.OPEN:
        return Decision(step=Retry(at=_later(endpoint.paused_until, now)), cursor=failed, endpoint=endpoint)
    in_row = endpoint.failures_in_row + (0 if _is_counted(cursor, endpoint) else 1)
    endpoint = replace(endpoint, failures_in_row=in_row)
    if in_row >= policy.circuit_failures:
        opened = _next_probe(replace(endpoint, circuit=Circuit.OPEN, probes=0), policy, now, jitter)
        return Decision(step=Retry(at=_later(opened.paused_until, now)), cursor=failed, endpoint=opened)
    if cursor.failed_attempts >= len(policy.retry_schedule) and _works_otherwise(cursor, endpoint):
        judged = replace(endpoint, failures_in_row=max(in_row - 1, 0))
        return Decision(step=DeadLetter(reason=DeadLetterReason.EXHAUSTED), cursor=CursorState(), endpoint=judged)
    wait, failed_attempts = _step(policy, cursor.failed_attempts), cursor.failed_attempts + 1
    if not _works_otherwise(cursor, endpoint):
        wait = min(wait, policy.longest_probe_wait)
        failed_attempts = min(failed_attempts, _most_troubles(failed, endpoint, policy, now))
    return Decision(
        step=Retry(at=_later(endpoint.paused_until, now + _jittered(wait, jitter))),
        cursor=replace(failed, failed_attempts=max(failed_attempts, cursor.failed_attempts)),
        endpoint=endpoint,
    )


def _most_troubles(cursor: CursorState, endpoint: EndpointState, policy: DeliveryPolicy, now: datetime) -> int:
    """How many failed_attempts an event can have had by now if it waited for whole steps: else it was only asked more often.

    A step is begun as soon as the one before is over, but the schedule is used up only when the last one is over.
    """
    failing_since = max(filter(None, (cursor.first_failed_at, endpoint.last_success_at)), default=now)
    ends = list(accumulate(step * (1 - JITTER) for step in policy.retry_schedule))
    if now - failing_since >= ends[-1]:
        return sys.maxsize
    over = sum(end <= now - failing_since for end in ends)
    return min(over + 1, len(ends) - 1)


def _next_probe(endpoint: EndpointState, policy: DeliveryPolicy, now: datetime, jitter: float) -> EndpointState:
    if endpoint.paused_until is not None and now < endpoint.paused_until:
        return endpoint  # it was under way before the circuit opened: not a probe, so it costs the endpoint no turn
    wait = min(_step(policy, endpoint.probes), policy.longest_probe_wait)
    return replace(endpoint, probes=endpoint.probes + 1, paused_until=now + _jittered(wait, jitter))


def _has_failed_too_long(cursor: CursorState, endpoint: EndpointState, policy: DeliveryPolicy, now: datetime) -> bool:
    repeated = endpoint.circuit is Circuit.OPEN or cursor != CursorState()
    return repeated and now - (endpoint.failing_since or now) >= policy.disable_after


def _is_counted(cursor: CursorState, endpoint: EndpointState) -> bool:
    """Whether this event's trouble is already part of the row of failures."""
    if cursor.last_failed_at is None:
        return False
    return endpoint.last_success_at is None or cursor.last_failed_at >= endpoint.last_success_at


def _works_otherwise(cursor: CursorState, endpoint: EndpointState) -> bool:
    """Whether the endpoint succeeded since the event's first failure, and no other event failed since."""
    if cursor.first_failed_at is None or endpoint.last_success_at is None:
        return False
    return endpoint.last_success_at >= cursor.first_failed_at and endpoint.failures_in_row <= 1


def _may_be_about_the_event(result: PostResult) -> bool:
    """Whether it was a server's error; a gateway's (502, 503, 504), a time-out or a lost connection is another matter.

    They are about the endpoint, whatever the event.
    """
    return result.cause is Cause.STATUS and result.status not in ABOUT_THE_ENDPOINT


def _step(policy: DeliveryPolicy, tries: int) -> timedelta:
    return policy.retry_schedule[min(tries, len(policy.retry_schedule) - 1)]


def _jittered(step: timedelta, jitter: float) -> timedelta:
    return step * (1 - JITTER + 2 * JITTER * jitter)


def _later(paused_until: datetime | None, at: datetime) -> datetime:
    return at if paused_until is None else max(paused_until, at)

"""The plan of T4, pure: the changes that a batch of attempts makes. `bridge.delivery.record` loads and writes.

An attempt whose claim was lost is fenced: nothing of it is written. The meaning of an outcome is
decided by `bridge.rules.delivery.decide`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from bridge.delivery.claim import ClaimedCursor, OwedEvent
from bridge.events.bodies import Draft, draft_endpoint
from bridge.events.subscription import all_but
from bridge.rules.delivery import (
    Acknowledge,
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
    decide,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One POST of an event and its result."""

    event: OwedEvent
    result: PostResult
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Work of a sender on a claimed cursor; no attempt if the endpoint wants nothing up to the cursor's reach.

    `acked` is where the cursor stood before. With `wants_next`, the sender would like to keep the claim for the next
    event.
    """

    cursor: ClaimedCursor
    acked: int
    attempt: Attempt | None
    wants_next: bool
    at: datetime
    jitter: float


@dataclass(frozen=True, slots=True)
class Fenced:
    """The claim was lost; nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The cursor moved past the event, delivered or, with `dead_letter`, given up.

    `keeps_claim`: the next event may be sent. `owes_more`: it may not, but something is owed and due.
    """

    keeps_claim: bool
    owes_more: bool
    dead_letter: DeadLetterReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The event is tried again at this time."""

    retry_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Disabled:
    """The endpoint was disabled; the event stays owed."""

    reason: DisableReason


@dataclass(frozen=True, slots=True)
class Removed:
    """The endpoint was a REST hook and responded 410: it was removed with its backlog."""


Recorded = Fenced | Moved | Waiting | Disabled | Removed


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCursor:
    """The row of a cursor, locked."""

    key: int
    endpoint_key: int
    acked: int
    head: int
    claim_token: str | None
    state: CursorState


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEndpoint:
    """The row of an endpoint, locked."""

    key: int
    name: str
    url: str
    is_hook: bool
    active: bool
    rotated_at: datetime | None
    state: EndpointState


class AttemptRow(NamedTuple):
    """A row of `attempts`."""

    endpoint_key: int
    attempt: Attempt


class MovedCursor(NamedTuple):
    """New values of a cursor."""

    key: int
    acked: int
    claim_token: str | None
    next_attempt_at: datetime
    failed_attempts: int
    rejections: int
    last_failed_at: datetime | None


class NewDeadLetter(NamedTuple):
    """A row of `dead_letters`."""

    endpoint_key: int
    event_key: int
    parked_at: datetime
    reason: str


@dataclass(slots=True)
class DeliveryPlan:
    """The rows that one transaction writes; `recorded` has one entry per report, in order.

    `released`: endpoints whose waiting cursors are due at the given time. `removed`: REST hooks that are gone; what the
    plan has for them beside is deleted with them. `notices`: events of the bridge's own log.
    """

    recorded: list[Recorded] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)
    cursors: dict[int, MovedCursor] = field(default_factory=dict)
    dead_letters: list[NewDeadLetter] = field(default_factory=list)
    endpoints: dict[int, StoredEndpoint] = field(default_factory=dict)
    disabled: dict[int, DisableReason] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    released: dict[int, datetime] = field(default_factory=dict)
    notices: list[Draft] = field(default_factory=list)


def plan_reports(
    reports: Sequence[Report],
    cursors: Mapping[int, StoredCursor],
    endpoints: Mapping[int, StoredEndpoint],
    policy: DeliveryPolicy,
) -> DeliveryPlan:
    """Decide what the reports change; a batch has one report of a cursor."""
    plan = DeliveryPlan()
    for report in reports:
        cursor = cursors.get(report.cursor.key)
        is_ours = cursor is not None and cursor.claim_token == report.cursor.token and cursor.acked == report.acked
        if cursor is None or not is_ours or cursor.endpoint_key in plan.removed:
            plan.recorded.append(Fenced())
        elif report.attempt is None:
            plan.recorded.append(_move(plan, cursor, report, to=report.cursor.reach, keeps_claim=False))
        else:
            # An earlier report of the batch may have changed the endpoint.
            endpoint = plan.endpoints.get(cursor.endpoint_key, endpoints[cursor.endpoint_key])
            plan.attempts.append(AttemptRow(endpoint.key, report.attempt))
            plan.recorded.append(_plan_attempt(plan, cursors, endpoint, report, report.attempt, policy))
    return plan


def _plan_attempt(
    plan: DeliveryPlan,
    cursors: Mapping[int, StoredCursor],
    endpoint: StoredEndpoint,
    report: Report,
    attempt: Attempt,
    policy: DeliveryPolicy,
) -> Recorded:
    cursor = cursors[report.cursor.key]
    delivered = attempt.result.outcome is Outcome.DELIVERED
    if endpoint.url != report.cursor.target.url:  # a response from the old URL does not count for the new one
        if delivered:
            return _move(plan, cursor, report, to=attempt.event.acks_to, keeps_claim=False)
        return _wait(plan, cursor, cursor.state, report.at)
    decision = decide(attempt.result, cursor.state, endpoint.state, policy, now=report.at, jitter=report.jitter)
    _plan_health(plan, endpoint, decision.endpoint, report.at)
    if decision.releases:
        _release(plan, cursors, endpoint.key, report.at)
    may_continue = _may_continue(endpoint, decision.endpoint, report)
    match decision.step:
        case Acknowledge():
            return _move(plan, cursor, report, to=attempt.event.acks_to, keeps_claim=may_continue)
        case DeadLetter(reason=reason):
            plan.dead_letters.append(NewDeadLetter(endpoint.key, attempt.event.key, report.at, reason.value))
            moved = _move(plan, cursor, report, to=attempt.event.acks_to, keeps_claim=may_continue)
            return replace(moved, dead_letter=reason)
        case Retry(at=at):
            return _wait(plan, cursor, decision.cursor, at)
        case Disable(reason=reason):
            _wait(plan, cursor, decision.cursor, report.at)
            return _disable(plan, endpoint, reason, decision.endpoint, report.at)


def _release(plan: DeliveryPlan, cursors: Mapping[int, StoredCursor], endpoint_key: int, at: datetime) -> None:
    """Make every waiting cursor of an endpoint due: those that this batch has moved here, the others when writing."""
    plan.released[endpoint_key] = at
    for key, moved in plan.cursors.items():
        if cursors[key].endpoint_key == endpoint_key and moved.claim_token is None:
            plan.cursors[key] = moved._replace(next_attempt_at=min(moved.next_attempt_at, at))


def _may_continue(endpoint: StoredEndpoint, state: EndpointState, report: Report) -> bool:
    """Whether the sender may go on with this claim: the endpoint is as it was claimed, and may be called."""
    unchanged = endpoint.active and endpoint.rotated_at == report.cursor.target.rotated_at
    return report.wants_next and unchanged and state.circuit is Circuit.CLOSED and not state.is_paused(report.at)


def _move(plan: DeliveryPlan, cursor: StoredCursor, report: Report, *, to: int, keeps_claim: bool) -> Moved:
    plan.cursors[cursor.key] = _moved(
        cursor,
        CursorState(),
        acked=to,
        due_at=report.at,
        token=cursor.claim_token if keeps_claim else None,
    )
    return Moved(keeps_claim=keeps_claim, owes_more=not keeps_claim and to < cursor.head)


def _wait(plan: DeliveryPlan, cursor: StoredCursor, state: CursorState, at: datetime) -> Waiting:
    plan.cursors[cursor.key] = _moved(cursor, state, acked=cursor.acked, due_at=at, token=None)
    return Waiting(retry_at=at)


def _moved(cursor: StoredCursor, state: CursorState, *, acked: int, due_at: datetime, token: str | None) -> MovedCursor:
    return MovedCursor(
        key=cursor.key,
        acked=acked,
        claim_token=token,
        next_attempt_at=due_at,
        failed_attempts=state.failed_attempts,
        rejections=state.rejections,
        last_failed_at=state.last_failed_at,
    )


def _plan_health(plan: DeliveryPlan, endpoint: StoredEndpoint, after: EndpointState, at: datetime) -> None:
    plan.endpoints[endpoint.key] = replace(endpoint, state=after)
    before = endpoint.state
    if before.circuit is Circuit.OPEN and after.circuit is Circuit.CLOSED:
        plan.notices.append(
            replace(
                draft_endpoint(recovered=True, endpoint=endpoint.name, reason=None, since=before.failing_since, at=at),
                audience=all_but(endpoint.key),
            )
        )


def _disable(
    plan: DeliveryPlan, endpoint: StoredEndpoint, reason: DisableReason, state: EndpointState, at: datetime
) -> Disabled | Removed:
    """Disable an endpoint, and announce it; a REST hook that is gone has unsubscribed."""
    if endpoint.is_hook and reason is DisableReason.GONE:
        plan.removed.add(endpoint.key)
        return Removed()
    if not endpoint.active:
        return Disabled(reason=reason)
    plan.disabled[endpoint.key] = reason
    plan.endpoints[endpoint.key] = replace(endpoint, state=state, active=False)
    notice = draft_endpoint(
        recovered=False, endpoint=endpoint.name, reason=reason.value, since=state.failing_since, at=at
    )
    plan.notices.append(replace(notice, audience=all_but(endpoint.key)))
    return Disabled(reason=reason)

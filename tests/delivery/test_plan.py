"""The plan of T4, without a database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from bridge.delivery.claim import ClaimedCursor, OwedEvent
from bridge.delivery.plan import (
    Attempt,
    DeliveryPlan,
    Disabled,
    Fenced,
    Moved,
    NewDeadLetter,
    Report,
    StoredCursor,
    StoredEndpoint,
    Waiting,
    plan_reports,
)
from bridge.delivery.targets import Target
from bridge.events.subscription import all_but
from bridge.rules.delivery import (
    Circuit,
    CursorState,
    DeadLetterReason,
    DeliveryPolicy,
    DisableReason,
    EndpointState,
    PostResult,
)
from tests.harness.builders import at
from tests.harness.store_driver import GONE, GOOD, REJECTED, RETRYABLE, busy

POLICY = DeliveryPolicy()
NOW = at(10)
OPEN = EndpointState(circuit=Circuit.OPEN, failures_in_row=5, failing_since=at(-60), probes=1)
URL = "https://crm.example.com/"


def cursor(key: int = 1, *, endpoint: int = 7, **fields: Any) -> StoredCursor:  # noqa: ANN401 - fields of a StoredCursor
    values: dict[str, Any] = {"acked": 4, "head": 9, "claim_token": "mine", "state": CursorState()}
    return StoredCursor(key=key, endpoint_key=endpoint, **values | fields)


def endpoint(state: EndpointState | None = None, key: int = 7, **fields: Any) -> StoredEndpoint:  # noqa: ANN401 - fields of a StoredEndpoint
    values: dict[str, Any] = {"name": f"endpoint{key}", "url": URL, "is_hook": False, "active": True}
    values["rotated_at"] = None
    return StoredEndpoint(key=key, state=state or EndpointState(), **values | fields)


def report(
    result: PostResult | None = GOOD, key: int = 1, *, endpoint: int = 7, wants_next: bool = False, url: str = URL
) -> Report:
    target = Target(
        key=endpoint, name="crm", url=url, format="standard", signature="v1", timeout=None, headers={}, secrets=()
    )
    event = OwedEvent(key=50 + key, public_id="evt_1", sequence=5, type="peer.left", body=b"{}", acks_to=6)
    claimed = ClaimedCursor(key=key, target=target, room_id="a", token="mine", acked=4, reach=8, events=())
    attempt = None if result is None else Attempt(event=event, result=result, started_at=at(9))
    return Report(cursor=claimed, acked=4, attempt=attempt, wants_next=wants_next, at=NOW, jitter=0.5)


def plan(
    reports: Iterable[Report], *endpoints: StoredEndpoint, cursors: Iterable[StoredCursor] | None = None
) -> DeliveryPlan:
    reports = list(reports)
    stored = cursors or [cursor(one.cursor.key, endpoint=one.cursor.target.key) for one in reports]
    by_key = {one.key: one for one in endpoints or (endpoint(),)}
    return plan_reports(reports, {one.key: one for one in stored}, by_key, POLICY)


@pytest.mark.parametrize("stored", [cursor(claim_token="other"), cursor(claim_token=None), cursor(acked=5), cursor(2)])
@pytest.mark.parametrize("result", [GOOD, RETRYABLE, GONE, None])
def test_nothing_of_a_fenced_report_is_written(stored: StoredCursor, result: PostResult | None) -> None:
    assert plan([report(result)], cursors=[stored]) == DeliveryPlan(recorded=[Fenced()])


@pytest.mark.parametrize(("head", "owes_more"), [(8, False), (9, True)])
def test_without_an_attempt_the_cursor_moves_to_its_reach(head: int, *, owes_more: bool) -> None:
    planned = plan([report(None)], cursors=[cursor(head=head)])

    assert planned.recorded == [Moved(keeps_claim=False, owes_more=owes_more)]
    assert (planned.cursors[1].acked, planned.cursors[1].claim_token) == (8, None)
    assert (planned.attempts, planned.endpoints) == ([], {})


def test_a_success_moves_the_cursor_and_forgets_its_failures() -> None:
    failed = CursorState(failed_attempts=2, rejections=1, last_failed_at=at(0))
    planned = plan([report()], endpoint(EndpointState(failures_in_row=3)), cursors=[cursor(state=failed)])

    moved = planned.cursors[1]
    assert planned.recorded == [Moved(keeps_claim=False, owes_more=True)]
    assert (moved.acked, moved.claim_token, moved.next_attempt_at) == (6, None, NOW)
    assert (moved.failed_attempts, moved.rejections, moved.last_failed_at) == (0, 0, None)
    assert planned.endpoints[7].state == EndpointState(last_success_at=NOW)


def test_a_claim_is_kept_for_the_next_event() -> None:
    planned = plan([report(wants_next=True)])

    assert planned.recorded == [Moved(keeps_claim=True, owes_more=False)]
    assert planned.cursors[1].claim_token == "mine"


@pytest.mark.parametrize(
    "changed",
    [endpoint(active=False), endpoint(rotated_at=at(1)), endpoint(EndpointState(paused_until=at(60)))],
    ids=["disabled", "new secret", "paused"],
)
def test_a_claim_is_not_kept_if_the_endpoint_changed(changed: StoredEndpoint) -> None:
    assert plan([report(wants_next=True)], changed).recorded == [Moved(keeps_claim=False, owes_more=True)]


def test_a_failed_event_waits_with_its_failures() -> None:
    planned = plan([report(RETRYABLE, wants_next=True)])

    moved = planned.cursors[1]
    assert planned.recorded == [Waiting(retry_at=at(15))]
    assert (moved.acked, moved.claim_token, moved.next_attempt_at) == (4, None, at(15))
    assert (moved.failed_attempts, moved.last_failed_at) == (1, NOW)


@pytest.mark.parametrize(
    ("result", "state", "reason"),
    [
        (REJECTED, CursorState(rejections=2), DeadLetterReason.REJECTED),
        (RETRYABLE, CursorState(failed_attempts=13), DeadLetterReason.EXHAUSTED),
    ],
)
def test_an_event_that_used_up_its_schedule_is_a_dead_letter(
    result: PostResult, state: CursorState, reason: DeadLetterReason
) -> None:
    planned = plan([report(result, wants_next=True)], cursors=[cursor(state=state)])

    assert planned.recorded == [Moved(keeps_claim=True, owes_more=False, dead_letter=reason)]
    assert planned.dead_letters == [NewDeadLetter(endpoint_key=7, event_key=51, parked_at=NOW, reason=reason)]
    assert planned.cursors[1].acked == 6


def test_an_endpoint_that_is_disabled_in_the_middle_of_a_batch() -> None:
    planned = plan([report(GONE, 1), report(GOOD, 2, wants_next=True), report(GONE, 3)])

    gone = Disabled(reason=DisableReason.GONE)
    assert planned.recorded == [gone, Moved(keeps_claim=False, owes_more=True), gone]
    assert planned.disabled == {7: DisableReason.GONE}
    assert [planned.cursors[key].acked for key in (1, 2, 3)] == [4, 6, 4]
    assert not planned.endpoints[7].active
    (notice,) = planned.notices
    assert (notice.type, notice.audience) == ("endpoint.disabled", all_but(7))


@pytest.mark.parametrize("result", [RETRYABLE, REJECTED, GONE, busy(60)])
def test_a_failure_at_an_old_url_leaves_cursor_and_endpoint_as_they_were(result: PostResult) -> None:
    before = CursorState(failed_attempts=1, last_failed_at=at(0))
    planned = plan([report(result, url="https://old.example.com/")], cursors=[cursor(state=before)])

    moved = planned.cursors[1]
    assert planned.recorded == [Waiting(retry_at=NOW)]
    assert (moved.acked, moved.next_attempt_at, moved.failed_attempts, moved.last_failed_at) == (4, NOW, 1, at(0))
    assert (len(planned.attempts), planned.endpoints, planned.disabled) == (1, {}, {})


def test_a_success_at_an_old_url_acknowledges_and_ends_the_claim() -> None:
    planned = plan([report(wants_next=True, url="https://old.example.com/")], endpoint(OPEN))

    assert planned.recorded == [Moved(keeps_claim=False, owes_more=True)]
    assert (planned.cursors[1].acked, planned.endpoints, planned.released) == (6, {}, {})


def test_reports_of_one_batch_count_one_after_the_other() -> None:
    planned = plan(report(RETRYABLE, key) for key in range(1, 6))

    assert planned.endpoints[7].state.circuit is Circuit.OPEN
    assert planned.recorded == [Waiting(retry_at=at(15))] * 5
    assert [planned.cursors[key].failed_attempts for key in range(1, 6)] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("order", [1, -1])
def test_retry_after_counts_for_later_reports_of_the_batch(order: int) -> None:
    reports = [report(busy(60), 1), report(GOOD, 2, wants_next=True)][::order]
    recorded = plan(reports).recorded[::order]

    assert recorded[0] == Waiting(retry_at=at(70))
    assert recorded[1] == Moved(keeps_claim=order == -1, owes_more=order == 1)


def test_a_success_that_closes_the_circuit_releases_the_cursors_of_its_endpoint() -> None:
    reports = [report(RETRYABLE, 1), report(GOOD, 2), report(RETRYABLE, 3), report(RETRYABLE, 4, endpoint=8)]
    waiting_for_probe = replace(OPEN, paused_until=at(12))
    planned = plan(reports, endpoint(waiting_for_probe), endpoint(waiting_for_probe, key=8))

    assert planned.released == {7: NOW}
    due = [planned.cursors[key].next_attempt_at for key in (1, 2, 3, 4)]
    assert due == [NOW, NOW, at(15), at(12)], "not the one that failed later, nor that of another endpoint"
    (notice,) = planned.notices
    assert (notice.type, notice.audience) == ("endpoint.recovered", all_but(7))
    assert notice.facts["since"] == "2026-11-23T08:59:00.000Z"


def test_endpoints_of_one_batch_are_independent() -> None:
    planned = plan([report(GONE, 1), report(GOOD, 2, endpoint=8, wants_next=True)], endpoint(), endpoint(key=8))

    assert planned.recorded == [Disabled(reason=DisableReason.GONE), Moved(keeps_claim=True, owes_more=False)]
    assert planned.disabled.keys() == {7}

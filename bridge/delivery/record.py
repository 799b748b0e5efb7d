"""T4: records attempts. One transaction for many: load → plan → write.

Load locks the endpoints, the bridge's own log if they may have to be announced in it, then the cursors, each in the
order of their keys, as T2 and T3 do; for successes of endpoints that are not failing, the cursors alone. The plan
(`bridge.delivery.plan`) is pure; write executes it with one statement per kind of row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, exists, func, or_, select, update

from bridge.db.arrays import insert_many, one_of, types_of, update_many
from bridge.db.engine import upsert
from bridge.db.event_log import append_system_events, lock_system_log
from bridge.db.tables import HOOK, attempts, cursors, dead_letters, endpoints
from bridge.db.visits import bind
from bridge.delivery.plan import (
    Attempt,
    DeliveryPlan,
    NewDeadLetter,
    Recorded,
    Report,
    StoredCursor,
    StoredEndpoint,
    plan_reports,
)
from bridge.rules.delivery import Circuit, CursorState, DeliveryPolicy, EndpointState, Outcome

RESPONSE_KEPT = 1024
"""Characters of a response that are stored."""
SUCCESS_RESOLUTION = timedelta(seconds=1)
"""The last success of an endpoint that is not failing is written this often."""


def record_attempts(
    connection: Connection, reports: Sequence[Report], *, policy: DeliveryPolicy, new_id: Callable[[str], str]
) -> list[Recorded]:
    """Record attempts and move their cursors; returns one `Recorded` per report, in order."""
    at = max(report.at for report in reports)
    loaded = _load_healthy(connection, reports) or _load(connection, reports, policy, at)
    plan = plan_reports(reports, loaded.cursors, loaded.endpoints, policy)
    _write(connection, plan)
    if loaded.locked:
        _write_endpoints(connection, plan, at, new_id)
    else:
        _write_successes(connection, plan, loaded, at)
    return plan.recorded


def attempt_values(endpoint_key: int, attempt: Attempt, kind: str) -> dict[str, Any]:
    """A row of `attempts`; `kind` is `live` or `redelivery`."""
    result = attempt.result
    return {
        "endpoint_key": endpoint_key,
        "event_key": attempt.event.key,
        "kind": kind,
        "started_at": attempt.started_at,
        "duration_seconds": result.duration.total_seconds(),
        "outcome": result.outcome.value,
        "status": result.status,
        "cause": None if result.cause is None else result.cause.value,
        "detail": _storable(result.detail),
        "response": _storable(result.response.decode("utf-8", "replace"))[:RESPONSE_KEPT],
    }


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The rows that the plan needs, by key; `locked`: the endpoints' too, so that their health can be written."""

    cursors: Mapping[int, StoredCursor]
    endpoints: Mapping[int, StoredEndpoint]
    locked: bool


def _load_healthy(connection: Connection, reports: Sequence[Report]) -> _Loaded | None:
    """Lock the cursors only: successes of endpoints that are not failing change nothing else."""
    if not all(_was_delivered(report) or report.attempt is None for report in reports):
        return None
    keys = [report.cursor.key for report in reports]
    endpoint_keys = {report.cursor.target.key for report in reports}
    rows = connection.execute(_LOCK_IF_HEALTHY, {"keys": keys, "endpoints": endpoint_keys}).all()
    if not rows:
        return None
    stored = {row.endpoint_key: _stored_endpoint(row, row.endpoint_key) for row in rows}
    return _Loaded({row.id: _stored_cursor(row) for row in rows}, stored, locked=False)


def _load(connection: Connection, reports: Sequence[Report], policy: DeliveryPolicy, at: datetime) -> _Loaded:
    keys = sorted({report.cursor.target.key for report in reports})
    lock = _LOCK_TO_REMOVE if any(map(_may_remove, reports)) else _LOCK_ENDPOINTS
    stored = {row.id: _stored_endpoint(row, row.id) for row in connection.execute(lock, {"keys": keys})}
    closing = _closing(reports, stored)
    if closing or any(_may_disable(report, stored, policy) for report in reports):
        lock_system_log(connection, at)
    return _Loaded(_lock_cursors(connection, reports, closing), stored, locked=True)


def _was_delivered(report: Report) -> bool:
    return report.attempt is not None and report.attempt.result.outcome is Outcome.DELIVERED


def _may_remove(report: Report) -> bool:
    return report.attempt is not None and report.attempt.result.outcome is Outcome.GONE


def _closing(reports: Sequence[Report], stored: Mapping[int, StoredEndpoint]) -> list[int]:
    """Endpoints whose circuit a success among the reports may close, which makes their other cursors due."""
    succeeded = {report.cursor.target.key for report in reports if _was_delivered(report)}
    return sorted(key for key in succeeded if key in stored and stored[key].state.circuit is Circuit.OPEN)


def _may_disable(report: Report, stored: Mapping[int, StoredEndpoint], policy: DeliveryPolicy) -> bool:
    endpoint = stored.get(report.cursor.target.key)
    if report.attempt is None or endpoint is None or report.attempt.result.outcome is Outcome.DELIVERED:
        return False
    failing_since = endpoint.state.failing_since or report.at
    return report.attempt.result.outcome is Outcome.GONE or report.at - failing_since >= policy.disable_after


def _lock_cursors(connection: Connection, reports: Sequence[Report], closing: Sequence[int]) -> dict[int, StoredCursor]:
    """Lock the cursors of the reports and those to be released, all at once, so that two writers never cross."""
    keys = [report.cursor.key for report in reports]
    if closing:
        rows = connection.execute(_LOCK_CURSORS_AND_WAITING, {"keys": keys, "endpoints": closing})
    else:
        rows = connection.execute(_LOCK_CURSORS, {"keys": keys})
    return {row.id: _stored_cursor(row) for row in rows}


def _write(connection: Connection, plan: DeliveryPlan) -> None:
    if plan.attempts:
        values = [attempt_values(endpoint_key, attempt, "live") for endpoint_key, attempt in plan.attempts]
        _INSERT_ATTEMPTS.execute(connection, values)
    insert_dead_letters(connection, plan.dead_letters)
    for endpoint_key, due_at in plan.released.items():
        connection.execute(_RELEASE_WAITING, {"endpoint": endpoint_key, "at": due_at})
    if plan.cursors:
        _MOVE.execute(connection, [cursor._asdict() for cursor in plan.cursors.values()])


def _write_endpoints(connection: Connection, plan: DeliveryPlan, at: datetime, new_id: Callable[[str], str]) -> None:
    """Write the health of locked endpoints, and append the notices about them."""
    if plan.endpoints:
        connection.execute(_WRITE_HEALTH, [_health_values(endpoint) for endpoint in plan.endpoints.values()])
    for endpoint_key, reason in plan.disabled.items():
        connection.execute(_DISABLE, {"key": endpoint_key, "reason": reason.value})
    if plan.removed:
        connection.execute(_REMOVE, {"keys": plan.removed})
    append_system_events(connection, plan.notices, at, new_id)


def _write_successes(connection: Connection, plan: DeliveryPlan, loaded: _Loaded, at: datetime) -> None:
    """Write that endpoints had a success, once a second."""
    before = {key: loaded.endpoints[key].state.last_success_at for key in plan.endpoints}
    late = [key for key, last in before.items() if last is None or at - last >= SUCCESS_RESOLUTION]
    if late:
        connection.execute(_WRITE_SUCCESS, {"keys": late, "at": at})


def insert_dead_letters(connection: Connection, letters: Sequence[NewDeadLetter]) -> None:
    """Insert dead letters, each with the number of attempts at its event."""
    if letters:
        new = upsert(connection.dialect.name)(dead_letters).values(bind(*NewDeadLetter._fields)).values(tries=_TRIES)
        connection.execute(new.on_conflict_do_nothing(), [letter._asdict() for letter in letters])


def _stored_cursor(row: Row[Any]) -> StoredCursor:
    state = CursorState(
        failed_attempts=row.failed_attempts, rejections=row.rejections, last_failed_at=row.last_failed_at
    )
    return StoredCursor(
        key=row.id,
        endpoint_key=row.endpoint_key,
        acked=row.acked,
        head=row.head,
        claim_token=row.claim_token,
        state=state,
    )


def _stored_endpoint(row: Row[Any], key: int) -> StoredEndpoint:
    state = EndpointState(
        failures_in_row=row.failures_in_row,
        failing_since=row.failing_since,
        last_success_at=row.last_success_at,
        circuit=Circuit(row.circuit),
        probes=row.probes,
        paused_until=row.paused_until,
    )
    return StoredEndpoint(
        key=key,
        name=row.name,
        url=row.url,
        is_hook=row.origin == HOOK,
        active=row.state == "active",
        rotated_at=row.rotated_at,
        state=state,
    )


def _health_values(endpoint: StoredEndpoint) -> dict[str, Any]:
    state = endpoint.state
    return {
        "key": endpoint.key,
        "failures_in_row": state.failures_in_row,
        "failing_since": state.failing_since,
        "last_success_at": state.last_success_at,
        "circuit": state.circuit.value,
        "probes": state.probes,
        "paused_until": state.paused_until,
    }


def _storable(text: str) -> str:
    """PostgreSQL stores no NUL."""
    return text.replace("\x00", "\ufffd")


_TRIES = (
    select(func.count())
    .where(
        attempts.c.endpoint_key == bindparam("endpoint_key"),
        attempts.c.event_key == bindparam("event_key"),
        attempts.c.kind == "live",
    )
    .scalar_subquery()
)
_HEALTH = ("failures_in_row", "failing_since", "last_success_at", "circuit", "probes", "paused_until")
_OF_KEYS = one_of(endpoints.c.id, "keys")
_ENDPOINTS = select(endpoints).where(_OF_KEYS).order_by(endpoints.c.id)
_LOCK_ENDPOINTS = _ENDPOINTS.with_for_update(key_share=True)
_LOCK_TO_REMOVE = _ENDPOINTS.with_for_update()
_REMOVE = delete(endpoints).where(_OF_KEYS)
_INSERT_ATTEMPTS = insert_many(
    attempts, lambda new: new, types_of(attempts, *(column.name for column in attempts.c if column.name != "id"))
)
_OTHER = endpoints.alias()
_BY_KEY = one_of(cursors.c.id, "keys")
_LOCK = select(cursors).order_by(cursors.c.endpoint_key, cursors.c.room_key).with_for_update()
_LOCK_CURSORS = _LOCK.where(_BY_KEY)
_ONE_IS_FAILING = (
    exists()
    .where(
        one_of(_OTHER.c.id, "endpoints"),
        or_(_OTHER.c.circuit != Circuit.CLOSED.value, _OTHER.c.failing_since.is_not(None)),
    )
    .correlate(None)
)
_LOCK_IF_HEALTHY = (
    select(
        cursors,
        *(endpoints.c[name] for name in ("name", "url", "origin", "state", "rotated_at", *_HEALTH)),
    )
    .join(endpoints, endpoints.c.id == cursors.c.endpoint_key)
    .where(_BY_KEY, ~_ONE_IS_FAILING)
    .order_by(cursors.c.endpoint_key, cursors.c.room_key)
    .with_for_update(of=cursors)
)
_IS_WAITING = and_(cursors.c.acked < cursors.c.head, cursors.c.claim_token.is_(None))
_OF_CLOSING = and_(one_of(cursors.c.endpoint_key, "endpoints"), _IS_WAITING)
_LOCK_CURSORS_AND_WAITING = _LOCK.where(or_(_BY_KEY, _OF_CLOSING))
_RELEASE_WAITING = (
    update(cursors)
    .where(cursors.c.endpoint_key == bindparam("endpoint"), _IS_WAITING, cursors.c.next_attempt_at > bindparam("at"))
    .values(next_attempt_at=bindparam("at"))
)
_MOVED = ("acked", "claim_token", "next_attempt_at", "failed_attempts", "rejections", "last_failed_at")
_MOVE = update_many(
    lambda new: update(cursors).where(cursors.c.id == new["key"]).values({name: new[name] for name in _MOVED}),
    types_of(cursors, *_MOVED, key=cursors.c.id.type),
)
_WRITE_HEALTH = update(endpoints).where(endpoints.c.id == bindparam("key")).values(bind(*_HEALTH))
_WRITE_SUCCESS = (
    update(endpoints)
    .where(
        endpoints.c.id.in_(
            # One that another process has locked is left out: cursors are locked already, and endpoints come first.
            select(endpoints.c.id).where(_OF_KEYS).with_for_update(key_share=True, skip_locked=True)
        )
    )
    .values(last_success_at=bindparam("at"))
)
_DISABLE = (
    update(endpoints)
    .where(endpoints.c.id == bindparam("key"))
    .values(state="disabled", state_reason=bindparam("reason"))
)

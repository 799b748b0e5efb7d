"""T4: what became of attempts. Attempts appended, cursors moved or backed off, endpoints' health, in one transaction.

What an result means is decided by `bridge.rules.delivery.decide`; a claim that is no longer ours, or a cursor that
has moved since, is not written at all, and the response says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, func, insert, or_, select, update

from bridge.db.event_log import append_system_events, upsert
from bridge.db.places import ByPlaces, Place
from bridge.db.tables import attempts, cursors, dead_letters, endpoints
from bridge.delivery.claim import ClaimedCursor, OwedEvent
from bridge.delivery.limits import spend_rate
from bridge.events.bodies import Draft, draft_endpoint
from bridge.rules.delivery import (
    Advance,
    Circuit,
    CursorState,
    DeadLetter,
    DeadLetterReason,
    Decision,
    DeliveryPolicy,
    Disable,
    DisableReason,
    EndpointState,
    GiveWay,
    Outcome,
    PostResult,
    Retry,
    decide,
    decide_at_last,
    decide_behind,
    has_used_up_schedule,
    is_schedule_over,
)

RESPONSE_KEPT = 1024
"""How many characters of an response are kept for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One attempt and its result."""

    event: OwedEvent
    result: PostResult
    started_at: datetime


class Turn(StrEnum):
    """Why an event was tried: it was its turn; the one at the head gave way to it; it had given way, and tries again.

    The last one is tried right after the event behind it was accepted.
    """

    ITS_OWN = "its own"
    BEHIND = "behind"
    LAST = "last"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What happened to a claimed cursor; `tried` is None if nothing within reach concerned the endpoint.

    `goes_on` says that the sender would like to keep the claim for the next event, until `lease_until`; `is_next_sent`
    that this event is on its way already, so that the claim is needed to record it, come what may. `retry_at` goes with
    the turn BEHIND: when the event that gave way is tried again if this one was not accepted.
    """

    cursor: ClaimedCursor
    acked: int
    tried: Tried | None
    goes_on: bool
    is_next_sent: bool = False
    turn: Turn = Turn.ITS_OWN
    retry_at: datetime | None = None
    at: datetime
    lease_until: datetime
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What was written: nothing if `fenced`. `owes` says that more is waiting.

    `keeps_claim` says that the line is still the sender's; without `may_go_on`, only to record what is on its way.
    `gives_way` says that it is to send the event behind, and settle that one; `retry_at` is for the case that it fails.
    `has_last_word` says that this one was accepted, and that the event which gave way is to be sent once more.
    """

    fenced: bool = False
    keeps_claim: bool = False
    may_go_on: bool = False
    owes: bool = False
    retry_at: datetime | None = None
    dead_letter: bool = False
    gives_way: bool = False
    has_last_word: bool = False
    disabled: bool = False
    released: bool = False


def settle(
    connection: Connection, settlements: Sequence[Settlement], *, policy: DeliveryPolicy, new_id: Callable[[str], str]
) -> list[Settled]:
    """Record attempts and move their cursors; answers one `Settled` per settlement, in order."""
    health = _lock_endpoints(connection, settlements)
    lines = _lock_cursors(connection, settlements, _recovering(settlements, health))
    writing = _Writing(policy=policy, patient=_patient(connection, settlements, lines, policy))
    settled = [writing.take(settlement, lines, health) for settlement in settlements]
    writing.write(connection, new_id)
    return settled


@dataclass(slots=True)
class _Line:
    """A cursor's row and what this transaction makes of it: one line may be settled twice in a batch."""

    row: Row[Any]
    acked: int
    state: CursorState
    token: str | None

    @property
    def place(self) -> Place:
        """The endpoint and the room."""
        return self.row.endpoint_key, self.row.room_key


@dataclass(slots=True)
class _Endpoint:
    """An endpoint's row and what this transaction makes of it."""

    row: Row[Any]
    state: EndpointState
    disabled_as: str | None = None

    out_of_turn: int = 0
    """How many requests are made beside those that were claimed: they use up rate."""

    def may_be_called(self, settlement: Settlement) -> bool:
        """Whether a line may go on as it was claimed."""
        return self.is_as_claimed(settlement) and self.state.circuit is Circuit.CLOSED

    def is_as_claimed(self, settlement: Settlement) -> bool:
        """Whether it may be called, by a probe at least, and as it was when the line was claimed.

        It may have been disabled or have asked for quiet in another line, and its secret may have changed.
        """
        is_active = self.row.state == "active" and self.disabled_as is None
        is_held = self.state.paused_until is not None and self.state.paused_until > settlement.at
        return is_active and not is_held and bool(self.row.rotated_at == settlement.cursor.target.rotated_at)


@dataclass(slots=True, kw_only=True)
class _Writing:
    """One T4 under way."""

    policy: DeliveryPolicy
    patient: frozenset[Place]
    """The lines whose event has used up its whole schedule."""
    _attempts: list[dict[str, Any]] = field(default_factory=list)
    _moved: dict[Place, dict[str, Any]] = field(default_factory=dict)
    _dead: list[dict[str, Any]] = field(default_factory=list)
    _told: list[tuple[int, Draft, datetime]] = field(default_factory=list)
    _released: list[tuple[int, datetime, datetime]] = field(default_factory=list)
    _touched: dict[int, _Endpoint] = field(default_factory=dict)
    _at: datetime | None = None

    def take(self, settlement: Settlement, lines: dict[Place, _Line], health: dict[int, _Endpoint]) -> Settled:
        """Work out what one settlement does."""
        self._at = settlement.at
        cursor = settlement.cursor
        line = lines.get((cursor.target.key, cursor.room_key))
        if line is None or line.token != cursor.token or line.acked != settlement.acked:
            return Settled(fenced=True)
        if settlement.tried is None:
            return self._advance(line, None, settlement, to=cursor.reach)
        endpoint = health[cursor.target.key]
        if endpoint.row.url != cursor.target.url:
            return self._take_word_from_elsewhere(line, settlement, settlement.tried)
        return self._take_attempt(line, endpoint, settlement, settlement.tried)

    def _take_word_from_elsewhere(self, line: _Line, settlement: Settlement, tried: Tried) -> Settled:
        """The endpoint has moved meanwhile: what its old address accepted is done, all else it says means nothing."""
        self._attempts.append(attempt_values(line.row.endpoint_key, tried, "live"))
        if tried.result.outcome is Outcome.DELIVERED and settlement.turn is not Turn.BEHIND:
            return self._advance(line, None, settlement, to=tried.event.passes_to)
        self._move(line, line.state, acked=line.acked, due_at=settlement.at)
        return Settled(retry_at=settlement.at, owes=True)

    def _take_attempt(self, line: _Line, endpoint: _Endpoint, settlement: Settlement, tried: Tried) -> Settled:
        at = settlement.at
        decision = self._decide(line, endpoint, settlement, tried)
        self._attempts.append(attempt_values(line.row.endpoint_key, tried, "live"))
        self._note_health(endpoint, decision, at)
        match decision.step:
            case Advance():
                settled = self._advance(line, endpoint, settlement, to=tried.event.passes_to)
                return replace(settled, released=decision.release_since is not None)
            case DeadLetter(reason=reason):
                self._dead.append(_dead_letter(line, tried.event, at, reason))
                settled = self._advance(line, endpoint, settlement, to=tried.event.passes_to)
                return replace(settled, dead_letter=True, released=decision.release_since is not None)
            case Retry(at=due_at) if settlement.turn is Turn.BEHIND and tried.result.outcome is Outcome.DELIVERED:
                return self._give_last_word(line, endpoint, settlement, decision.cursor, due_at)
            case Retry(at=due_at):
                self._move(line, decision.cursor, acked=line.acked, due_at=due_at)
                return Settled(retry_at=due_at)
            case GiveWay(at=due_at):
                self._keep(line, endpoint, settlement, decision.cursor)
                return Settled(retry_at=due_at, keeps_claim=True, gives_way=True)
            case Disable(reason=disabled):
                self._move(line, decision.cursor, acked=line.acked, due_at=at)
                self._disable(endpoint, disabled, decision.endpoint, at)
                return Settled(disabled=True)

    def _decide(self, line: _Line, endpoint: _Endpoint, settlement: Settlement, tried: Tried) -> Decision:
        now, jitter, states = settlement.at, settlement.jitter, (tried.result, line.state, endpoint.state)
        match settlement.turn:
            case Turn.ITS_OWN:
                has_other = settlement.cursor.next_after(tried.event) is not None
                may = has_other and line.place in self.patient and endpoint.is_as_claimed(settlement)
                return decide(*states, self.policy, may_give_way=may, now=now, jitter=jitter)
            case Turn.BEHIND:
                return decide_behind(*states, at=settlement.retry_at or now, now=now)
            case Turn.LAST:
                return decide_at_last(*states, self.policy, now=now, jitter=jitter)

    def _give_last_word(
        self, line: _Line, endpoint: _Endpoint, settlement: Settlement, state: CursorState, due_at: datetime
    ) -> Settled:
        """The endpoint works: whoever gave way is tried again at once, if the line may still be worked on."""
        if endpoint.is_as_claimed(settlement):
            self._keep(line, endpoint, settlement, state)
            return Settled(keeps_claim=True, has_last_word=True, released=True)
        self._move(line, state, acked=line.acked, due_at=due_at)
        return Settled(retry_at=due_at, released=True)

    def _keep(self, line: _Line, endpoint: _Endpoint, settlement: Settlement, state: CursorState) -> None:
        """Keep the claim for one more request at once; it uses up rate."""
        endpoint.out_of_turn += 1
        self._move(line, state, acked=line.acked, due_at=settlement.lease_until, token=line.token)

    def _advance(self, line: _Line, endpoint: _Endpoint | None, settlement: Settlement, *, to: int) -> Settled:
        may_go_on = endpoint is not None and endpoint.may_be_called(settlement)
        keeps = settlement.goes_on and (may_go_on or settlement.is_next_sent)
        due_at = settlement.lease_until if keeps else settlement.at
        self._move(line, CursorState(), acked=to, due_at=due_at, token=line.token if keeps else None)
        owes = not keeps and to < line.row.head
        return Settled(keeps_claim=keeps, may_go_on=keeps and may_go_on, owes=owes)

    def _move(self, line: _Line, state: CursorState, *, acked: int, due_at: datetime, token: str | None = None) -> None:
        line.acked, line.state, line.token = acked, state, token
        self._moved[line.place] = {
            "where_endpoint": line.row.endpoint_key,
            "where_room": line.row.room_key,
            "acked": acked,
            "claim_token": token,
            "next_attempt_at": due_at,
            "failed_attempts": state.failed_attempts,
            "rejections": state.rejections,
            "first_failed_at": state.first_failed_at,
            "last_failed_at": state.last_failed_at,
        }

    def _note_health(self, endpoint: _Endpoint, decision: Decision, at: datetime) -> None:
        before, after = endpoint.state, decision.endpoint
        endpoint.state = after
        self._touched[endpoint.row.id] = endpoint
        if decision.release_since is not None:
            self._released.append((endpoint.row.id, decision.release_since, at))
            self._release_moved(endpoint.row.id, decision.release_since, at)
        if before.circuit is Circuit.OPEN and after.circuit is Circuit.CLOSED:
            told = draft_endpoint(
                recovered=True, endpoint=endpoint.row.name, reason=None, since=before.failing_since, at=at
            )
            self._told.append((endpoint.row.id, told, at))

    def _release_moved(self, endpoint_key: int, since: datetime, at: datetime) -> None:
        """As `_release`, for lines that this transaction has moved before; what fails after this waits its time."""
        for moved in self._moved.values():
            is_waiting = moved["claim_token"] is None and moved["first_failed_at"] is not None
            if moved["where_endpoint"] == endpoint_key and is_waiting and moved["first_failed_at"] >= since:
                moved |= {"next_attempt_at": at, "failed_attempts": 0}

    def _disable(self, endpoint: _Endpoint, reason: DisableReason, state: EndpointState, at: datetime) -> None:
        if endpoint.disabled_as is not None or endpoint.row.state != "active":
            return
        endpoint.disabled_as = reason.value
        told = draft_endpoint(
            recovered=False, endpoint=endpoint.row.name, reason=reason.value, since=state.failing_since, at=at
        )
        self._told.append((endpoint.row.id, told, at))

    def write(self, connection: Connection, new_id: Callable[[str], str]) -> None:
        """Write everything gathered, a statement per kind of row."""
        if self._attempts:
            connection.execute(insert(attempts), self._attempts)
        for dead in self._dead:
            parked = upsert(connection)(dead_letters).values(
                **dead, tries=_tries(connection, dead["endpoint_key"], dead["event_key"])
            )
            connection.execute(parked.on_conflict_do_nothing())
        for key, since, at in self._released:
            _release(connection, key, since, at)
        if self._moved:
            connection.execute(_MOVED, list(self._moved.values()))
        if self._touched:
            connection.execute(_HEALTH, [_health_values(endpoint) for endpoint in self._touched.values()])
        for endpoint in self._touched.values():
            if endpoint.out_of_turn and self._at is not None:
                spend_rate(connection, endpoint.row, endpoint.out_of_turn, self._at)
        for key, told, at in self._told:
            append_system_events(connection, [told], at, new_id, except_endpoint=key)


def _lock_endpoints(connection: Connection, settlements: Sequence[Settlement]) -> dict[int, _Endpoint]:
    """Lock the endpoints, in the order of their keys, before any of their cursors: everybody does."""
    keys = sorted({one.cursor.target.key for one in settlements})
    held = connection.execute(_LOCKED_ENDPOINTS, {"keys": keys})
    return {row.id: _Endpoint(row=row, state=_endpoint_state(row)) for row in held}


def _recovering(settlements: Sequence[Settlement], health: dict[int, _Endpoint]) -> list[int]:
    """The endpoints whose waiting lines a success among these may release."""
    succeeded = {
        one.cursor.target.key
        for one in settlements
        if one.tried is not None and one.tried.result.outcome is Outcome.DELIVERED
    }
    return sorted(key for key in succeeded if key in health and health[key].state.failures_in_row)


def _lock_cursors(
    connection: Connection, settlements: Sequence[Settlement], recovering: Sequence[int]
) -> dict[Place, _Line]:
    """Lock the cursors in the order of their keys, those that may be released too, so that two writers never cross."""
    places = sorted({(one.cursor.target.key, one.cursor.room_key) for one in settlements})
    statement = _HELD_WITH_WAITING if recovering else _LOCKED_CURSORS
    parameters = {"recovering": recovering} if recovering else {}
    held = statement.rows(connection, places, **parameters)
    lines = {
        (row.endpoint_key, row.room_key): _Line(
            row=row, acked=row.acked, state=_cursor_state(row), token=row.claim_token
        )
        for row in held
    }
    return {place: lines[place] for place in places if place in lines}


def _patient(
    connection: Connection, settlements: Sequence[Settlement], lines: Mapping[Place, _Line], policy: DeliveryPolicy
) -> frozenset[Place]:
    """The lines whose event has failed once more, and has used up its whole schedule: few need to be counted."""
    return frozenset(
        line.place
        for one in settlements
        if one.tried is not None and one.tried.result.outcome is Outcome.RETRYABLE
        if (line := lines.get((one.cursor.target.key, one.cursor.room_key))) is not None
        if is_schedule_over(line.state, policy, one.at)
        if has_used_up_schedule(line.state, _tries(connection, line.place[0], one.tried.event.key), policy, one.at)
    )


def _release(connection: Connection, endpoint_key: int, since: datetime, at: datetime) -> None:
    """The endpoint is back: what an outage made wait is due at once, its schedule started anew."""
    connection.execute(
        update(cursors)
        .where(cursors.c.endpoint_key == endpoint_key, *_WAITING, cursors.c.first_failed_at >= since)
        .values(next_attempt_at=at, failed_attempts=0)
    )


def _cursor_state(row: Row[Any]) -> CursorState:
    return CursorState(
        failed_attempts=row.failed_attempts,
        rejections=row.rejections,
        first_failed_at=row.first_failed_at,
        last_failed_at=row.last_failed_at,
    )


def _endpoint_state(row: Row[Any]) -> EndpointState:
    return EndpointState(
        failures_in_row=row.failures_in_row,
        failing_since=row.failing_since,
        last_success_at=row.last_success_at,
        circuit=Circuit(row.circuit),
        probes=row.probes,
        paused_until=row.paused_until,
    )


def _health_values(endpoint: _Endpoint) -> dict[str, Any]:
    state = endpoint.state
    return {
        "where_id": endpoint.row.id,
        "failures_in_row": state.failures_in_row,
        "failing_since": state.failing_since,
        "last_success_at": state.last_success_at,
        "circuit": state.circuit.value,
        "probes": state.probes,
        "paused_until": state.paused_until,
        "state": endpoint.row.state if endpoint.disabled_as is None else "disabled",
        "state_reason": endpoint.row.state_reason if endpoint.disabled_as is None else endpoint.disabled_as,
    }


def attempt_values(endpoint_key: int, tried: Tried, kind: str) -> dict[str, Any]:
    """An attempt as a row of `attempts`; `kind` is `live` or `redelivery`."""
    result = tried.result
    return {
        "endpoint_key": endpoint_key,
        "event_key": tried.event.key,
        "kind": kind,
        "started_at": tried.started_at,
        "duration_seconds": result.duration.total_seconds(),
        "outcome": result.outcome.value,
        "status": result.status,
        "cause": None if result.cause is None else result.cause.value,
        "detail": _storable(result.detail),
        "response": _storable(result.response.decode("utf-8", "replace"))[:RESPONSE_KEPT],
    }


def _storable(text: str) -> str:
    """PostgreSQL keeps no NUL in a text."""
    return text.replace("\x00", "\ufffd")


def _dead_letter(line: _Line, event: OwedEvent, at: datetime, reason: DeadLetterReason) -> dict[str, Any]:
    return {
        "endpoint_key": line.row.endpoint_key,
        "event_key": event.key,
        "parked_at": at,
        "reason": reason.value,
    }


def _tries(connection: Connection, endpoint_key: int, event_key: int) -> int:
    """How often the event was tried in all: the cursor counts anew after an outage."""
    ours = (attempts.c.endpoint_key == endpoint_key, attempts.c.event_key == event_key)
    live = select(func.count()).select_from(attempts).where(*ours, attempts.c.kind == "live")
    return connection.execute(live).scalar_one()


def _set_each(*names: str) -> dict[str, Any]:
    return {name: bindparam(name) for name in names}


_WAITING = (cursors.c.acked < cursors.c.head, cursors.c.claim_token.is_(None), cursors.c.first_failed_at.is_not(None))
"""Cursors that wait because their next event failed."""
_LINES = (
    select(cursors.c.endpoint_key, cursors.c.room_key, cursors.c.acked, cursors.c.head, cursors.c.claim_token)
    .add_columns(cursors.c.failed_attempts, cursors.c.rejections, cursors.c.first_failed_at, cursors.c.last_failed_at)
    .order_by(cursors.c.endpoint_key, cursors.c.room_key)
    .with_for_update()
)
_LOCKED_CURSORS = ByPlaces(_LINES.where)
_RECOVERING = and_(cursors.c.endpoint_key.in_(bindparam("recovering", expanding=True)), *_WAITING)
_HELD_WITH_WAITING = ByPlaces(lambda at_places: _LINES.where(or_(at_places, _RECOVERING)))
_LOCKED_ENDPOINTS = (
    select(endpoints.c.id, endpoints.c.name, endpoints.c.state, endpoints.c.state_reason, endpoints.c.circuit)
    .add_columns(endpoints.c.failures_in_row, endpoints.c.failing_since, endpoints.c.last_success_at)
    .add_columns(endpoints.c.probes, endpoints.c.paused_until, endpoints.c.rotated_at)
    .add_columns(endpoints.c.rate_per_second, endpoints.c.rate_at, endpoints.c.url)
    .where(endpoints.c.id.in_(bindparam("keys", expanding=True)))
    .order_by(endpoints.c.id)
    .with_for_update(key_share=True)
)
_MOVED = (
    update(cursors)
    .where(cursors.c.endpoint_key == bindparam("where_endpoint"), cursors.c.room_key == bindparam("where_room"))
    .values(_set_each("acked", "claim_token", "next_attempt_at", "failed_attempts", "rejections"))
    .values(_set_each("first_failed_at", "last_failed_at"))
)
_HEALTH = (
    update(endpoints)
    .where(endpoints.c.id == bindparam("where_id"))
    .values(_set_each("failures_in_row", "failing_since", "last_success_at", "circuit", "probes", "paused_until"))
    .values(_set_each("state", "state_reason"))
)

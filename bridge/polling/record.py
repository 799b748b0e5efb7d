"""Polls on the database's side: T1 claims the rooms that are due, T2 writes down what was seen.

T2 is one transaction for many rooms: rooms still ours → `presence.diff` → visits, sessions → events → cursors raised →
rescheduled. A room whose token is no longer ours belongs to somebody else: nothing of it is written, and the response
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update

from bridge.db.event_log import Entry, append, assign_sequences, assign_system_sequences, room_log
from bridge.db.tables import rooms
from bridge.db.visits import VisitWrites, load, rooms_with_suspects
from bridge.events.bodies import draft
from bridge.polling.source_state import Report, SourceUpdate, lock_source, slots, spend, update_source_health
from bridge.rules.polling import Condition, next_poll, next_poll_after_failure
from bridge.rules.presence import Change, Failure, FailureKind, Presence, PresencePolicy, Snapshot, diff


@dataclass(frozen=True, slots=True, kw_only=True)
class PollingSettings:
    """How rooms are polled that do not say otherwise themselves (CONTRACT section 3, `[polling]`)."""

    interval: timedelta = timedelta(seconds=10)
    policy: PresencePolicy = field(default_factory=PresencePolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRoom:
    """A room that is ours to poll until the lease ends."""

    key: int
    source: str
    upstream_id: str
    due_at: datetime
    token: str
    is_probe: bool = False
    """The one room that is asked to learn whether a source in trouble has recovered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """The room was not asked after all, because its source is on hold."""

    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PolledRoom:
    """What one poll brought; `at` is when the response had arrived."""

    room: ClaimedRoom
    started_at: datetime
    at: datetime
    response: Snapshot | Failure | Skipped
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What was written for one poll; None of it if `fenced`."""

    fenced: bool = False
    changes: tuple[Change, ...] = ()
    event_count: int = 0
    source_paused_until: datetime | None = None


def claim_rooms(
    connection: Connection,
    source: str,
    *,
    requests_per_second: float,
    limit: int,
    now: datetime,
    lease_until: datetime,
    token: str,
) -> list[ClaimedRoom]:
    """Claim up to `limit` due rooms of a source, within its request budget; the longest due first.

    The source's row is held meanwhile, so the budget is exact over any assign_sequences of pollers.
    """
    account = lock_source(connection, source)
    limit = min(limit, slots(account, requests_per_second, now))
    if limit <= 0:
        return []
    healthy = account.condition == Condition.OK  # else the probe is a room that has failed least: one that may work
    wanted = {"of": source, "now": now, "most": limit}
    due = connection.execute(_DUE if healthy else _DUE_TO_PROBE, wanted).all()
    if not due:
        return []
    connection.execute(_CLAIMED, {"keys": [room.id for room in due], "until": lease_until, "token": token})
    spend(connection, account, requests_per_second, len(due), now=now, lease_until=lease_until)
    return [
        ClaimedRoom(
            key=room.id,
            source=source,
            upstream_id=room.upstream_id,
            due_at=room.next_poll_at,
            token=token,
            is_probe=not healthy,
        )
        for room in due
    ]


def release_rooms(connection: Connection, claimed: Sequence[ClaimedRoom]) -> None:
    """Give rooms back that will not be polled after all: they are due as they were, for whoever comes next."""
    for room in claimed:
        ours = (rooms.c.id == room.key, rooms.c.claim_token == room.token)
        connection.execute(update(rooms).where(*ours).values(claim_token=None, next_poll_at=room.due_at))


def record_polls(
    connection: Connection, polled: Sequence[PolledRoom], *, settings: PollingSettings, new_id: Callable[[str], str]
) -> list[Recorded]:
    """Write down what polls brought; answers one `Recorded` per poll, in order."""
    rows = _lock_rooms(connection, polled)
    ours = [poll for poll in polled if _is_ours(poll, rows)]
    source_update = update_source_health(connection, [_report(poll, rows[poll.room.key]) for poll in ours])
    presence = _load_presence(connection, [poll for poll in ours if _may_change(poll, rows[poll.room.key])], rows)
    failed = [poll.room.key for poll in ours if isinstance(poll.response, Failure)]
    suspicious = rooms_with_suspects(connection, failed) if failed else frozenset()
    writing = _Writing(settings=settings, new_id=new_id, source_update=source_update, suspicious=suspicious)
    recorded = [
        writing.take(connection, rows[poll.room.key], poll, presence.get(poll.room.key))
        if _is_ours(poll, rows)
        else Recorded(fenced=True)
        for poll in polled
    ]
    writing.write(connection)
    return recorded


def _is_ours(poll: PolledRoom, rows: dict[int, Row[Any]]) -> bool:
    row = rows.get(poll.room.key)
    return row is not None and row.claim_token == poll.room.token


def _may_change(poll: PolledRoom, row: Row[Any]) -> bool:
    """Not if it failed, and not if the response is, byte for byte, the one that the room's presence came from."""
    response = poll.response
    if not isinstance(response, Snapshot):
        return False
    return not response.complete or response.fingerprint is None or response.fingerprint != row.fingerprint


def _load_presence(
    connection: Connection, polled: Sequence[PolledRoom], rows: dict[int, Row[Any]]
) -> dict[int, Presence]:
    snapshots = [poll.response for poll in polled if isinstance(poll.response, Snapshot)]
    seen = {peer.peer_id for snapshot in snapshots for peer in snapshot.peers}
    return load(connection, [rows[poll.room.key] for poll in polled], seen)


def _report(poll: PolledRoom, row: Row[Any]) -> Report:
    return Report(
        source=poll.room.source,
        response=None if isinstance(poll.response, Skipped) else poll.response,
        is_probe=poll.room.is_probe,
        is_news=row.failures == 0,
        at=poll.at,
        jitter=poll.jitter,
    )


def _lock_rooms(connection: Connection, polled: Sequence[PolledRoom]) -> dict[int, Row[Any]]:
    """Lock the rooms in the order of their keys, so that two writers never cross."""
    keys = sorted({poll.room.key for poll in polled})
    return {row.id: row for row in connection.execute(_LOCKED, {"keys": keys})}


@dataclass(slots=True, kw_only=True)
class _Writing:
    """One T2 under way: what its rooms' rows, visits and logs become."""

    settings: PollingSettings
    new_id: Callable[[str], str]
    source_update: SourceUpdate
    suspicious: frozenset[int]
    """The rooms whose poll failed while somebody waits to be confirmed as missing."""
    _visits: VisitWrites = field(default_factory=VisitWrites)
    _entries: list[Entry] = field(default_factory=list)
    _room_values: list[dict[str, Any]] = field(default_factory=list)
    _quiet_values: list[dict[str, Any]] = field(default_factory=list)
    _failed_values: list[dict[str, Any]] = field(default_factory=list)
    _at: datetime | None = None

    def take(self, connection: Connection, row: Row[Any], poll: PolledRoom, before: Presence | None) -> Recorded:
        """Work out what one poll does to its room."""
        self._at = poll.at
        interval = _interval(row, self.settings)
        match poll.response:
            case Skipped(until=until):
                self._failed_values.append(_failed(row, until, row.polled_at, row.failures, row.last_failure))
                return Recorded(source_paused_until=until)
            case Failure():
                return self._take_failure(row, poll, poll.response, interval)
            case Snapshot() if before is None:
                due_at = next_poll(poll.room.due_at, poll.at, interval, suspects=False)
                self._quiet_values.append({"where_id": row.id, "polled": poll.at, "due": due_at})
                return Recorded(source_paused_until=self._paused_until(poll))
            case Snapshot():
                return self._take_snapshot(connection, row, poll, poll.response, before)

    def _take_failure(self, row: Row[Any], poll: PolledRoom, failure: Failure, interval: timedelta) -> Recorded:
        failures = row.failures + 1
        due_at = next_poll_after_failure(
            poll.at,
            interval,
            failures,
            poll.jitter,
            suspects=row.id in self.suspicious,
            retry_after=failure.retry_after,
        )
        paused_until = self._paused_until(poll)
        if paused_until is not None and paused_until > poll.at:
            due_at = max(paused_until, poll.at + interval) if failure.kind in SOURCE_WIDE else due_at
        words = f"{failure.kind.value}: {failure.detail}"
        self._failed_values.append(_failed(row, due_at, poll.at, failures, words))
        return Recorded(source_paused_until=paused_until)

    def _take_snapshot(
        self, connection: Connection, row: Row[Any], poll: PolledRoom, snapshot: Snapshot, before: Presence
    ) -> Recorded:
        interval, policy = _interval(row, self.settings), _policy(row, self.settings)
        difference = diff(before, snapshot, policy, poll.at, self.new_id)
        session_key = self._visits.gather(connection, row, before, difference, complete=snapshot.complete)
        drafts = [draft(change, poll.at) for change in difference.changes]
        log, entries = assign_sequences(room_log(row), drafts, self.new_id)
        self._entries += entries
        suspects = difference.after.has_suspects
        settled = snapshot.complete and not suspects
        self._room_values.append(
            {
                "where_id": row.id,
                "next_poll_at": next_poll(poll.room.due_at, poll.at, interval, suspects=suspects),
                "polled_at": poll.at,
                "complete_at": difference.after.complete_at,
                "fingerprint": snapshot.fingerprint if settled else None,
                "session_key": session_key,
                "last_sequence": log.last_sequence,
                "chain_head": log.chain_head,
            }
        )
        return Recorded(
            changes=difference.changes, event_count=len(entries), source_paused_until=self._paused_until(poll)
        )

    def _paused_until(self, poll: PolledRoom) -> datetime | None:
        return self.source_update.health[poll.room.source].paused_until

    def write(self, connection: Connection) -> None:
        """Write everything gathered, a statement per kind of row."""
        self._visits.write(connection)
        if self._quiet_values:
            connection.execute(_QUIET, self._quiet_values)
        if self._room_values:
            connection.execute(_SEEN, self._room_values)
        if self._failed_values:
            connection.execute(_FAILED, self._failed_values)
        if self._at is None:
            return
        told = self.source_update.told
        own = assign_system_sequences(connection, told, self._at, self.new_id) if told else []
        append(connection, [*own, *self._entries], self._at)


SOURCE_WIDE = frozenset({FailureKind.UNAUTHORIZED, FailureKind.RATE_LIMITED})
"""Failures that say nothing about the one room that met them."""

_OF_SOURCE = (
    select(rooms.c.id, rooms.c.upstream_id, rooms.c.next_poll_at)
    .where(rooms.c.source == bindparam("of"), rooms.c.next_poll_at <= bindparam("now"))
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_DUE = _OF_SOURCE.order_by(rooms.c.next_poll_at, rooms.c.id)
_DUE_TO_PROBE = _OF_SOURCE.order_by(rooms.c.failures, rooms.c.next_poll_at, rooms.c.id)
_CLAIMED = (
    update(rooms)
    .where(rooms.c.id.in_(bindparam("keys", expanding=True)))
    .values(next_poll_at=bindparam("until"), claim_token=bindparam("token"))
)
_LOCKED = select(rooms).where(rooms.c.id.in_(bindparam("keys", expanding=True))).order_by(rooms.c.id).with_for_update()
_FREE = update(rooms).where(rooms.c.id == bindparam("where_id"))
_QUIET = _FREE.values(
    next_poll_at=bindparam("due"),
    polled_at=bindparam("polled"),
    complete_at=bindparam("polled"),
    claim_token=None,
    failures=0,
    last_failure=None,
)
_SEEN = _FREE.values(
    next_poll_at=bindparam("next_poll_at"),
    polled_at=bindparam("polled_at"),
    complete_at=bindparam("complete_at"),
    fingerprint=bindparam("fingerprint"),
    session_key=bindparam("session_key"),
    last_sequence=bindparam("last_sequence"),
    chain_head=bindparam("chain_head"),
    claim_token=None,
    failures=0,
    last_failure=None,
)
_FAILED = _FREE.values(
    next_poll_at=bindparam("next_poll_at"),
    polled_at=bindparam("polled_at"),
    failures=bindparam("failures"),
    last_failure=bindparam("last_failure"),
    claim_token=None,
)


def _failed(
    row: Row[Any], next_poll_at: datetime, polled_at: datetime | None, failures: int, last_failure: str | None
) -> dict[str, Any]:
    return {
        "where_id": row.id,
        "next_poll_at": next_poll_at,
        "polled_at": polled_at,
        "failures": failures,
        "last_failure": last_failure,
    }


def _interval(row: Row[Any], settings: PollingSettings) -> timedelta:
    return settings.interval if row.interval_seconds is None else timedelta(seconds=row.interval_seconds)


def _policy(row: Row[Any], settings: PollingSettings) -> PresencePolicy:
    if row.leave_after_missed is None:
        return settings.policy
    return replace(settings.policy, leave_after_missed=row.leave_after_missed)

"""The plan of T2, pure: the changes that a batch of polls makes. `bridge.polling.record` loads and writes.

A poll whose claim was lost is fenced: nothing of it is written. A snapshot whose fingerprint is the stored one changes
nothing but the room's times. The rules are those of `rules.presence` (who is there) and `rules.polling` (the pace).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from bridge.db.cursors import TakenCursor
from bridge.db.visits import PresenceWrites
from bridge.events.bodies import Draft, RoomName, draft, draft_source
from bridge.events.log import NewEvent, RoomLog, number_events
from bridge.events.subscription import NO_ENDPOINT
from bridge.rules.live_rooms import poll_interval
from bridge.rules.pokes import Expected
from bridge.rules.polling import (
    FOLLOW_UP,
    UNAVAILABLE,
    Condition,
    SourceHealth,
    failure_limit,
    next_poll,
    next_poll_after_failure,
    update_source_health,
)
from bridge.rules.presence import Change, Failure, Presence, PresencePolicy, Snapshot, diff, is_announced


@dataclass(frozen=True, slots=True, kw_only=True)
class PollingSettings:
    """Polling of rooms that have no settings of their own (`[polling]`).

    `idle_interval` is for rooms that are not live, of the sources in `discovering`, which list the live ones.
    """

    interval: timedelta = timedelta(seconds=10)
    idle_interval: timedelta = timedelta(minutes=2)
    discovering: frozenset[str] = frozenset()
    policy: PresencePolicy = field(default_factory=PresencePolicy)

    def interval_of(self, room: StoredRoom, *, is_live: bool) -> timedelta:
        """The interval of a room that is occupied or listed as live, or of one that is not."""
        interval = self.interval if room.interval is None else room.interval
        return poll_interval(interval, self.idle_interval if room.source in self.discovering else None, is_live=is_live)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRoom:
    """A room that this process polls; a probe finds out whether a paused source has recovered."""

    key: int
    source: str
    upstream_id: str
    due_at: datetime
    token: str
    is_probe: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """The poll was not sent, or its result does not count: the room stays due as before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """One poll and its result; `at` is the time of the response."""

    room: ClaimedRoom
    started_at: datetime
    at: datetime
    result: Snapshot | Failure | Skipped
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRoom:
    """The row of a room, locked."""

    id: int
    source: str
    upstream_id: str
    name: str | None
    interval: timedelta | None
    leave_after_missed: int | None
    claim_token: str | None
    tracked_since: datetime | None
    complete_at: datetime | None
    fingerprint: bytes | None
    failures: int
    session_key: int | None
    last_sequence: int
    chain_head: bytes
    next_poll_at: datetime | None = None
    listed: bool = False
    expected: Expected | None = None

    @property
    def log(self) -> RoomLog:
        name = RoomName(source=self.source, room_id=self.upstream_id, room_name=self.name)
        return RoomLog(room_key=self.id, name=name, last_sequence=self.last_sequence, chain_head=self.chain_head)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSource:
    """Health of a source, and what decides whether a failure counts against it."""

    health: SourceHealth
    room_count: int
    has_healthy_room: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPolls:
    """The rows that the plan needs, by key: presence only of rooms whose snapshot may change something."""

    rooms: Mapping[int, StoredRoom]
    sources: Mapping[str, StoredSource]
    presence: Mapping[int, Presence]
    with_suspects: frozenset[int]


@dataclass(slots=True, kw_only=True)
class RecordedPoll:
    """The result of recording one poll; nothing was written if `fenced`.

    `taken`: cursors that this process's sender has claimed already; with `wakes_senders`, others are to be claimed.
    """

    fenced: bool = False
    changes: tuple[Change, ...] = ()
    event_count: int = 0
    source_paused_until: datetime | None = None
    taken: Sequence[TakenCursor] = ()
    wakes_senders: bool = False


class QuietRoom(NamedTuple):
    """A complete snapshot that is the stored one."""

    key: int
    polled_at: datetime
    next_poll_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRoom:
    """A snapshot that may have changed something; `log` has the new end of the room's log."""

    polled_at: datetime
    next_poll_at: datetime
    complete_at: datetime | None
    fingerprint: bytes | None
    session_id: str | None
    log: RoomLog


class FailedRoom(NamedTuple):
    """A failed poll."""

    key: int
    polled_at: datetime
    next_poll_at: datetime
    failures: int
    last_failure: str


@dataclass(slots=True)
class PollPlan:
    """The rows that one transaction writes; `recorded` has one entry per poll, in order."""

    recorded: list[RecordedPoll] = field(default_factory=list)
    quiet: list[QuietRoom] = field(default_factory=list)
    seen: list[SeenRoom] = field(default_factory=list)
    failed: list[FailedRoom] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    """Keys of rooms whose poll has shown whether a poke is true."""
    presence: PresenceWrites = field(default_factory=PresenceWrites)
    events: list[NewEvent] = field(default_factory=list)
    sources: dict[str, SourceHealth] = field(default_factory=dict)
    recovered: list[str] = field(default_factory=list)
    notices: list[Draft] = field(default_factory=list)


def is_ours(poll: Poll, rooms: Mapping[int, StoredRoom]) -> bool:
    """Whether the claim that the poll was made under is still valid."""
    row = rooms.get(poll.room.key)
    return row is not None and row.claim_token == poll.room.token


def may_change(poll: Poll, room: StoredRoom) -> bool:
    """Whether the room's presence must be compared: not if the snapshot is the one that it came from."""
    snapshot = poll.result
    if not isinstance(snapshot, Snapshot):
        return False
    return not snapshot.complete or snapshot.fingerprint is None or snapshot.fingerprint != room.fingerprint


def plan_polls(
    polls: Sequence[Poll], loaded: LoadedPolls, settings: PollingSettings, new_id: Callable[[str], str]
) -> PollPlan:
    """Decide what the polls change."""
    plan = PollPlan()
    ours = [poll for poll in polls if is_ours(poll, loaded.rooms)]
    health = _plan_sources(plan, ours, loaded)
    for poll in polls:
        if not is_ours(poll, loaded.rooms):
            plan.recorded.append(RecordedPoll(fenced=True))
            continue
        room = loaded.rooms[poll.room.key]
        recorded = _plan_poll(plan, poll, room, loaded, settings, new_id)
        recorded.source_paused_until = health[poll.room.source].paused_until
        plan.recorded.append(recorded)
    return plan


def _plan_poll(
    plan: PollPlan,
    poll: Poll,
    room: StoredRoom,
    loaded: LoadedPolls,
    settings: PollingSettings,
    new_id: Callable[[str], str],
) -> RecordedPoll:
    match poll.result:
        case Skipped():
            plan.skipped.append(room.id)
            return RecordedPoll()
        case Failure() as failure:
            is_live = room.listed or room.session_key is not None or room.complete_at is None
            interval = settings.interval_of(room, is_live=is_live)
            plan.failed.append(_plan_failure(poll, room, failure, interval, suspects=room.id in loaded.with_suspects))
            return RecordedPoll()
        case Snapshot() as snapshot if not may_change(poll, room):
            interval = settings.interval_of(room, is_live=room.listed or room.session_key is not None)
            due_at = _next_poll(plan, poll, room, snapshot, interval, suspects=False)
            plan.quiet.append(QuietRoom(key=room.id, polled_at=poll.at, next_poll_at=due_at))
            return RecordedPoll()
        case Snapshot() as snapshot:
            return _plan_snapshot(plan, poll, room, snapshot, loaded.presence[room.id], settings, new_id)


def _next_poll(
    plan: PollPlan, poll: Poll, room: StoredRoom, snapshot: Snapshot, interval: timedelta, *, suspects: bool
) -> datetime:
    """When a room is polled next; one that was made due while the poll was under way stays due.

    A poll that contradicts a poke is repeated once: the list of peers may lag behind.
    """
    due_at = next_poll(poll.room.due_at, poll.at, interval, suspects=suspects)
    if (made_due_at := _made_due_at(poll, room)) is not None:
        return min(due_at, made_due_at)
    if room.expected is not None:
        plan.answered.append(room.id)
        if not room.expected.agrees_with(snapshot):
            return min(due_at, poll.at + FOLLOW_UP)
    return due_at


def _made_due_at(poll: Poll, room: StoredRoom) -> datetime | None:
    """The due time that the room was given while the poll was under way."""
    return None if room.next_poll_at == poll.room.due_at else room.next_poll_at


def _plan_failure(poll: Poll, room: StoredRoom, failure: Failure, interval: timedelta, *, suspects: bool) -> FailedRoom:
    failures = room.failures + 1
    due_at = next_poll_after_failure(
        poll.at, interval, failures, poll.jitter, suspects=suspects, retry_after=failure.retry_after
    )
    if failure.retry_after is None and (made_due_at := _made_due_at(poll, room)) is not None:
        due_at = min(due_at, made_due_at)
    return FailedRoom(
        key=room.id,
        polled_at=poll.at,
        next_poll_at=due_at,
        failures=failures,
        last_failure=f"{failure.kind.value}: {failure.detail}",
    )


def _plan_snapshot(
    plan: PollPlan,
    poll: Poll,
    room: StoredRoom,
    snapshot: Snapshot,
    before: Presence,
    settings: PollingSettings,
    new_id: Callable[[str], str],
) -> RecordedPoll:
    policy = _policy(room, settings)
    difference = diff(before, snapshot, policy, poll.at, new_id)
    session_id = plan.presence.add(room.id, before, difference, complete=snapshot.complete)
    drafts = [draft(change, poll.at) for change in difference.changes]
    drafts = [
        made if is_announced(change, difference, policy) else replace(made, audience=NO_ENDPOINT)
        for change, made in zip(difference.changes, drafts, strict=True)
    ]
    log, events = number_events(room.log, drafts, poll.at, new_id)
    plan.events += events
    suspects = difference.after.has_suspects
    interval = settings.interval_of(room, is_live=room.listed or bool(difference.after.visits))
    plan.seen.append(
        SeenRoom(
            polled_at=poll.at,
            next_poll_at=_next_poll(plan, poll, room, snapshot, interval, suspects=suspects),
            complete_at=difference.after.complete_at,
            fingerprint=snapshot.fingerprint if snapshot.complete and not suspects else None,
            session_id=session_id,
            log=log,
        )
    )
    return RecordedPoll(changes=difference.changes, event_count=len(events))


def _policy(room: StoredRoom, settings: PollingSettings) -> PresencePolicy:
    if room.leave_after_missed is None:
        return settings.policy
    return replace(settings.policy, leave_after_missed=room.leave_after_missed)


def _plan_sources(plan: PollPlan, ours: Sequence[Poll], loaded: LoadedPolls) -> dict[str, SourceHealth]:
    """Health of the sources after these polls; adds what changed to the plan."""
    by_source: dict[str, list[Poll]] = defaultdict(list)
    for poll in ours:
        by_source[poll.room.source].append(poll)
    after: dict[str, SourceHealth] = {}
    for name, polls in by_source.items():
        before = loaded.sources[name].health
        after[name] = health = _health_after(polls, loaded.sources[name], loaded.rooms)
        if health != before:
            plan.sources[name] = health
            if health.condition is Condition.OK and before.condition is not Condition.OK:
                plan.recovered.append(name)
            plan.notices += _notices(name, before, health, polls)
    return after


def _health_after(polls: Sequence[Poll], source: StoredSource, rooms: Mapping[int, StoredRoom]) -> SourceHealth:
    health = source.health
    for poll in polls:
        if not isinstance(poll.result, Skipped):
            health = update_source_health(
                health,
                poll.result if isinstance(poll.result, Failure) else None,
                is_probe=poll.room.is_probe,
                counts=rooms[poll.room.key].failures == 0 or not source.has_healthy_room,
                limit=failure_limit(source.room_count),
                now=poll.at,
                jitter=poll.jitter,
            )
    return health


def _notices(name: str, before: SourceHealth, after: SourceHealth, polls: Sequence[Poll]) -> list[Draft]:
    failures = [poll.result for poll in polls if isinstance(poll.result, Failure)]
    return source_notices(name, before, after, failures[-1] if failures else None, max(poll.at for poll in polls))


def source_notices(
    name: str, before: SourceHealth, after: SourceHealth, failure: Failure | None, at: datetime
) -> list[Draft]:
    """The notices about a source that has become unavailable by a failure, or available again."""
    was_away, is_away = before.condition in UNAVAILABLE, after.condition in UNAVAILABLE
    if was_away == is_away:
        return []
    affected = before if was_away else after
    return [
        draft_source(
            available=was_away,
            source=name,
            condition=affected.condition.value,
            since=affected.since or at,
            detail=failure.detail if failure is not None and is_away else None,
            observed_at=at,
        )
    ]

"""The poller: one poll from claim to record, and the loop around it. It knows `Source`, not Huddle01.

Each source has a pool of its own, so that a slow source delays no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from bridge.db.batch import GroupCommit
from bridge.db.cursors import Offer, TakenCursor
from bridge.db.engine import Database
from bridge.db.liveness import Worker
from bridge.logs import get_logger
from bridge.metrics import Metrics, PollOutcome, SourceMetrics
from bridge.polling.claim import claim_rooms, release_rooms
from bridge.polling.lister import Lister
from bridge.polling.plan import ClaimedRoom, Poll, PollingSettings, RecordedPoll, Skipped
from bridge.polling.record import record_polls
from bridge.rules.polling import pause_at_once
from bridge.rules.presence import Failure, FailureKind, PeerJoined, PeerLeft, Snapshot
from bridge.runtime import Runtime
from bridge.sources.protocol import ListingSource, Source, SourceSettings
from bridge.workers import Claimed, WorkerPool

log = get_logger("bridge.polling")


class EventTaker(Protocol):
    """The sender of this process, which delivers the events of polls."""

    def offer(self, token: str) -> Offer | None:
        """The cursors that it can take over when polls are recorded, claimed with `token`."""
        ...

    async def take_over(self, taken: Sequence[TakenCursor]) -> None:
        """Deliver what was claimed under the offer."""
        ...

    def wake(self) -> None:
        """Claim what is due."""
        ...


class NoSender:
    """Of a process that does not send: other processes find what is due."""

    def offer(self, token: str) -> Offer | None:  # noqa: ARG002 - the protocol's signature
        """Nothing."""
        return None

    async def take_over(self, taken: Sequence[TakenCursor]) -> None:
        """Never called, because it offers nothing."""

    def wake(self) -> None:
        """There is no sender to wake."""


class Poller:
    """Polls the due rooms of every source until stopped."""

    def __init__(
        self,
        database: Database,
        sources: Mapping[str, tuple[SourceSettings, Source]],
        settings: PollingSettings,
        runtime: Runtime,
        worker: Worker,
        sender: EventTaker,
        *,
        metrics: Metrics | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._runtime = runtime
        self._worker = worker
        self._sender = sender
        commits, metrics = GroupCommit(self._record), metrics or Metrics()
        self._pollers = {
            name: SourcePoller(database, account, source, commits, runtime, worker, sender, metrics.of_source(name))
            for name, (account, source) in sources.items()
        }
        self._listers = [
            Lister(database, account, source, settings.interval, runtime, worker, on_due=self.wake)
            for account, source in sources.values()
            if account.discover and isinstance(source, ListingSource)
        ]

    async def _record(self, polls: Sequence[Poll]) -> Sequence[RecordedPoll]:
        offer = self._sender.offer(self._worker.new_token())
        return await self._database.write(
            record_polls, polls, settings=self._settings, new_id=self._runtime.new_id, offer=offer
        )

    def wake(self, sources: Collection[str] | None = None) -> None:
        """Claim due rooms soon, of these sources or of all."""
        for name, poller in self._pollers.items():
            if sources is None or name in sources:
                poller.pool.wake()

    def wake_lists(self) -> None:
        """Ask soon for the lists of live rooms that are due."""
        for lister in self._listers:
            lister.pool.wake()

    @property
    def tokens(self) -> set[str]:
        """The tokens of its claims."""
        rooms = {room.token for poller in self._pollers.values() for room in poller.pool.claimed}
        return rooms | {one.token for lister in self._listers for one in lister.pool.claimed}

    async def tick(self) -> int:
        """Ask for the lists that are due, then poll the due rooms and record them; returns their number."""
        for lister in self._listers:
            await lister.pool.tick()
            await lister.pool.drain()
        polled = sum([await poller.pool.tick() for poller in self._pollers.values()])
        for poller in self._pollers.values():
            await poller.pool.drain()
        return polled

    async def run(self) -> None:
        """Poll until `stop`."""
        async with asyncio.TaskGroup() as group:
            for poller in self._pollers.values():
                group.create_task(poller.pool.run())
            for lister in self._listers:
                group.create_task(lister.pool.run())

    async def stop(self, grace: float) -> int:
        """Stop claiming, finish within `grace` seconds; returns the number of cancelled polls (they are due again)."""
        pollers = [poller.stop(grace) for poller in self._pollers.values()]
        return sum(await asyncio.gather(*pollers, *(lister.pool.stop(grace) for lister in self._listers)))


class SourcePoller:
    """Polls the rooms of one source."""

    def __init__(
        self,
        database: Database,
        account: SourceSettings,
        source: Source,
        commits: GroupCommit[Poll, RecordedPoll],
        runtime: Runtime,
        worker: Worker,
        sender: EventTaker,
        metrics: SourceMetrics,
    ) -> None:
        self._database = database
        self._account = account
        self._source = source
        self._commits = commits
        self._runtime = runtime
        self._worker = worker
        self._sender = sender
        self._metrics = metrics
        self._clock_skew: timedelta | None = None
        self._requests = asyncio.Semaphore(account.max_concurrency)
        self._stopping = False
        self._paused_until: datetime | None = None
        # Twice as many slots as requests: one half waits for its commit while the other is on the wire.
        self.pool: WorkerPool[ClaimedRoom] = WorkerPool(
            f"poll {account.name}",
            slots=2 * account.max_concurrency,
            claim=self._claim,
            work=self._poll,
            release=self._release,
        )

    async def stop(self, grace: float) -> int:
        """As `Poller.stop`; rooms that were not asked yet are given back."""
        self._stopping = True
        return await self.pool.stop(grace)

    async def _claim(self, slots: int) -> Claimed[ClaimedRoom]:
        rooms = await self._database.write(
            claim_rooms,
            self._account.name,
            requests_per_second=self._account.requests_per_second,
            limit=slots,
            now=self._runtime.now(),
            token=self._worker.new_token(),
            live_first=self._account.discover,
        )
        return Claimed(rooms, may_have_more=len(rooms) == slots)

    async def _release(self, rooms: Sequence[ClaimedRoom]) -> None:
        await self._database.write(release_rooms, rooms)

    async def _poll(self, room: ClaimedRoom) -> None:
        async with self._requests:
            started_at = self._runtime.now()
            skipped = self._must_skip(room, started_at)
            result = Skipped() if skipped else await self._source.fetch(room.upstream_id)
        at = self._runtime.now()
        if isinstance(result, Failure):
            if self._worker.owns(room.token):
                self._pause_at_once(result, at)
            else:
                result = Skipped()  # this process was frozen, and not the source slow
        poll = Poll(room=room, started_at=started_at, at=at, result=result, jitter=self._runtime.jitter())
        recorded = await self._commits.submit(poll)
        if not recorded.fenced and not isinstance(result, Skipped):
            self._update_pause(recorded.source_paused_until, ends=room.is_probe)
        if recorded.taken:
            await self._sender.take_over(recorded.taken)
        if recorded.wakes_senders:
            self._sender.wake()
        outcome = _outcome(poll, recorded)
        self._count(poll, outcome)
        _log_poll(poll, recorded, outcome)

    def _count(self, poll: Poll, outcome: str) -> None:
        self._metrics.count_poll(outcome)
        if not isinstance(poll.result, Skipped):
            delay, duration = poll.started_at - poll.room.due_at, poll.at - poll.started_at
            self._metrics.observe_request(delay=delay, duration=duration)
        skew = self._source.clock_skew
        if skew is not self._clock_skew:
            self._clock_skew = skew
            self._metrics.show_clock_skew(skew)

    def _must_skip(self, room: ClaimedRoom, now: datetime) -> bool:
        """Whether the source was paused, this poller stopped, or this process frozen after the room was claimed."""
        is_paused = self._paused_until is not None and self._paused_until > now
        return self._stopping or (is_paused and not room.is_probe) or not self._worker.owns(room.token)

    def _pause_at_once(self, failure: Failure, at: datetime) -> None:
        """Keep claimed rooms from being asked before the failure is recorded."""
        paused_until = pause_at_once(failure, at)
        if paused_until is not None:
            self._paused_until = paused_until

    def _update_pause(self, recorded: datetime | None, *, ends: bool) -> None:
        """Take over the recorded pause; an earlier poll that is recorded late does not end it, a probe does."""
        if ends or self._paused_until is None:
            self._paused_until = recorded
        elif recorded is not None:
            self._paused_until = max(self._paused_until, recorded)


def _outcome(poll: Poll, recorded: RecordedPoll) -> str:
    if recorded.fenced:
        return PollOutcome.FENCED.value
    match poll.result:
        case Skipped():
            return PollOutcome.SKIPPED.value
        case Failure(kind=kind):
            return kind.value
        case Snapshot(complete=complete):
            return PollOutcome.COMPLETE.value if complete else PollOutcome.INCOMPLETE.value


def _log_poll(poll: Poll, recorded: RecordedPoll, outcome: str) -> None:
    """One line per poll: a warning for failures, debug if nothing changed."""
    facts: dict[str, object] = {
        "outcome": outcome,
        "source": poll.room.source,
        "room": poll.room.upstream_id,
        "duration_ms": round((poll.at - poll.started_at) / timedelta(milliseconds=1), 1),
    }
    if recorded.fenced:
        log.warning("room.polled", **facts)
        return
    match poll.result:
        case Skipped():
            log.debug("room.polled", **facts)
        case Failure(kind=kind, detail=detail):
            write = log.error if kind is FailureKind.UNAUTHORIZED else log.warning
            write("room.polled", detail=detail, **facts)
        case Snapshot(peers=peers, notes=notes):
            write = log.info if recorded.changes or notes else log.debug
            write(
                "room.polled",
                peers=len(peers),
                joined=sum(isinstance(change, PeerJoined) for change in recorded.changes),
                left=sum(isinstance(change, PeerLeft) for change in recorded.changes),
                events=recorded.event_count,
                notes=list(notes),
                **facts,
            )

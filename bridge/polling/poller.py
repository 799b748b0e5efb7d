"""The poller: asks each source about the rooms that are due, and has what it hears written down.

One pool per source, so that a slow source delays nobody else. The poller knows `Source`, not Huddle01.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog

from bridge.db.batch import GroupCommit
from bridge.db.engine import Database
from bridge.polling.record import (
    ClaimedRoom,
    PolledRoom,
    PollingSettings,
    Recorded,
    Skipped,
    claim_rooms,
    record_polls,
    release_rooms,
)
from bridge.rules.polling import RATE_LIMITED_PAUSE, RETRY_AFTER_LIMIT, SHORTEST_PAUSE, UNAUTHORIZED_PAUSE
from bridge.rules.presence import Failure, FailureKind, PeerJoined, PeerLeft, Snapshot
from bridge.runtime import Runtime
from bridge.sources.protocol import Source, SourceSettings
from bridge.workers import WorkerPool

LEASE_MARGIN = timedelta(seconds=5)


class RequestSlots:
    """How many requests each source may get at once, over all the pollers of this process that follow each other."""

    def __init__(self) -> None:
        self._slots: dict[str, tuple[int, asyncio.Semaphore]] = {}

    def of(self, account: SourceSettings) -> asyncio.Semaphore:
        """The slots of a source; new ones if there are to be more or fewer."""
        count, slots = self._slots.get(account.name, (0, None))
        if slots is None or count != account.max_concurrency:
            slots = asyncio.Semaphore(account.max_concurrency)
            self._slots[account.name] = (account.max_concurrency, slots)
        return slots


log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.polling.poller")


class Poller:
    """Polls what is due in every source, until stopped."""

    def __init__(
        self,
        database: Database,
        sources: Mapping[str, tuple[SourceSettings, Source]],
        settings: PollingSettings,
        runtime: Runtime,
        *,
        on_events: Callable[[], None],
        slots: RequestSlots | None = None,
    ) -> None:
        commits = GroupCommit(database, partial(record_polls, settings=settings, new_id=runtime.new_id))
        slots = slots or RequestSlots()
        self._watches = [
            _Watch(database, account, source, commits, runtime, on_events, slots.of(account))
            for account, source in sources.values()
        ]

    def wake(self) -> None:
        """Look for rooms that are due."""
        for watch in self._watches:
            watch.pool.wake()

    async def tick(self) -> int:
        """Poll what is due now, once, and have it written down; answers how many rooms that were."""
        polled = sum([await watch.pool.tick() for watch in self._watches])
        for watch in self._watches:
            await watch.pool.settle()
        return polled

    async def run(self) -> None:
        """Poll until `stop`."""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(watch.pool.run())

    async def stop(self, grace: float | None) -> int:
        """Stop claiming, finish what is under way; answers how many polls were dropped (they are due again)."""
        return sum(await asyncio.gather(*(watch.stop(grace) for watch in self._watches)))

    def disown(self, names: Collection[str]) -> None:
        """What these sources still response says nothing any more: they are asked at another address, or as another."""
        for watch in self._watches:
            watch.disowned |= watch.name in names


class _Watch:
    """One source and the pool that polls it."""

    def __init__(
        self,
        database: Database,
        account: SourceSettings,
        source: Source,
        commits: GroupCommit[PolledRoom, Recorded],
        runtime: Runtime,
        on_events: Callable[[], None],
        requests: asyncio.Semaphore,
    ) -> None:
        self.disowned = False
        self._database = database
        self._account = account
        self._source = source
        self._commits = commits
        self._world = runtime
        self._on_events = on_events
        self._requests = requests
        self._stopping = False
        self._paused_until: datetime | None = None
        # Twice as many slots as requests: while one half waits for its commit, the other half is on the wire.
        self.pool: WorkerPool[ClaimedRoom] = WorkerPool(
            f"poll {account.name}",
            slots=2 * account.max_concurrency,
            claim=self._claim,
            work=self._poll,
            release=self._release,
        )

    @property
    def name(self) -> str:
        """The source's."""
        return self._account.name

    async def stop(self, grace: float | None) -> int:
        """As `Poller.stop`; what has not been asked yet is given back unasked."""
        self._stopping = True
        return await self.pool.stop(grace)

    async def _claim(self, slots: int) -> Sequence[ClaimedRoom]:
        now = self._world.now()
        return await self._database.write(
            claim_rooms,
            self._account.name,
            requests_per_second=self._account.requests_per_second,
            limit=slots,
            now=now,
            lease_until=now + 2 * self._account.timeout + LEASE_MARGIN,
            token=self._world.new_token(),
        )

    async def _release(self, rooms: Sequence[ClaimedRoom]) -> None:
        await self._database.write(release_rooms, rooms)

    async def _poll(self, room: ClaimedRoom) -> None:
        async with self._requests:
            started_at = self._world.now()
            response = self._hold(room, started_at) or await self._source.fetch(room.upstream_id)
        at = self._world.now()
        was_frozen = isinstance(response, Failure) and at - started_at > self._account.timeout + LEASE_MARGIN
        if was_frozen or self.disowned:
            response = Skipped(until=at)  # that says nothing about the source
        if isinstance(response, Failure):
            self._take_note(response, at)
        polled = PolledRoom(room=room, started_at=started_at, at=at, response=response, jitter=self._world.jitter())
        recorded = await self._commits.submit(polled)
        if not recorded.fenced and not isinstance(response, Skipped):
            self._paused_until = self._hold_that_counts(recorded.source_paused_until, lifts=room.is_probe)
        if recorded.event_count:
            self._on_events()
        _tell(polled, recorded)

    def _hold(self, room: ClaimedRoom, now: datetime) -> Skipped | None:
        """A room that was claimed before its source asked for quiet, or before we stop, is not asked about."""
        if self._stopping or self.disowned:
            return Skipped(until=now)
        if room.is_probe or self._paused_until is None or self._paused_until <= now:
            return None
        return Skipped(until=self._paused_until)

    def _hold_that_counts(self, judged: datetime | None, *, lifts: bool) -> datetime | None:
        """An response that is recorded after another one asked for quiet does not lift that; a probe's does."""
        if lifts or self._paused_until is None:
            return judged
        return self._paused_until if judged is None else max(self._paused_until, judged)

    def _take_note(self, failure: Failure, at: datetime) -> None:
        """Hold back what waits for a seat, before the source_update of the whole source is written down."""
        match failure.kind:
            case FailureKind.RATE_LIMITED:
                asked = RATE_LIMITED_PAUSE if failure.retry_after is None else failure.retry_after
                self._paused_until = at + min(max(asked, SHORTEST_PAUSE), RETRY_AFTER_LIMIT)
            case FailureKind.UNAUTHORIZED:
                self._paused_until = at + UNAUTHORIZED_PAUSE
            case _:
                pass


def _tell(polled: PolledRoom, recorded: Recorded) -> None:
    """One line per poll: loud when something is wrong, quiet when nothing changed."""
    facts: dict[str, object] = {
        "source": polled.room.source,
        "room": polled.room.upstream_id,
        "duration_ms": round((polled.at - polled.started_at) / timedelta(milliseconds=1), 1),
    }
    if recorded.fenced:
        log.warning("room.polled", outcome="fenced", **facts)
        return
    match polled.response:
        case Skipped(until=until):
            log.debug("room.polled", outcome="held", until=until.isoformat(), **facts)
        case Failure(kind=kind, detail=detail):
            speak = log.error if kind is FailureKind.UNAUTHORIZED else log.warning  # only a person can mend a key
            speak("room.polled", outcome=kind.value, detail=detail, **facts)
        case Snapshot(peers=peers, complete=complete, notes=notes):
            speak = log.info if recorded.changes or notes else log.debug
            speak(
                "room.polled",
                outcome="complete" if complete else "incomplete",
                peers=len(peers),
                joined=sum(isinstance(change, PeerJoined) for change in recorded.changes),
                left=sum(isinstance(change, PeerLeft) for change in recorded.changes),
                events=recorded.event_count,
                notes=list(notes),
                **facts,
            )

"""Periodic work, in one process at a time: retention, exact times, checkpoints, due times."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import timedelta

from bridge.admin.clock import longest_wait, make_everything_due, make_impossible_due, waits_impossibly
from bridge.admin.retention import prune_attempts
from bridge.attendance.audit import append_checkpoint, has_grown, open_checkpoint_file, write_checkpoint
from bridge.attendance.clocks import oldest_clock
from bridge.attendance.reconcile import (
    EndedSession,
    ReconciledSession,
    ReconcileTerms,
    find_due,
    reconcile_sessions,
)
from bridge.attendance.retention import Pruned, prune_room, rooms_to_prune
from bridge.config import Settings
from bridge.db.encryption import delete_expired_secrets
from bridge.db.engine import Database
from bridge.db.jobs import claim_job, clock_has_jumped, finish_job
from bridge.db.liveness import Worker
from bridge.errors import DatabaseError
from bridge.logs import get_logger
from bridge.polling.discovery import forget_rooms
from bridge.runtime import Runtime
from bridge.scheduler import Job
from bridge.sources.kinds import open_source

PRUNE_CHECK = timedelta(seconds=10)
SHORTEST_CHECK = timedelta(seconds=1)
"""A check for a due checkpoint tries to claim it, which is a write."""
DAY = timedelta(days=1)
SESSIONS_AT_ONCE = 20
"""Sessions that are reconciled before other jobs have their turn."""
LONGEST_PRUNE_INTERVAL = timedelta(minutes=10)
CLOCK_JUMP = timedelta(hours=1)
"""After the clock was set forward by this much or more, nothing is deleted by age until a day has passed."""
DUE_TIMES_CHECK = timedelta(seconds=10)

log = get_logger("bridge.service")


def checkpoint_check(every: timedelta) -> timedelta:
    """Interval of the check whether a checkpoint is due: if one comes a moment early, the next one must not be far."""
    return min(max(every / 2, SHORTEST_CHECK), PRUNE_CHECK) if every else PRUNE_CHECK


class Jobs:
    """The jobs of one process.

    Args:
        database: what they work on.
        runtime: clock, ids and chance.
        worker: the process's registration, which makes tokens for claims.
        settings: returns the current ones.
        on_appended: called when a job has appended events.
    """

    def __init__(
        self,
        database: Database,
        runtime: Runtime,
        worker: Worker,
        settings: Callable[[], Settings],
        on_appended: Callable[[], None],
    ) -> None:
        self._database = database
        self._runtime = runtime
        self._worker = worker
        self._current_settings = settings
        self._on_appended = on_appended
        self._prunes_after = 0.0
        self.tokens: set[str] = set()
        """The tokens of the claims of jobs."""

    def all(self) -> list[Job]:
        """The jobs. How often a checkpoint is looked for depends on the settings at the start, and not on a reload."""
        checkpoints = checkpoint_check(self._settings.audit.checkpoint_every)
        return [
            Job(name="prune", every=PRUNE_CHECK, run=self._prune),
            Job(name="due_times", every=DUE_TIMES_CHECK, run=self._check_due_times),
            Job(name="retention", every=PRUNE_CHECK, run=self._forget),
            Job(name="reconcile", every=PRUNE_CHECK, run=self._reconcile),
            Job(name="checkpoint", every=checkpoints, run=self._checkpoint),
            Job(name="forget rooms", every=PRUNE_CHECK, run=self._forget_rooms),
        ]

    @contextmanager
    def claim_token(self) -> Iterator[str]:
        """Yield a token for a claim, as long as the block lasts."""
        token = self._worker.new_token()
        self.tokens.add(token)
        try:
            yield token
        finally:
            self.tokens.discard(token)

    @property
    def _settings(self) -> Settings:
        return self._current_settings()

    async def _prune(self) -> None:
        """Apply retention, in one process at a time."""
        if self._is_clock_doubtful:
            return
        every = min(max(self._settings.retention.attempts / 10, PRUNE_CHECK), LONGEST_PRUNE_INTERVAL)
        await self._in_one_process("prune", every, self._prune_now)

    async def _prune_now(self) -> None:
        now = self._runtime.now()
        await self._database.write_aside(delete_expired_secrets, now)
        count = 0
        while deleted := await self._database.write_aside(prune_attempts, now - self._settings.retention.attempts):
            count += deleted
        if count:
            log.info("attempts.pruned", count=count)

    async def _checkpoint(self) -> None:
        """Make a checkpoint if one is due."""
        every = self._settings.audit.checkpoint_every
        if every:
            await self._in_one_process("checkpoint", every, self._checkpoint_now, waits_at_first=True)

    async def _checkpoint_now(self) -> None:
        if not await self._database.read(has_grown):
            return
        path = self._settings.audit.checkpoint_file
        try:
            file = open_checkpoint_file(path) if path else None
        except OSError as error:
            log.error("checkpoint.failed", file=path, detail=str(error.strerror))  # noqa: TRY400 - the reason is all
            return
        found = await self._database.write_aside(append_checkpoint, self._runtime.now(), self._runtime.new_id)
        if file is not None:
            with file:
                await asyncio.to_thread(write_checkpoint, file, found)
        log.info("checkpoint.appended", merkle_root=found.merkle_root.hex(), events=found.event_count)

    async def _forget(self) -> None:
        """Apply the retention of the event log, once a day."""
        await self._in_one_process("retention", DAY, self._forget_now)

    async def _forget_now(self) -> None:
        now = self._runtime.now()
        if self._is_clock_doubtful or await self._database.read(clock_has_jumped, "retention", every=DAY, now=now):
            log.warning("retention.postponed", detail="the clock was changed, or nothing ran for long: it waits a day")
            return
        if not await self._database.read(rooms_to_prune, now - self._settings.retention.events):
            return
        async with AsyncExitStack() as stack:
            sources = [open_source(account, self._runtime.now) for account in self._settings.sources]
            for source in sources:
                stack.push_async_callback(source.aclose)
            now = await oldest_clock(self._database, sources, now)
        before, total = now - self._settings.retention.events, Pruned()
        for key in await self._database.read(rooms_to_prune, before):
            while (pruned := await self._database.write_aside(prune_room, key, before)).events:
                total += pruned
        if total.events:
            log.info("events.pruned", events=total.events, visits=total.visits, sessions=total.sessions)

    async def _forget_rooms(self) -> None:
        """Stop tracking discovered rooms that have not been live for long."""
        spans = [source.discover_forget for source in self._settings.sources]
        if spans and not self._is_clock_doubtful:
            every = min(max(min(spans) / 10, PRUNE_CHECK), LONGEST_PRUNE_INTERVAL)
            await self._in_one_process("forget rooms", every, self._forget_rooms_now)

    async def _forget_rooms_now(self) -> None:
        for source in self._settings.sources:
            now = self._runtime.now()
            while forgotten := await self._database.write_aside(
                forget_rooms,
                source.name,
                is_listed=source.discover,
                before=now - source.discover_forget,
                now=now,
                new_id=self._runtime.new_id,
            ):
                log.info("rooms.forgotten", source=source.name, rooms=forgotten)

    async def _reconcile(self) -> None:
        """Ask for the records of sessions that have ended; a claim is a write, so it is made only if one is due."""
        try:
            is_due = self._settings.attendance.reconcile and await self._sessions_to_reconcile()
        except DatabaseError as error:
            log.warning("job.failed", job="reconcile", detail=str(error))
        else:
            if is_due:
                await self._in_one_process("reconcile", PRUNE_CHECK, self._reconcile_now)

    async def _sessions_to_reconcile(self) -> list[EndedSession]:
        after = self._settings.attendance.reconcile_after
        return await self._database.read(find_due, self._runtime.now(), after, SESSIONS_AT_ONCE)

    async def _reconcile_now(self) -> None:
        settings = self._settings
        due = await self._sessions_to_reconcile()
        terms = ReconcileTerms(after=settings.attendance.reconcile_after, identity=settings.polling.policy.identity)
        await reconcile_sessions(self._database, settings.sources, due, self._runtime, terms, self._on_reconciled)

    def _on_reconciled(self, done: ReconciledSession) -> None:
        write = log.info if done.outcome.is_final else log.warning
        write(
            "session.reconciled",
            source=done.session.source,
            room=done.session.room_id,
            session=done.session.session_id,
            outcome=done.outcome.value,
            changed=done.has_changed,
            notes=list(done.notes),
        )
        if done.has_changed:
            self._on_appended()

    async def _in_one_process(
        self, name: str, every: timedelta, work: Callable[[], Awaitable[None]], *, waits_at_first: bool = False
    ) -> None:
        """Do work that is due, unless another process does it."""
        now = self._runtime.now()
        with self.claim_token() as token:
            try:
                if await self._database.write_aside(
                    claim_job, name, every=every, now=now, token=token, waits_at_first=waits_at_first
                ):
                    await work()
                    await self._database.write_aside(finish_job, name, token=token, next_run_at=now + every)
            except DatabaseError as error:
                log.warning("job.failed", job=name, detail=str(error))

    @property
    def _is_clock_doubtful(self) -> bool:
        """Whether the clock was set forward less than a day ago: nothing is deleted by age then."""
        return asyncio.get_running_loop().time() < self._prunes_after

    async def on_clock_changed(self, moved: timedelta) -> None:
        """Delete nothing for a day after the clock was set forward far; make everything due after it was put back."""
        if moved >= CLOCK_JUMP:
            self._prunes_after = asyncio.get_running_loop().time() + DAY.total_seconds()
        if moved < timedelta():
            await self._reschedule(lambda: self._database.write_aside(make_everything_due, self._runtime.now()))

    async def _check_due_times(self) -> None:
        """Make due whatever waits too long because of a wrong clock, of this machine or another one."""
        polling = self._settings.polling
        longest = longest_wait(max(polling.interval, polling.idle_interval), self._settings.delivery.policy)

        async def check() -> None:
            now = self._runtime.now()
            if await self._database.read(waits_impossibly, now + longest):
                await self._database.write_aside(make_impossible_due, now, longest)

        await self._reschedule(check)

    async def _reschedule(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except DatabaseError as error:
            log.warning("clock.reschedule_failed", detail=str(error))

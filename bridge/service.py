"""The composition root: builds everything, beats time, runs the roles, answers signals, stops in order.

APScheduler is only the metronome; what is due stands in SQL. The one place besides the CLI that reads the clock.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from ulid import ULID

from bridge import __version__
from bridge.admin.configured import reconcile
from bridge.admin.retention import prune_attempts
from bridge.config import Settings
from bridge.db.clock import forgive_clock
from bridge.db.encryption import SecretCipher
from bridge.db.engine import Database
from bridge.db.leases import take_lease
from bridge.db.migrate import ensure_schema
from bridge.db.reencryption import prune_secrets
from bridge.delivery.client import WebhookClient
from bridge.delivery.endpoints import EndpointContext
from bridge.delivery.sender import REDELIVERY_SLOTS, SLOTS, Sender
from bridge.delivery.snapshots import append_snapshots
from bridge.errors import BridgeError, ConfigurationError, DatabaseError
from bridge.polling.poller import Poller, RequestSlots
from bridge.polling.rooms import apply_shorter_intervals
from bridge.polling.source_state import retry_sources
from bridge.rules.signing import generate_secret, generate_signing_key
from bridge.runtime import Runtime
from bridge.shift import Shift
from bridge.signals import Heard, StopSignals
from bridge.sources.huddle01.client import Huddle01Source, open_client
from bridge.sources.protocol import CheckableSource, SourceSettings
from bridge.workers import RELEASE_SECONDS

TICK_SECONDS = 0.2
"""How often is looked for what has become due; what this process itself brings about wakes it at once."""

LOOK_TO_PRUNE_SECONDS = 10
PRUNE_EVERY = timedelta(minutes=10)
CLOCK_SECONDS = 5
CLOCK_TOLERANCE = timedelta(seconds=10)
OPEN_FILES = 65_536
SPARE_FILES = 128
"""Database, log, pages, and what Python itself has open."""
LEAST_SEATS = 16
LAST_WORD_SECONDS = 0.5
"""How long the database has, at the very end, to finish what its threads are at."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.service")


class Role(StrEnum):
    """What a process does; any assign_sequences of processes may do each on PostgreSQL."""

    POLLER = "poller"
    SENDER = "sender"
    WEB = "web"


def system_runtime() -> Runtime:
    """The real clock and real chance."""
    return Runtime(
        now=lambda: datetime.now(UTC),
        new_id=lambda prefix: f"{prefix}_{str(ULID()).lower()}",
        new_token=lambda: secrets.token_hex(8),
        jitter=random.random,
    )


def new_secret(signature: str) -> str:
    """A fresh secret for `v1` or `v1a`."""
    random_bytes = secrets.token_bytes(32)
    return generate_signing_key(random_bytes) if signature == "v1a" else generate_secret(random_bytes)


def endpoint_context(settings: Settings, runtime: Runtime) -> EndpointContext:
    """What changes of endpoints need."""
    return EndpointContext(
        now=runtime.now(),
        new_id=runtime.new_id,
        new_secret=new_secret,
        cipher=SecretCipher(settings.encryption_keys),
        rotation_grace=settings.delivery.policy.rotation_grace,
    )


def append_all_snapshots(database: Database, runtime: Runtime) -> None:
    """Tell whoever waits for it who is in the rooms, a few hundred at a time.

    Raises:
        DatabaseError: the database failed; whoever starts or adds an endpoint next goes on.
    """
    while database.write_now(append_snapshots, runtime.now(), runtime.new_id):
        pass


def open_source(settings: SourceSettings, runtime: Runtime) -> CheckableSource:
    """The source that an account's kind names."""
    return Huddle01Source(settings, open_client(settings), __version__, runtime.now)


def open_webhook_client(settings: Settings, runtime: Runtime) -> WebhookClient:
    """The client for deliveries, with its guard."""
    return WebhookClient(settings.delivery.egress, user_agent=f"presence-bridge/{__version__}", clock=runtime.now)


class Service:
    """One process of the bridge."""

    def __init__(
        self,
        settings: Settings,
        roles: frozenset[Role] = frozenset(Role),
        *,
        reload: Callable[[], Settings] | None = None,
        runtime: Runtime | None = None,
        on_ready: Callable[[str | None], None] = lambda _url: None,
    ) -> None:
        """Start nothing yet; `on_ready` is called with the URL of the status page (None if off) once it serves."""
        self._settings = settings
        self._on_ready = on_ready
        self._roles = roles
        self._reload = reload
        self._world = runtime or system_runtime()
        self._database = Database(settings.database.url)
        self._reloading = ThreadPoolExecutor(1, "reload")
        self._taking: Future[bool] | None = None
        self._request_slots = RequestSlots()
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._stopping = False
        self._stop_signals = StopSignals()
        self._told_to_stop = asyncio.Event()
        self._pruning: asyncio.Task[None] | None = None
        self._latest = self._world.now()
        self._open_files = OPEN_FILES
        self._wake_poller: Callable[[], None] = lambda: None
        self._wake_sender: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Run until told to stop.

        Raises:
            BridgeError: it cannot start.
        """
        self._open_files = _raise_open_files()
        with self._signals_caught():
            try:
                if await self._prepare():
                    await self._serve()
            finally:
                self._reloading.shutdown(wait=False, cancel_futures=True)
                has_ended = self._database.close(LAST_WORD_SECONDS)
        log.info("bridge.stopped")
        is_hanging = self._taking is not None and not self._taking.done()
        if is_hanging or not has_ended:  # what does not response holds a thread, and Python would wait for it
            os._exit(0)

    async def _prepare(self) -> bool:
        """Bring schema and configuration into the database; answers whether nobody has said stop meanwhile."""
        preparing = asyncio.create_task(self._database.run(self._bring_in))
        stopping = asyncio.create_task(self._told_to_stop.wait())
        await asyncio.wait([preparing, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._stopping:
            preparing.add_done_callback(lambda task: task.cancelled() or task.exception())  # it matters no more
            return False
        await preparing
        return True

    def _bring_in(self) -> None:
        ensure_schema(self._database)
        self._reconcile()
        append_all_snapshots(self._database, self._world)

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(self._web())
            await stack.enter_async_context(self._metronome())
            roles = sorted(role.value for role in self._roles)
            log.info("bridge.started", version=__version__, roles=roles, database=self._database.name)
            self._on_ready(url)
            await self._work()

    def stop(self) -> None:
        """Stop in order, as SIGTERM does; asking again changes nothing."""
        if not self._stopping:
            self._hear(signal.SIGTERM)

    async def _work(self) -> None:
        """Run workers until told to stop. New settings get new ones at once; the old ones finish what they are at."""
        asides = set[asyncio.Task[None]]()
        shifts = [await self._begin_shift(files_in_use=0)]
        asides.add(asyncio.create_task(self._settle_in(changed=())))
        while not self._stopping:
            before = self._settings
            await self._told()
            if not self._stopping:
                changed = _changed_sources(before, self._settings)
                shifts = [one for one in shifts if not one.ended]
                for one in shifts:
                    one.disown(changed)
                relieved, busy = shifts[-1], sum(one.busy for one in shifts)
                shifts.append(await self._begin_shift(files_in_use=busy))
                asides.add(asyncio.create_task(self._settle_in(changed=changed)))
                asides.add(asyncio.create_task(self._relieve(relieved, shifts[-1])))
        await self._finish(shifts, asides)

    async def _finish(self, shifts: Sequence[Shift], asides: Collection[asyncio.Task[None]]) -> None:
        """End all work within `shutdown_grace`, whatever hangs; the last bit of it is for closing what is open."""
        grace = self._settings.bridge.shutdown_grace.total_seconds()
        ends = [asyncio.create_task(one.end(grace * 0.9 - min(RELEASE_SECONDS, grace * 0.1))) for one in shifts]
        done, late = await asyncio.wait([*ends, *asides], timeout=grace * 0.9)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            task.result()

    async def _relieve(self, shift: Shift, successor: Shift) -> None:
        """Let the workers of the settings before finish: each item of work has its own time-out."""
        await shift.end(None)
        successor.resize(self._slots(self._settings))
        await self._apply_shorter_intervals()  # they may have made appointments by the old intervals

    async def _settle_in(self, changed: Collection[str]) -> None:
        """What a start and a reload change for what waits: sources in trouble are tried again, intervals hold."""
        if Role.POLLER in self._roles:
            await self._try_sources_again(changed)
            await self._apply_shorter_intervals()

    async def _begin_shift(self, *, files_in_use: int) -> Shift:
        settings = self._settings
        workers: list[Poller | Sender] = []
        stack = AsyncExitStack()
        if Role.SENDER in self._roles:
            client = await stack.enter_async_context(open_webhook_client(settings, self._world))
            sender = Sender(
                self._database,
                client,
                settings.delivery.policy,
                self._world,
                cipher=SecretCipher(settings.encryption_keys),
                slots=self._slots(settings, files_in_use),
            )
            self._wake_sender = sender.wake
            workers.append(sender)
        if Role.POLLER in self._roles and settings.sources:
            sources = {account.name: (account, open_source(account, self._world)) for account in settings.sources}
            for _, source in sources.values():
                stack.push_async_callback(source.aclose)
            wake_sender = lambda: self._wake_sender()  # noqa: E731, PLW0108 - of whichever shift is on then
            poller = Poller(
                self._database,
                sources,
                settings.polling,
                self._world,
                on_events=wake_sender,
                slots=self._request_slots,
            )
            self._wake_poller = poller.wake
            workers.append(poller)
        return Shift(workers, stack)

    def _slots(self, settings: Settings, files_in_use: int = 0) -> int:
        """As many as there are files to open: else a connection would fail, and its endpoint would be blamed."""
        others = SPARE_FILES + REDELIVERY_SLOTS + sum(account.max_concurrency for account in settings.sources)
        others += files_in_use
        return min(SLOTS, max(LEAST_SEATS, self._open_files - others))

    async def _try_sources_again(self, changed: Collection[str]) -> None:
        try:
            await self._database.write(retry_sources, changed, self._world.now())
        except DatabaseError as error:
            log.warning("claim.failed", pool="poll", detail=str(error))

    async def _apply_shorter_intervals(self) -> None:
        """Apply intervals that have become shorter."""
        try:
            await self._database.write(apply_shorter_intervals, self._settings.polling.interval, self._world.now())
        except DatabaseError as error:
            log.warning("claim.failed", pool="poll", detail=str(error))

    def _reconcile(self) -> None:
        settings = self._settings
        for remark in settings.without_effect:
            log.warning("configuration.without_effect", detail=remark)
        self._database.write_now(
            reconcile,
            sources=[account.name for account in settings.sources],
            rooms=settings.rooms,
            endpoints=settings.endpoints,
            context=endpoint_context(settings, self._world),
            may_empty=settings.has_file,
        )

    async def _told(self) -> None:
        """Wait for a signal that ends this round of work."""
        while not self._stopping:
            if await self._signals.get() is signal.SIGHUP:
                if await self._is_reloaded():
                    return
            else:
                self._stopping = True

    async def _is_reloaded(self) -> bool:
        """Take new settings, unless somebody says stop before a file or the database has answered."""
        self._taking = self._reloading.submit(self._take_new_settings)
        taking: asyncio.Future[bool] = asyncio.wrap_future(self._taking)
        stopping = asyncio.create_task(self._told_to_stop.wait())
        await asyncio.wait((taking, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        return taking.done() and taking.result()

    def _take_new_settings(self) -> bool:
        """Load the configuration again; a broken one changes nothing and is told."""
        if self._reload is None:
            return False
        before = self._settings
        try:
            self._settings = _not_emptied(before, self._reload())
            self._reconcile()
            append_all_snapshots(self._database, self._world)
        except BridgeError as error:
            self._settings = before
            problems = [str(problem) for problem in error.problems] if isinstance(error, ConfigurationError) else []
            log.error("configuration.rejected", detail=str(error), problems=problems)  # noqa: TRY400 - no traceback: the operator's file is wrong
            return False
        after = self._settings
        if (before.database, before.web, before.log) != (after.database, after.web, after.log):
            log.warning("configuration.restart_needed", detail="[database], [web] and [log] wait for the next start")
        log.info("configuration.reloaded")
        return True

    @asynccontextmanager
    async def _metronome(self) -> AsyncIterator[None]:
        scheduler = AsyncIOScheduler(timezone=UTC)
        if Role.POLLER in self._roles:
            scheduler.add_job(self._beat_poller, "interval", seconds=TICK_SECONDS, id="poll")
        if Role.SENDER in self._roles:
            scheduler.add_job(self._beat_sender, "interval", seconds=TICK_SECONDS, id="send")
        # It is asked often whether it is time: the lease says how long ago somebody did it.
        now = self._world.now()
        scheduler.add_job(self._beat_prune, "interval", seconds=LOOK_TO_PRUNE_SECONDS, id="prune", next_run_time=now)
        scheduler.start()
        watching = asyncio.create_task(self._watch_clock(scheduler))
        try:
            yield
        finally:
            watching.cancel()
            scheduler.shutdown(wait=False)
            if self._pruning is not None:
                self._pruning.cancel()
                await asyncio.gather(self._pruning, return_exceptions=True)

    async def _watch_clock(self, scheduler: AsyncIOScheduler) -> None:
        """Beat by a clock that nobody can put back: APScheduler's own jobs would wait until the other has caught up."""
        while True:
            await asyncio.sleep(CLOCK_SECONDS)
            now = self._world.now()
            if self._latest - now >= CLOCK_TOLERANCE:
                for job in scheduler.get_jobs():
                    job.modify(next_run_time=now)
            await self._forgive_clock(now)

    async def _forgive_clock(self, now: datetime) -> None:
        ahead, self._latest = self._latest - now, now
        if ahead < CLOCK_TOLERANCE:
            return
        log.warning("clock.put_back", seconds=ahead.total_seconds())
        try:
            await self._database.write(forgive_clock, now)
        except DatabaseError as error:
            self._latest = now + ahead  # read_health again at the next beat
            log.warning("clock.not_forgiven", detail=str(error))

    async def _prune(self) -> None:
        """Apply retention, in one process at a time, and more often where it is short."""
        now, retention = self._world.now(), self._settings.retention.attempts
        every = min(max(retention / 10, timedelta(seconds=LOOK_TO_PRUNE_SECONDS)), PRUNE_EVERY)
        try:
            if not await self._database.write(take_lease, "prune", self._world.new_token(), now, now + every):
                return
            await self._database.write(prune_secrets, now)
            forgotten = 0
            while count := await self._database.write(prune_attempts, now - retention):
                forgotten += count
        except DatabaseError as error:
            log.warning("prune.failed", detail=str(error))
            return
        if forgotten:
            log.info("attempts.pruned", count=forgotten)

    async def _beat_poller(self) -> None:
        self._wake_poller()

    async def _beat_sender(self) -> None:
        self._wake_sender()

    async def _beat_prune(self) -> None:
        if self._pruning is None or self._pruning.done():
            self._pruning = asyncio.create_task(self._prune())

    @asynccontextmanager
    async def _web(self) -> AsyncIterator[str | None]:
        listen = self._settings.web.listen
        if Role.WEB not in self._roles or listen is None:
            if self._roles == {Role.WEB}:
                log.warning("web.off", detail='this process has nothing to do: web.listen is ""')
            yield None
            return
        # Loading them takes a third of a second, and only this role needs them.
        from bridge.web.app import (
            AppState,
            create_app,
        )
        from bridge.web.server import serve_app  # noqa: PLC0415

        app = create_app(AppState(name=self._settings.bridge.name, database=self._database, now=self._world.now))
        remedy = 'choose another address for web.listen, or "" for none'
        async with serve_app(app, host=listen.host, port=listen.port, remedy=remedy) as url:
            log.info("web.listening", url=url)
            yield url

    @contextmanager
    def _signals_caught(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for assign_sequences in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(assign_sequences, self._hear, assign_sequences)
        try:
            yield
        finally:
            for assign_sequences in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(assign_sequences)

    def _hear(self, assign_sequences: signal.Signals) -> None:
        if assign_sequences is signal.SIGHUP:
            self._signals.put_nowait(assign_sequences)
            return
        match self._stop_signals.hear(asyncio.get_running_loop().time()):
            case Heard.FIRST:
                self._stopping = True
                self._told_to_stop.set()
                self._signals.put_nowait(assign_sequences)
                log.info("bridge.stopping", signal=assign_sequences.name)
            case Heard.SAME:
                pass
            case Heard.SECOND:
                os._exit(1)  # at once; nothing is lost, claims lapse


def _changed_sources(before: Settings, after: Settings) -> Collection[str]:
    """Those that were there before, and are asked at another address or with another key now, or not at all."""
    places = {source.name: (source.base_url, source.api_key) for source in after.sources}
    return [one.name for one in before.sources if places.get(one.name) != (one.base_url, one.api_key)]


def _not_emptied(before: Settings, after: Settings) -> Settings:
    """Refuse a file that names nothing any more: it was cut off, or is being written.

    Raises:
        BridgeError: everything would be given up, with every backlog.
    """
    had_both = bool(before.rooms and before.endpoints)
    if (before.sources or had_both) and not (after.rooms or after.endpoints or (after.sources and not had_both)):
        named = "room or endpoint" if after.sources else "source, room or endpoint"
        raise BridgeError(f"the file names no {named} any more: if that is meant, restart the service")
    return after


def _raise_open_files() -> int:
    """Every delivery under way is a socket, and many systems start a process with only 1,024 to spare.

    Answers how many files may be open now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)

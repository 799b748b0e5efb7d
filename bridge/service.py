"""One process of the bridge: builds its parts, runs its roles, reloads and stops on signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from bridge import __version__
from bridge.admin.clock import (
    clock_lag,
    make_everything_due,
)
from bridge.admin.configured import apply_configuration
from bridge.admin.due import DueWork
from bridge.compose import append_all_snapshots, endpoint_context, open_webhook_client
from bridge.config import Settings
from bridge.db.encryption import SecretCipher
from bridge.db.engine import Database
from bridge.db.liveness import Worker
from bridge.db.notifications import DUE_CHANNEL, EVENTS_CHANNEL, Listener
from bridge.db.schema import ensure_schema
from bridge.delivery.sender import Sender
from bridge.due_work import REGULAR_LOOK, WorkFinder
from bridge.errors import BridgeError, ConfigurationError, DatabaseError
from bridge.jobs import Jobs
from bridge.logs import FLUSH_SECONDS, flush_logs, get_logger
from bridge.metrics import Metrics
from bridge.notify import ServiceManager
from bridge.polling.poller import NoSender, Poller
from bridge.polling.rooms import apply_shorter_intervals
from bridge.polling.source_state import retry_sources
from bridge.runtime import Runtime, system_runtime
from bridge.scheduler import Job, scheduled
from bridge.sources.kinds import open_source
from bridge.sources.protocol import SourceSettings
from bridge.workers import PAUSE_AFTER_ERROR, RELEASE_SECONDS

if TYPE_CHECKING:
    from bridge.web.state import AppState

RELOAD_DRAIN_SECONDS = 2.0
"""Time that a reload gives to work under way; the rest is given back and is due again."""
CLOSE_SECONDS = 0.5
"""Time that the database has, at the very end, to finish running transactions."""

log = get_logger("bridge.service")


class Role(StrEnum):
    """Part of the service that a process runs; on PostgreSQL, any number of processes may have each role."""

    POLLER = "poller"
    SENDER = "sender"
    WEB = "web"


class Service:
    """One process of the bridge.

    Args:
        settings: to start with.
        roles: of this process.
        reload: loads the settings again on SIGHUP; without it, SIGHUP does nothing.
        runtime: clock, ids and chance.
        manager: is notified of starts, reloads and stops, and sees that the event loop runs.
        on_ready: called once with the URL of the web server, None if it is off.
    """

    def __init__(
        self,
        settings: Settings,
        roles: frozenset[Role] = frozenset(Role),
        *,
        reload: Callable[[], Settings] | None = None,
        runtime: Runtime | None = None,
        manager: ServiceManager | None = None,
        on_ready: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._roles = roles
        self._load_settings = reload
        self._runtime = runtime or system_runtime()
        self._manager = manager or ServiceManager({})
        self._on_ready = on_ready
        self._metrics = Metrics()
        self._database = Database(settings.database.url)
        self._database.on_events(self._metrics.count_events)
        self._stop_requested = asyncio.Event()
        self._reload_requested = asyncio.Event()
        self._worker = Worker(self._database, tokens_in_use=self._tokens_in_use)
        self._jobs = Jobs(self._database, self._runtime, self._worker, lambda: self._settings, self._wake_sender)
        self._poller: Poller | None = None
        self._sender: Sender | None = None
        self._finder = WorkFinder(
            self._database,
            self._runtime.now,
            polls=Role.POLLER in roles,
            deliveries=Role.SENDER in roles,
            on_due=self._wake,
            is_notified=self._is_notified,
        )
        self._listener = Listener(settings.database.listen_url or settings.database.url, self._channels())

    async def run(self) -> None:
        """Run until stopped: by `stop`, SIGTERM or Ctrl-C.

        Raises:
            BridgeError: it cannot start.
        """
        has_ended = True
        with self._signals_handled():
            try:
                async with self._manager.watchdog():
                    if await self._unless_stopped(self._prepare):
                        await self._serve()
            finally:
                with contextlib.suppress(DatabaseError, TimeoutError):
                    async with asyncio.timeout(RELEASE_SECONDS):
                        await self._database.run(self._worker.stop)
                has_ended = self._database.close(CLOSE_SECONDS)
        log.info("bridge.stopped")
        if not has_ended:
            flush_logs(FLUSH_SECONDS)
            os._exit(0)  # a thread waits for a database that does not respond, and Python would wait for the thread

    def new_sign_in_path(self) -> str:
        """Return the path of a link to the pages that signs in once."""
        return self._web_state.links.new_path()

    def stop(self) -> None:
        """Stop in order, as on SIGTERM."""
        self._stop_requested.set()

    # Starting

    def _prepare(self) -> None:
        ensure_schema(self._database)
        self._apply_configuration()
        self._worker.start()
        lag = self._database.read_now(clock_lag, self._runtime.now())
        if lag:
            log.warning("clock.changed", seconds=-lag.total_seconds(), detail="it was put back since the last run")
            self._database.write_now(make_everything_due, self._runtime.now())

    def _apply_configuration(self) -> None:
        settings = self._settings
        log.debug("configuration.loaded", rooms=len(settings.rooms), endpoints=len(settings.endpoints))
        self._database.write_now(
            apply_configuration,
            sources=[account.name for account in settings.sources],
            discovering=settings.polling.discovering,
            rooms=settings.rooms,
            endpoints=settings.endpoints,
            context=endpoint_context(settings, self._runtime),
            may_empty=settings.has_file,
        )
        append_all_snapshots(self._database, self._runtime)

    async def _unless_stopped(self, work: Callable[[], None]) -> bool:
        """Do database work in a thread; returns whether it was done before a stop was requested."""
        working = asyncio.create_task(self._database.run(work))
        stopping = asyncio.create_task(self._stop_requested.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._stop_requested.is_set():
            working.add_done_callback(lambda task: task.cancelled() or task.exception())  # its result is not needed
            return False
        await working
        return True

    async def _serve(self) -> None:
        async with (
            self._web() as url,
            self._probes(),
            scheduled(self._scheduled_jobs(), now=self._runtime.now, on_clock_changed=self._jobs.on_clock_changed),
            self._looking(),
        ):
            roles = sorted(role.value for role in self._roles)
            log.info("bridge.started", version=__version__, roles=roles, database=self._database.name)
            self._on_ready(url)
            gc.freeze()  # these objects stay: collecting through all of them would stop the process for 0.1 s
            changed_sources: Collection[str] = ()
            while not self._stop_requested.is_set():
                async with self._workers():
                    if Role.POLLER in self._roles:
                        await self._apply_polling_settings(changed_sources)
                    new_settings = await self._next_settings()
                if new_settings is not None:
                    changed_sources = await self._take_over(new_settings)

    # Roles

    @asynccontextmanager
    async def _workers(self) -> AsyncIterator[None]:
        """Run poller and sender with the current settings; leaving drains them."""
        async with AsyncExitStack() as stack:
            workers: list[Poller | Sender] = []
            if Role.SENDER in self._roles:
                self._sender = await self._open_sender(stack)
                workers.append(self._sender)
            if Role.POLLER in self._roles and self._settings.sources:
                self._poller = await self._open_poller(stack)
                workers.append(self._poller)
            async with _running(*workers):
                self._wake(DueWork.possibly(source.name for source in self._settings.sources))
                try:
                    yield
                finally:
                    await self._stop_workers(workers)
                    self._poller = self._sender = None

    async def _open_sender(self, stack: AsyncExitStack) -> Sender:
        client = await stack.enter_async_context(open_webhook_client(self._settings, self._runtime))
        policy, cipher = self._settings.delivery.policy, SecretCipher(self._settings.encryption_keys)
        return Sender(self._database, client, policy, self._runtime, self._worker, cipher=cipher, metrics=self._metrics)

    async def _open_poller(self, stack: AsyncExitStack) -> Poller:
        sources = {
            account.name: (account, open_source(account, self._runtime.now)) for account in self._settings.sources
        }
        for _, source in sources.values():
            stack.push_async_callback(source.aclose)
        sender = self._sender or NoSender()
        self._metrics.keep_sources(sources.keys())
        return Poller(
            self._database, sources, self._settings.polling, self._runtime, self._worker, sender, metrics=self._metrics
        )

    async def _stop_workers(self, workers: Collection[Poller | Sender]) -> None:
        grace = RELOAD_DRAIN_SECONDS
        if self._stop_requested.is_set():
            grace = self._settings.bridge.shutdown_grace.total_seconds() * 0.9 - RELEASE_SECONDS
        cancelled = sum(await asyncio.gather(*(worker.stop(max(grace, 0)) for worker in workers)))
        if cancelled:
            log.warning("work.cancelled", count=cancelled, detail="not finished in time; it is due again")

    @asynccontextmanager
    async def _web(self) -> AsyncIterator[str | None]:
        listen = self._settings.web.listen
        if Role.WEB not in self._roles or listen is None:
            if self._roles == {Role.WEB}:
                log.warning("web.off", detail='this process has nothing to do: web.listen is ""')
            yield None
            return
        # Importing these takes a third of a second, and not every process needs them.
        from bridge.web.app import create_app  # noqa: PLC0415
        from bridge.web.server import serve_app  # noqa: PLC0415

        remedy = 'choose another address for web.listen, or "" for none'
        async with serve_app(create_app(self._web_state), host=listen.host, port=listen.port, remedy=remedy) as url:
            log.info("web.listening", url=url)
            try:
                yield url
            finally:
                self._web_state.tail.close()

    @asynccontextmanager
    async def _probes(self) -> AsyncIterator[None]:
        listen = self._settings.probes.listen
        if listen is None:
            yield
            return
        from bridge.web.app import PROBES, create_app  # noqa: PLC0415 - as in _web
        from bridge.web.server import serve_app  # noqa: PLC0415

        app, remedy = create_app(self._web_state, PROBES), 'choose another address for probes.listen, or "" for none'
        async with serve_app(app, host=listen.host, port=listen.port, remedy=remedy) as url:
            log.info("probes.listening", url=url)
            yield

    @cached_property
    def _web_state(self) -> AppState:
        """The state of both servers."""
        from bridge.web.state import AppState  # noqa: PLC0415 - as in _web
        from bridge.web.tail import EventTail  # noqa: PLC0415

        return AppState(
            database=self._database,
            runtime=self._runtime,
            settings=lambda: self._settings,
            claim_token=self._jobs.claim_token,
            metrics=self._metrics,
            wake_poller=self._wake_poller,
            tail=EventTail(self._database, self._settings.database.listen_url),
        )

    # Jobs

    def _scheduled_jobs(self) -> list[Job]:
        jobs = self._jobs.all()
        if self._roles & {Role.POLLER, Role.SENDER}:
            jobs.append(Job(name="look for work", every=REGULAR_LOOK, run=self._finder.check))
        return jobs

    @asynccontextmanager
    async def _looking(self) -> AsyncIterator[None]:
        """Look for due work when other processes notify this one."""
        if not self._roles & {Role.POLLER, Role.SENDER}:
            yield
            return
        async with _running(self._finder, self._listener):
            yield

    def _channels(self) -> dict[str, Callable[[], None]]:
        """The notifications that concern this process: of events only if it sends without polling."""
        channels: dict[str, Callable[[], None]] = {DUE_CHANNEL: self._finder.wake}
        if Role.POLLER not in self._roles:
            channels[EVENTS_CHANNEL] = self._wake_sender
        return channels

    def _is_notified(self) -> bool:
        is_idle = not any(worker.tokens for worker in (self._poller, self._sender) if worker is not None)
        return is_idle and self._listener.is_listening

    def _wake(self, due: DueWork) -> None:
        if due.sources and self._poller is not None:
            self._poller.wake(due.sources)
        if due.lists and self._poller is not None:
            self._poller.wake_lists()
        if due.deliveries and self._sender is not None:
            self._sender.wake()
        if due.redeliveries and self._sender is not None:
            self._sender.wake(redeliveries=True)

    def _wake_poller(self) -> None:
        if self._poller is not None:
            self._poller.wake()

    def _wake_sender(self) -> None:
        if self._sender is not None:
            self._sender.wake()

    def _tokens_in_use(self) -> Collection[str]:
        workers = (self._poller, self._sender)
        return {*self._jobs.tokens, *(token for worker in workers if worker is not None for token in worker.tokens)}

    async def _apply_polling_settings(self, changed_sources: Collection[str]) -> None:
        now, polling = self._runtime.now(), self._settings.polling
        try:
            await self._database.write_aside(retry_sources, changed_sources, now)
            await self._database.write_aside(apply_shorter_intervals, polling, now)
        except DatabaseError as error:
            log.warning("claim.failed", pool="poll", detail=str(error))

    # Reloading

    async def _next_settings(self) -> Settings | None:
        """Wait for a reload with valid settings, which are returned, or for a stop: None."""
        while not self._stop_requested.is_set():
            self._manager.ready()
            waits = [asyncio.create_task(event.wait()) for event in (self._stop_requested, self._reload_requested)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if self._reload_requested.is_set() and not self._stop_requested.is_set():
                self._reload_requested.clear()
                self._manager.reloading()
                settings = await self._validated()
                if settings is not None:
                    return settings
        return None

    async def _validated(self) -> Settings | None:
        """Load the settings; a broken configuration changes nothing and is logged."""
        if self._load_settings is None:
            return None
        try:
            return _not_emptied(self._settings, await asyncio.to_thread(self._load_settings))
        except BridgeError as error:
            _log_rejected(error)
            return None

    async def _take_over(self, settings: Settings) -> Collection[str]:
        """Bring new settings into the database; returns the sources whose URL or key changed."""
        before, self._settings = self._settings, settings
        try:
            if not await self._unless_stopped(self._apply_configuration):
                return ()
        except BridgeError as error:
            self._settings = before
            _log_rejected(error)
            return ()
        now, then = [(one.database, one.web.listen, one.probes, one.log) for one in (settings, before)]
        if now != then:
            detail = "[database], web.listen, [probes] and [log] apply at the next start"
            log.warning("configuration.restart_needed", detail=detail)
        log.info("configuration.reloaded")
        return _changed_sources(before, settings)

    # Signals

    @contextmanager
    def _signals_handled(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload_requested.set)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _on_stop_signal(self, number: signal.Signals) -> None:
        if self._stop_requested.is_set():
            os._exit(1)  # nothing is lost: another process frees the claims
        log.info("bridge.stopping", signal=number.name)
        self._manager.stopping()
        self._stop_requested.set()


class _Runs(Protocol):
    async def run(self) -> None: ...


@asynccontextmanager
async def _running(*workers: _Runs) -> AsyncIterator[None]:
    """Run workers until the block is left."""
    tasks = [asyncio.create_task(_keep_running(worker)) for worker in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep_running(worker: _Runs) -> None:
    """Run a worker; after an unexpected error it is run again, and the rest of the process goes on."""
    while True:
        try:
            return await worker.run()
        except Exception:
            log.exception("worker.failed", worker=type(worker).__name__.lower())
        await asyncio.sleep(PAUSE_AFTER_ERROR)


def _changed_sources(before: Settings, after: Settings) -> Collection[str]:
    """Sources whose URL or key has changed, or that are no longer configured."""
    accounts = {source.name: _account(source) for source in after.sources}
    return [one.name for one in before.sources if accounts.get(one.name) != _account(one)]


def _account(source: SourceSettings) -> tuple[str, ...]:
    return source.kind, source.base_url, source.api_key, source.api_secret


def _not_emptied(before: Settings, after: Settings) -> Settings:
    """Refuse a file that names no rooms or endpoints any more: it may be half written.

    Raises:
        BridgeError: every room and endpoint would be removed, with every backlog.
    """
    had_both = bool(before.rooms and before.endpoints)
    if (before.sources or had_both) and not (after.rooms or after.endpoints or (after.sources and not had_both)):
        named = "room or endpoint" if after.sources else "source, room or endpoint"
        raise BridgeError(f"the file no longer names any {named}: if that is intended, restart the service")
    return after


def _log_rejected(error: BridgeError) -> None:
    problems = [str(problem) for problem in error.problems] if isinstance(error, ConfigurationError) else []
    log.error("configuration.rejected", detail=str(error), problems=problems)

"""The tail of the event log: one for each process, feeding all clients of the stream.

It looks at the database only while there are clients: when this process has appended events, when another one notifies
(PostgreSQL), and else twice a second. A client that resumes reads the events that it has missed in steps, at its own
pace, and then gets those of the tail. One that falls behind is dropped: it can resume.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Final

from bridge.admin.event_stream import StreamedEvent, StreamFilter, keys_above, look_at_log, read_step
from bridge.db.engine import Database
from bridge.db.final_keys import FinalKeys
from bridge.db.notifications import EVENTS_CHANNEL, Listener
from bridge.errors import DatabaseError
from bridge.logs import get_logger

MOST_WAITING: Final = 1_000
"""Events that may wait for a client."""
PACE_SECONDS: Final = 0.02
"""Between two looks: events that come in quick succession are read together."""
FINAL_SECONDS: Final = 0.05
"""The pause before looking again at keys that are not final yet."""
LOOK_SECONDS: Final = 0.5
LISTENING_SECONDS: Final = 30.0
"""The same while other processes notify."""

log = get_logger("bridge.web")


class Ended(StrEnum):
    """Why a stream ended."""

    SLOW = "slow"
    STOPPED = "stopped"
    REVOKED = "revoked"
    FAILED = "failed"


class Client:
    """One stream: the events that wait for it, and its position in the log."""

    def __init__(self, wanted: StreamFilter, position: int) -> None:
        self.wanted = wanted
        self.position = position
        self.passed: frozenset[int] = frozenset()
        """Keys of events that it has seen, or that were there before it began, although they were not final."""
        self.is_fed = False
        self.ended: Ended | None = None
        self._waiting: deque[StreamedEvent] = deque()
        self._changed = asyncio.Event()

    def feed(self, events: Sequence[StreamedEvent]) -> None:
        """Add the events that the tail has read."""
        self._waiting += [event for event in events if event.key > self.position and self.wanted.accepts(event)]
        if len(self._waiting) > MOST_WAITING:
            self.end(Ended.SLOW)
        elif self._waiting:
            self._changed.set()

    def end(self, reason: Ended) -> None:
        """Let `take` return nothing more."""
        self.ended = self.ended or reason
        self._waiting.clear()
        self._changed.set()

    async def take(self, seconds: float) -> list[StreamedEvent]:
        """Return the waiting events; after these seconds, or at the end of the stream, none."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        taken = [event for event in self._waiting if event.key not in self.passed]
        if self.passed and taken and taken[-1].key > max(self.passed):
            self.passed = frozenset()
        self._waiting.clear()
        if self.ended is None:
            self._changed.clear()
        return taken


class EventTail:
    """Follows the log of a database for its clients.

    Args:
        database: whose log is meant; it wakes the tail.
        listen_url: a direct connection for LISTEN, if the database's own goes through a pooler.
    """

    def __init__(self, database: Database, listen_url: str | None = None) -> None:
        self._database = database
        self._listener = Listener(listen_url or database.url, {EVENTS_CHANNEL: self.wake})
        self._clients: set[Client] = set()
        self._starting = asyncio.Lock()
        self._woken = asyncio.Event()
        self._position: int | None = None
        self._running: asyncio.Task[None] | None = None
        self._is_closed = False
        database.on_events(lambda _: self.wake())

    @property
    def clients(self) -> int:
        """Number of streams."""
        return len(self._clients)

    @property
    def is_listening(self) -> bool:
        """Whether other processes notify."""
        return self._listener.is_listening

    @asynccontextmanager
    async def follow(self, wanted: StreamFilter, after: int | None) -> AsyncIterator[Client]:
        """Add a client, for events after a key; None is now.

        Raises:
            DatabaseError: the database failed.
        """
        client = Client(wanted, after or 0)
        self._clients.add(client)
        try:
            position = await self._start()
            if after is None or after > position:
                client.position, client.is_fed = position, True
                present = await self._database.look(keys_above, position)
                client.passed = present if after is None else frozenset(key for key in present if key <= after)
            if self._is_closed:
                client.end(Ended.STOPPED)
            yield client
        finally:
            self._clients.discard(client)
            if not self._clients:
                self._stop()

    async def take(self, client: Client, seconds: float) -> Sequence[StreamedEvent]:
        """Return the next events for a client: those that it has missed, then those of the tail.

        Raises:
            DatabaseError: the database failed.
        """
        position = self._position
        if not client.is_fed and position is not None and client.position < position:
            step = await self._database.look(read_step, client.position, position, client.wanted)
            client.position = step.end
            return step.events if client.ended is None else ()
        client.is_fed = True
        return await client.take(seconds)

    def wake(self) -> None:
        """Look at once: events were appended. Safe in every thread."""
        running = self._running
        if running is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                running.get_loop().call_soon_threadsafe(self._woken.set)

    def close(self) -> None:
        """End every stream, and those that are still to come."""
        self._is_closed = True
        for client in self._clients:
            client.end(Ended.STOPPED)

    async def _start(self) -> int:
        async with self._starting:
            if self._position is None:
                final = FinalKeys()
                self._position = (await self._database.look(look_at_log, final, None)).end
                self._running = asyncio.create_task(self._run(final))
                self._running.add_done_callback(self._on_ended)
            return self._position

    def _stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
        self._running = self._position = None

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("stream.failed", exc_info=task.exception())
            for client in self._clients:
                client.end(Ended.FAILED)

    async def _run(self, final: FinalKeys) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listener.run())
            while True:
                self._woken.clear()
                pause = await self._look(final)
                await asyncio.sleep(PACE_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()

    async def _look(self, final: FinalKeys) -> float:
        """Feed events that have become final; returns the seconds until the next look, if nothing wakes the tail."""
        try:
            step = await self._database.look(look_at_log, final, self._position)
        except DatabaseError as error:
            log.warning("stream.waiting", detail=str(error))
            return LOOK_SECONDS
        self._position = step.end
        for client in self._clients:
            if client.is_fed:
                client.feed(step.events)
        if step.end != final.last:
            return 0
        if final.is_waiting:
            return FINAL_SECONDS
        return LISTENING_SECONDS if self._listener.is_listening else LOOK_SECONDS

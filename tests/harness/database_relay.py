"""A relay between the bridge and PostgreSQL, for tests that cut it: the server itself serves other tests meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit, urlunsplit

from tests.harness.loop_thread import LoopThread
from tests.harness.waiting import PATIENCE


class DatabaseRelay(LoopThread):
    """A TCP relay in its own thread; `url` is the database's address through it. Use as a context manager."""

    def __init__(self, database_url: str) -> None:
        super().__init__("database relay")
        self._parts = urlsplit(database_url)
        self.stalled_bytes = 0
        """Bytes that the bridge has sent since `stall()` and that wait here."""
        self.refused = 0
        """Connections that were tried while the relay was cut."""
        self._port = 0
        self._is_up = True
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._connections: set[asyncio.StreamWriter] = set()
        self._relays: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        address = f"{self._parts.username}:{self._parts.password}@127.0.0.1:{self._port}"
        return urlunsplit(self._parts._replace(netloc=address))

    def cut(self) -> None:
        """Break all connections and refuse new ones."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(PATIENCE)

    def restore(self) -> None:
        """Accept connections again."""
        self._is_up = True

    def stall(self) -> None:
        """Keep what the bridge sends from now on; nothing breaks."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def resume(self) -> None:
        """Pass on what was kept."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._ready()
        await self._stopping.wait()
        self._flowing.set()
        server.close()
        await self._cut()
        if self._relays:
            await asyncio.wait(self._relays, timeout=PATIENCE)

    async def _cut(self) -> None:
        self._is_up = False
        for connection in tuple(self._connections):
            connection.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._is_up:
            self.refused += 1
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._pass_on(reader, writer))
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        ends = {writer, far_writer}
        self._connections |= ends
        try:
            await asyncio.gather(self._copy(reader, far_writer, stalls=True), self._copy(far_reader, writer))
        finally:
            self._connections -= ends

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, stalls: bool = False) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                if stalls and not self._flowing.is_set():
                    self.stalled_bytes += len(chunk)
                    await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()
        writer.close()

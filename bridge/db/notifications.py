"""Notifications of new events and due work: LISTEN on a connection of its own; SQLite has no equivalent.

A trigger of the table notifies, at the end of a transaction that has appended events (migration 0001). Code that makes
work due for other processes calls `notify_due`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection

from bridge.db.engine import connection_arguments, note_due
from bridge.logs import get_logger

if TYPE_CHECKING:
    from psycopg import AsyncConnection

EVENTS_CHANNEL: Final = "bridge_events"
"""The name in the trigger."""
DUE_CHANNEL: Final = "bridge_due"
RECONNECT_SECONDS: Final = 1.0

log = get_logger("bridge.db")


class Listener:
    """Calls the function of a channel when a process has notified it, and all of them when that may have been missed.

    A pooler in transaction mode passes nothing on: then `is_listening` stays false, and the caller must poll.
    """

    def __init__(self, url: str, calls: Mapping[str, Callable[[], None]]) -> None:
        self._arguments = connection_arguments(url)
        self._calls = calls
        self.is_listening = False

    async def run(self) -> None:
        """Listen until cancelled; a lost connection is opened again."""
        arguments = self._arguments
        if arguments is None:
            return
        from psycopg import AsyncConnection, Error  # noqa: PLC0415 - SQLite does not need it

        while True:
            try:
                async with await AsyncConnection.connect(**arguments, autocommit=True) as connection:
                    if await _is_pooled(connection):
                        self._arguments = None
                        log.info("listen.impossible", detail="a pooler is in between: set database.listen_url")
                        return
                    for channel in self._calls:
                        await connection.execute(f"LISTEN {channel}")
                    self.is_listening = True
                    self._call_all()
                    while True:
                        await _readable(connection)
                        async for notification in connection.notifies(timeout=0):
                            self._calls[notification.channel]()
            except (Error, OSError) as error:
                log.warning("listen.failed", detail=str(error).strip().partition("\n")[0])
            finally:
                self.is_listening = False
                self._call_all()
            await asyncio.sleep(RECONNECT_SECONDS)

    def _call_all(self) -> None:
        for call in self._calls.values():
            call()


def notify_due(connection: Connection) -> None:
    """Let pollers and senders look for due work once this is committed: those of this process, on PostgreSQL of all."""
    note_due(connection)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"NOTIFY {DUE_CHANNEL}")


async def _readable(connection: AsyncConnection) -> None:
    """Wait until the server has sent something; psycopg itself would look ten times a second."""
    loop, has_sent = asyncio.get_running_loop(), asyncio.Event()
    descriptor = connection.fileno()
    loop.add_reader(descriptor, has_sent.set)
    try:
        await has_sent.wait()
    finally:
        loop.remove_reader(descriptor)


async def _is_pooled(connection: AsyncConnection) -> bool:
    """Whether the server's session is not the connection's own, because of a pooler."""
    cursor = await connection.execute("SELECT pg_backend_pid()")
    return await cursor.fetchone() != (connection.info.backend_pid,)

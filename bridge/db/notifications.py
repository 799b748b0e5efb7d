"""Notifications of new events from other processes: LISTEN on a connection of its own; SQLite has nothing like it.

A trigger of the table notifies, at the end of a transaction that has appended events (migration 0001).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, text

from bridge.db.engine import connection_arguments
from bridge.logs import get_logger

if TYPE_CHECKING:
    from psycopg import AsyncConnection


def notify_due(connection: Connection) -> None:
    """Wake the pollers and senders of other processes at the end of this transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("NOTIFY bridge_due"))


CHANNEL: Final = "bridge_events"
"""The name in the trigger."""
RECONNECT_SECONDS: Final = 1.0

log = get_logger("bridge.db")


class Listener:
    """Calls `on_notified` when another process has appended events, and whenever some may have been missed.

    A pooler in transaction mode passes nothing on: then `is_listening` stays false, and the caller must look by itself.
    """

    def __init__(self, url: str, on_notified: Callable[[], None]) -> None:
        self._arguments = connection_arguments(url)
        self._on_notified = on_notified
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
                        log.warning("listen.impossible", detail="a pooler is in between: set database.listen_url")
                        return
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self.is_listening = True
                    self._on_notified()
                    async for _ in connection.notifies():
                        self._on_notified()
            except (Error, OSError) as error:
                log.warning("listen.failed", detail=str(error).strip().partition("\n")[0])
            finally:
                self.is_listening = False
                self._on_notified()
            await asyncio.sleep(RECONNECT_SECONDS)


async def _is_pooled(connection: AsyncConnection) -> bool:
    """Whether the server's session has another number than that of the connection."""
    cursor = await connection.execute("SELECT pg_backend_pid()")
    return await cursor.fetchone() != (connection.info.backend_pid,)

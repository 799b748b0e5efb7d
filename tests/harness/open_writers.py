"""Writers of the event log of a PostgreSQL database whose transactions stay open as long as a test likes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.harness.store_driver import StoreDriver

INSERT = (
    "INSERT INTO events (public_id, room_key, sequence, type, recorded_at, body, commitment, hash)"
    " SELECT 'evt_' || %s, id, %s, 'peer.joined', now(), '{}', '', '' FROM rooms RETURNING id"
)


class Writer:
    """A transaction that appends events, left open until it is committed or rolled back."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self.commit, self.rollback = connection.commit, connection.rollback

    def begin(self) -> None:
        """Take the id of a transaction, as by locking a row."""
        self._connection.execute("SELECT pg_current_xact_id()")

    def append(self, number: int) -> int:
        row = self._connection.execute(INSERT, (number, number)).fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def writers(store: StoreDriver, count: int) -> Iterator[list[Writer]]:
    url = store.database.url.replace("postgresql+psycopg", "postgresql")
    connections = [psycopg.connect(url) for _ in range(count)]
    try:
        yield [Writer(connection) for connection in connections]
    finally:
        for connection in connections:
            connection.close()

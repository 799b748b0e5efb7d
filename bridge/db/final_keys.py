"""Up to which key the event log is final: no transaction that is still open can add an event there.

On PostgreSQL, transactions may commit in another order than they got their keys, so a reader that only remembers the
newest key it has seen would miss events. A writer locks the table before it takes a key, and until it has ended. So if
a key is given out at one moment, and every writer that has the lock at a later moment has ended, the key is final.
Snapshots cannot replace this: their `xmax` does not cover open transactions that are newer than the last one that has
ended, and unrelated transactions that are open for hours would stop every reader. SQLite has one writer at a time:
every key is final.
"""

from __future__ import annotations

from threading import Lock

from sqlalchemy import Connection, func, select, text

from bridge.db.tables import events

MOST_OPEN = 2_000
"""Before the first look, an open transaction may have taken a key that is so much lower than the newest."""


class FinalKeys:
    """Finds the final keys of one database, repeatedly, in any thread.

    Each statement of a look must see what is committed by then, as in `Database.look` and `Database.read`.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._final: int | None = None
        self._notes: list[tuple[int, frozenset[str]]] = []
        """Keys that are not final yet, oldest first, and the transactions that have been open since then."""

    @property
    def last(self) -> int:
        """The result of the last look."""
        return self._final or 0

    @property
    def is_waiting(self) -> bool:
        """Whether there were keys at the last look that are not final yet."""
        return bool(self._notes)

    def look(self, connection: Connection) -> int:
        """Return the newest key that is known to be final; it may be too low, never too high."""
        with self._lock:
            return self._look(connection)

    def _look(self, connection: Connection) -> int:
        if connection.dialect.name != "postgresql":
            self._final = connection.execute(_NEWEST).scalar_one()
            return self._final
        newest: int = connection.execute(_GIVEN_OUT).scalar_one()
        if self._final is None:
            self._final = max(0, newest - MOST_OPEN)
        if newest == self._final:
            return self._final
        writers = frozenset(connection.execute(_WRITERS).scalars())
        if not self._notes or self._notes[-1][0] != newest:
            self._notes.append((newest, writers))
        # After a failover that has lost transactions, keys are assigned again: older notes are void.
        self._notes = [(key, open_since & writers) for key, open_since in self._notes if key <= newest]
        self._final = next((key for key, still_open in reversed(self._notes) if not still_open), self._final)
        self._notes = [(key, still_open) for key, still_open in self._notes if still_open]
        return self._final


_NEWEST = select(func.coalesce(func.max(events.c.id), 0))
_GIVEN_OUT = text("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM events_id_seq")
_WRITERS = text(
    "SELECT virtualtransaction FROM pg_locks WHERE mode = 'RowExclusiveLock' AND granted"
    " AND relation = CAST('events' AS regclass)"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)

"""Two transactions that meet, on PostgreSQL: where one waits for the other, and whether both get to their end.

The first one stops before a statement that may wait, and holds what it has locked by then; the second one goes on until
it is done, or waits. Tried before each such statement, that finds every order of locks in which two can cross. All of
it is undone: the next pair finds the same database.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError

from bridge.db.engine import Database
from tests.harness.waiting import wait_until

T = TypeVar("T")
Work = Callable[[Connection], object]

_MAY_WAIT = re.compile(
    r"\s*(INSERT|UPDATE|DELETE)\b|.*\bFOR (NO KEY UPDATE|UPDATE|KEY SLOTS_PER_ENDPOINT|SLOTS_PER_ENDPOINT)\b", re.DOTALL
)
_WAITING = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
)
_PATIENT = text(
    "SELECT set_config('idle_in_transaction_session_timeout', '0', true), set_config('deadlock_timeout', '50ms', true)"
)


def somebody_waits(database: Database) -> bool:
    """Whether a transaction in this database waits for another one's lock."""
    return bool(database.read_now(lambda connection: connection.execute(_WAITING).scalar_one()))


@contextmanager
def meeting(database: Database, work: Callable[[], T]) -> Iterator[tuple[Connection, Future[T]]]:
    """A transaction that commits when the block ends; its `Future` is what comes of `work`, begun in another thread.

    The block does what the transaction is to have done before `work` begins; it ends when `work` waits for it, or is
    done.
    """
    with ThreadPoolExecutor(1) as thread:
        done: Future[T] = Future()
        with database._writing.begin() as connection:
            connection.execute(_PATIENT)
            yield connection, done
            working = thread.submit(work)
            wait_until(lambda: working.done() or somebody_waits(database), what="the other to wait or to be done")
        done.set_result(working.result())


def crossings(database: Database, first: Work, second: Work) -> list[str]:
    """The statements of `first` before which `second` may come in, and then one waits for the other for ever."""
    return [place for place in places_to_wait(database, first) if _is_deadlock(database, first, second, place)]


def places_to_wait(database: Database, work: Work) -> list[str]:
    """The statements of a transaction that lock something, numbered."""
    stop = _Stop()
    _undone(database, work, stop)
    return stop.places


@dataclass(slots=True)
class _Stop:
    """Counts the statements that may wait, and stops before one of them until it may go on."""

    before: str | None = None
    places: list[str] = field(default_factory=list)
    is_reached: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def read_health(self, _connection: Connection, _cursor: object, statement: str, *_: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        if not _MAY_WAIT.match(statement):
            return
        self.places.append(f"{len(self.places) + 1}: {' '.join(statement.split())}")
        if self.places[-1] == self.before:
            self.is_reached.set()
            self.may_go_on.wait()


def _undone(database: Database, work: Work, stop: _Stop | None = None) -> None:
    with database._writing.connect() as connection:
        connection.execute(_PATIENT)
        if stop is not None:
            event.listen(connection, "before_cursor_execute", stop.read_health)
        work(connection)
        connection.rollback()


def _is_deadlock(database: Database, first: Work, second: Work, place: str) -> bool:
    stop = _Stop(before=place)
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(_undone, database, first, stop)
        try:
            wait_until(lambda: stop.is_reached.is_set() or one.done(), what=f"the first to come to {place}")
            other = threads.submit(_undone, database, second)
            wait_until(lambda: other.done() or somebody_waits(database), what="the second to wait or to be done")
        finally:
            stop.may_go_on.set()
        return any([_has_lost(one), _has_lost(other)])


def _has_lost(work: Future[None]) -> bool:
    try:
        work.result()
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != "40P01":
            raise
        return True
    return False

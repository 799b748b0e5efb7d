"""Two concurrent transactions on PostgreSQL: where one waits for the other, and whether both get to their end.

The first one stops before a statement that may wait, and keeps what it has locked by then; the second one goes on until
it is done, or waits. Tried before each such statement, that finds every order of locks in which two can deadlock. All
of it is rolled back: the next pair finds the same database.
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

_MAY_WAIT = re.compile(r"\s*(INSERT|UPDATE|DELETE)\b|.*\bFOR (NO KEY UPDATE|UPDATE|KEY SHARE|SHARE)\b", re.DOTALL)
_WAITING = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
)
_TIMEOUTS = text(
    "SELECT set_config('idle_in_transaction_session_timeout', '0', true), set_config('deadlock_timeout', '50ms', true)"
)


def any_waits_for_a_lock(database: Database) -> bool:
    return bool(database.read_now(lambda connection: connection.execute(_WAITING).scalar_one()))


@contextmanager
def meeting(database: Database, work: Callable[[], T]) -> Iterator[tuple[Connection, Future[T]]]:
    """A transaction that commits when the block ends; its `Future` has the result of `work`, begun in another thread.

    The block does what the transaction has to do before `work` begins; it ends when `work` waits for it, or is done.
    """
    with ThreadPoolExecutor(1) as thread:
        done: Future[T] = Future()
        with database._writing.begin() as connection:
            connection.execute(_TIMEOUTS)
            yield connection, done
            working = thread.submit(work)
            wait_until(lambda: working.done() or any_waits_for_a_lock(database), what="the other to wait or to end")
        done.set_result(working.result())


def crossings(database: Database, first: Work, second: Work) -> list[str]:
    """Return the statements of `first` before which `second` may run so that the two deadlock."""
    return [point for point in points_to_wait(database, first) if _is_deadlock(database, first, second, point)]


def points_to_wait(database: Database, work: Work) -> list[str]:
    """Return the statements of a transaction that lock something, numbered."""
    stop = _Stop()
    _rolled_back(database, work, stop)
    return stop.points


@dataclass(slots=True)
class _Stop:
    """Counts the statements that may wait, and stops before one of them until it may go on."""

    before: str | None = None
    points: list[str] = field(default_factory=list)
    is_reached: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def check(self, _connection: Connection, _cursor: object, statement: str, *_: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        if not _MAY_WAIT.match(statement):
            return
        self.points.append(f"{len(self.points) + 1}: {' '.join(statement.split())}")
        if self.points[-1] == self.before:
            self.is_reached.set()
            self.may_go_on.wait()


def _rolled_back(database: Database, work: Work, stop: _Stop | None = None) -> None:
    with database._writing.connect() as connection:
        connection.execute(_TIMEOUTS)
        if stop is not None:
            event.listen(connection, "before_cursor_execute", stop.check)
        work(connection)
        connection.rollback()


def _is_deadlock(database: Database, first: Work, second: Work, point: str) -> bool:
    stop = _Stop(before=point)
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(_rolled_back, database, first, stop)
        try:
            wait_until(lambda: stop.is_reached.is_set() or one.done(), what=f"the first to come to {point}")
            other = threads.submit(_rolled_back, database, second)
            wait_until(lambda: other.done() or any_waits_for_a_lock(database), what="the second to wait or to end")
        finally:
            stop.may_go_on.set()
        return any([_was_aborted(one), _was_aborted(other)])


def _was_aborted(work: Future[None]) -> bool:
    try:
        work.result()
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != "40P01":
            raise
        return True
    return False

"""Workers: each process registers as one, its claims carry its id, and the claims of a dead worker are freed.

A claim's token is the id of a worker and a number: `<id>:<number>`. Whatever its time-outs are, a worker counts as dead
soon after it stops giving signs of life, and every other process frees its claims. A worker that was only frozen finds
its registration gone: what it records is fenced, and it registers again under a new id, which is random.

- PostgreSQL: a row of `workers`, renewed every second, with the database's time. A worker is dead if its row is seen
  unchanged for `DEAD_AFTER`; if the row is that old already, `WATCHED_FOR` is enough.
- SQLite: a file beside the database, locked for as long as the process lives, so that its death shows at once. While it
  has claims, the process also touches the file every second, so that a frozen one is found too. An idle bridge writes
  nothing.

Only what a process has seen without interruption counts: after an outage of the database, or when this process itself
was frozen, it starts to watch the others again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import Connection, Table, bindparam, delete, func, insert, literal, select, tuple_, union, update

from bridge.db.engine import Database
from bridge.db.notifications import notify_due
from bridge.db.tables import cursors, jobs, redeliveries, rooms, sources, workers
from bridge.errors import DatabaseError
from bridge.logs import get_logger

RENEW_SECONDS: Final = 1.0
DEAD_AFTER: Final = 4.0
"""Seconds without a renewal. With a second between two looks, claims are freed within 5 seconds."""
WATCHED_FOR: Final = 2.0
"""Seconds for which this process must have seen a registration unchanged before it counts as dead."""
LONGEST_GAP: Final = 2.0
"""Seconds between two looks; after a longer gap, the others have as long again to renew their registrations."""
LONGEST_OUTAGE: Final = 20.0
"""Longest such time: a connection ends after it (`tcp_user_timeout`), so no worker needs longer to come back."""
ID_LENGTH: Final = 16

CLAIMED: Final[Mapping[str, Table]] = {table.name: table for table in (rooms, sources, cursors, redeliveries, jobs)}
"""The tables whose rows can be claimed."""

log = get_logger("bridge.db")


class Registry(Protocol):
    """The registrations of workers on one kind of database."""

    def register(self, worker_id: str) -> None: ...

    def renew(self, worker_id: str, *, has_claims: bool) -> bool:
        """Show that this worker lives; returns false if it was declared dead."""
        ...

    def remove(self, worker_id: str) -> None: ...

    def living(self, tokens: Collection[str]) -> Collection[str]:
        """Ids of the workers that live; other registrations are removed. `tokens`: of all claims."""
        ...


class Worker:
    """This process's registration. Threads of its own renew it and free the claims of others, whatever else is done.

    Renewals have a thread to themselves: freeing claims may have to wait for a lock.

    Args:
        database: whose claims are meant.
        tokens_in_use: returns the tokens of claims under way; called in another thread. Claims with other
            tokens of this process are freed too: they were made, but the response of the database was lost, or they
            could not be given back. Without it, all are in use.
        clock: seconds that nothing sets.
    """

    def __init__(
        self,
        database: Database,
        *,
        tokens_in_use: Callable[[], Collection[str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock = clock
        self._tokens_in_use = tokens_in_use
        file = database.file
        unchanged = _Unchanged(clock)
        self._registry: Registry = WorkerRows(database, unchanged) if file is None else LockFiles(file, unchanged)
        self._id = ""
        self._numbers = count(1)
        self._renewed_at = 0.0
        self._unused = _Unchanged(clock)
        self._stopping = threading.Event()
        self._renewing = self._thread(self.renew)
        self._freeing = self._thread(self.free_claims)

    def new_token(self) -> str:
        """A token for a new claim."""
        return f"{self._id}:{next(self._numbers)}"

    def owns(self, token: str) -> bool:
        """Whether a claim can still be ours: it was made under the current id, which was renewed recently."""
        return token.startswith(self._id) and self._clock() - self._renewed_at < DEAD_AFTER

    def start(self) -> None:
        """Register, and free the claims of workers that have died.

        Raises:
            DatabaseError: the database failed, or a file beside it cannot be made.
        """
        try:
            self._register()
            self.free_claims()
        except BaseException:
            self._remove()
            raise
        self._renewing.start()
        self._freeing.start()

    def stop(self) -> None:
        """Remove the registration, if there is one, and free what is still claimed."""
        if not self._id:
            return
        self._stopping.set()
        if self._renewing.is_alive():
            self._renewing.join()  # else it might register again
        self._remove()
        with contextlib.suppress(DatabaseError, OSError):
            self.free_claims()

    def renew(self) -> None:
        """Renew the registration once; one that others have removed is replaced.

        Raises:
            DatabaseError: the database failed, or a file beside it cannot be made.
        """
        started_at = self._clock()
        has_claims = self._tokens_in_use is None or bool(self._tokens_in_use())
        if self._registry.renew(self._id, has_claims=has_claims):
            self._renewed_at = started_at
        else:
            detail = "this process was frozen or cut off, and its claims were freed; it goes on under a new id"
            log.warning("worker.declared_dead", detail=detail)
            self._register()

    def free_claims(self) -> None:
        """Free the claims of workers that do not live, and those of this one that it does not know.

        Raises:
            DatabaseError: the database failed.
        """
        # Claims are read before workers: one that registers in between has none of these.
        claims = self._database.look_now(read_claims)
        living = self._registry.living({token for _, token in claims})
        lost = self._lost({token for _, token in claims})
        by_table: dict[str, list[str]] = defaultdict(list)
        for table, token in claims:
            if token[:ID_LENGTH] not in living or token in lost:
                by_table[table].append(token)
        # A transaction per table: if one cannot be written to, the claims in the others are still freed.
        freed = sum(self._database.write_now(free_claims, table, tokens) for table, tokens in by_table.items())
        if freed:
            log.info("claims.freed", count=freed)

    def _lost(self, tokens: Collection[str]) -> Collection[str]:
        """Own tokens that nothing has worked on for a while; that of a new claim may be on its way here."""
        if self._tokens_in_use is None:
            return ()
        in_use = frozenset(self._tokens_in_use())
        unused = {token: None for token in tokens if token.startswith(self._id) and token not in in_use}
        return {token for token, seconds in self._unused.seconds(unused).items() if seconds >= DEAD_AFTER}

    def _register(self) -> None:
        worker_id, started_at = secrets.token_hex(ID_LENGTH // 2), self._clock()
        self._registry.register(worker_id)
        self._id, self._renewed_at = worker_id, started_at

    def _remove(self) -> None:
        with contextlib.suppress(DatabaseError, OSError):
            self._registry.remove(self._id)

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        """A thread that calls `work` every second until stopped; the first failure of several in a row is logged."""

        def run() -> None:
            has_failed = False
            next_at = time.monotonic() + RENEW_SECONDS
            while not self._stopping.wait(next_at - time.monotonic()):
                next_at = max(next_at, time.monotonic()) + RENEW_SECONDS
                try:
                    work()
                    has_failed = False
                except (DatabaseError, OSError) as error:
                    if not has_failed:
                        log.warning("liveness.failed", step=work.__name__, detail=str(error))
                    has_failed = True
                except Exception:
                    log.exception("liveness.failed", step=work.__name__)

        return threading.Thread(target=run, name=work.__name__, daemon=True)


@contextmanager
def registered(database: Database) -> Iterator[Worker]:
    """A worker for the duration of a command.

    Raises:
        DatabaseError: the database failed, or a file beside it cannot be made.
    """
    worker = Worker(database)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


class WorkerRows:
    """PostgreSQL: rows of `workers` with the database's time."""

    def __init__(self, database: Database, unchanged: _Unchanged) -> None:
        self._database = database
        self._unchanged = unchanged

    def register(self, worker_id: str) -> None:
        new = insert(workers).values(id=worker_id, seen_at=func.clock_timestamp())
        self._database.write_now(lambda connection: connection.execute(new))

    def renew(self, worker_id: str, *, has_claims: bool) -> bool:  # noqa: ARG002 - a row is renewed in any case
        key = {"key": worker_id}
        return self._database.change_now(lambda connection: connection.execute(_RENEW, key).rowcount == 1)

    def remove(self, worker_id: str) -> None:
        removal = delete(workers).where(workers.c.id == worker_id)
        self._database.write_now(lambda connection: connection.execute(removal))

    def living(self, tokens: Collection[str]) -> Collection[str]:  # noqa: ARG002 - a row shows that its worker lives
        found = self._database.look_now(lambda connection: connection.execute(_WORKERS).all())
        unchanged = self._unchanged.seconds({row.id: row.seen_at for row in found})
        # The age alone may be wrong; this process's clock alone would make a restart wait longer than necessary.
        dead = [
            (row.id, row.seen_at)
            for row in found
            if unchanged[row.id] >= (WATCHED_FOR if row.age >= DEAD_AFTER else DEAD_AFTER)
        ]
        return {row.id for row in found} - (self._remove_unchanged(dead) if dead else set())

    def _remove_unchanged(self, dead: Collection[tuple[str, object]]) -> set[str]:
        """Remove these rows, except those that were renewed meanwhile."""
        same = tuple_(workers.c.id, workers.c.seen_at).in_(dead)
        removal = delete(workers).where(same).returning(workers.c.id)
        return self._database.write_now(lambda connection: set(connection.execute(removal).scalars()))


class LockFiles:
    """SQLite: a locked file per process beside the database, `<name of the database>-worker-<id>`."""

    def __init__(self, database_file: Path, unchanged: _Unchanged) -> None:
        self._directory = database_file.parent
        self._prefix = f"{database_file.name}-worker-"
        self._names = re.compile(re.escape(self._prefix) + f"[0-9a-f]{{{ID_LENGTH}}}")
        self._own = -1
        """Descriptor of this process's file. A program that is started inherits neither it nor the lock."""
        self._unchanged = unchanged

    def register(self, worker_id: str) -> None:
        self._close()
        path = self._path(worker_id)
        try:
            while not self._is_own(path):  # until it was locked, it looked like one of a dead process
                self._close()
                self._own = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
                fcntl.flock(self._own, fcntl.LOCK_EX)
        except OSError as error:
            problem = f"cannot create or lock {path}: {error.strerror}"
            remedy = "put the database on a local disk, into a directory in which the bridge can create files"
            raise DatabaseError(f"{problem}; {remedy}", is_away=False) from error

    def renew(self, worker_id: str, *, has_claims: bool) -> bool:
        if not self._is_own(self._path(worker_id)):
            return False
        if has_claims:
            os.utime(self._own)
        return True

    def remove(self, worker_id: str) -> None:
        path = self._path(worker_id)
        if self._is_own(path):
            path.unlink(missing_ok=True)
        self._close()

    def living(self, tokens: Collection[str]) -> Collection[str]:
        claims: dict[str, set[str]] = defaultdict(set)
        for token in tokens:
            claims[token[:ID_LENGTH]].add(token)
        names = (path.name for path in self._directory.iterdir())
        ids = {name.removeprefix(self._prefix) for name in names if self._names.fullmatch(name)}
        others = {worker_id for worker_id in ids if not self._is_own(self._path(worker_id))}
        # Claims count as signs of life too: those of a worker with short claims change, and its file does not.
        signs = {worker_id: (_touched_at(self._path(worker_id)), frozenset(claims[worker_id])) for worker_id in others}
        unchanged = self._unchanged.seconds(signs)
        frozen = {worker_id for worker_id in signs if claims[worker_id] and unchanged[worker_id] >= DEAD_AFTER}
        for worker_id in frozen:
            self._path(worker_id).unlink(missing_ok=True)
        return {worker_id for worker_id in ids - frozen if worker_id not in others or _is_locked(self._path(worker_id))}

    def _path(self, worker_id: str) -> Path:
        return self._directory / f"{self._prefix}{worker_id}"

    def _is_own(self, path: Path) -> bool:
        """Whether this is the file that this process has locked."""
        if self._own < 0:
            return False
        try:
            return os.path.samestat(path.stat(), os.fstat(self._own))
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        if self._own >= 0:
            os.close(self._own)
            self._own = -1


class _Unchanged:
    """For how long this process has seen values unchanged without interruption."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._looked_at: float | None = None
        self._since: dict[str, tuple[object, float]] = {}

    def seconds(self, values: Mapping[str, object]) -> dict[str, float]:
        now = self._clock()
        gap = 0.0 if self._looked_at is None else now - self._looked_at
        before, self._since, self._looked_at = self._since, {}, now
        first_seen_at = now
        if gap > LONGEST_GAP:
            # The others were perhaps cut off as well. TCP doubles its pauses: coming back takes up to as long again.
            before, first_seen_at = {}, now + min(gap, LONGEST_OUTAGE)
        for key, value in values.items():
            known, since = before.get(key, (value, first_seen_at))
            self._since[key] = (value, since if known == value else now)
        return {key: now - since for key, (_, since) in self._since.items()}


def read_claims(connection: Connection) -> list[tuple[str, str]]:
    """The table and the token of every claim."""
    return [(row.table_name, row.claim_token) for row in connection.execute(_CLAIMS)]


def free_claims(connection: Connection, table_name: str, tokens: Collection[str]) -> int:
    """Free the claims with these tokens in a table; returns how many. Rows that are locked are left for the next time.

    A worker that was frozen inside a transaction keeps its locks until PostgreSQL ends it.
    """
    table = CLAIMED[table_name]
    (key,) = table.primary_key
    claimed = select(key).where(table.c.claim_token.is_not(None), table.c.claim_token.in_(sorted(tokens)))
    freeing = update(table).where(key.in_(claimed.with_for_update(skip_locked=True))).values(claim_token=None)
    freed = connection.execute(freeing).rowcount
    if freed:
        notify_due(connection)
    return freed


def _touched_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _is_locked(path: Path) -> bool:
    """Whether the process that locked the file lives; the file of a dead one is removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # another user's: once dead, it is found by its claims, like a frozen one
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


_RENEW = update(workers).where(workers.c.id == bindparam("key")).values(seen_at=func.clock_timestamp())
_WORKERS = select(workers, func.extract("epoch", func.clock_timestamp() - workers.c.seen_at).label("age"))
_CLAIMS = union(
    *(
        select(literal(name).label("table_name"), table.c.claim_token).where(table.c.claim_token.is_not(None))
        for name, table in CLAIMED.items()
    )
)

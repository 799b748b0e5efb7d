"""Which processes live. Each registers as a worker; its claims carry its id, and those of a dead worker are freed.

A claim's token is the id of a worker and a number: `<id>:<number>`. Whatever its time-outs are, a worker counts as dead
soon after it stops giving signs of life, and whoever notices frees its claims. A worker that was only frozen finds its
registration gone: what it records is fenced, and it registers again under a new id.

- PostgreSQL: a row of `workers`, renewed every second. It counts as dead when the database's clock says that it was not
  renewed for `DEAD_AFTER`, and this process has seen it unchanged for `WATCHED_FOR`: after an outage of the database,
  the others have that long to renew their rows.
- SQLite: a file beside the database, locked for as long as the process lives, so that its death shows at once. While it
  has claims, the process also touches the file each second, so that it can be seen to be frozen. An idle bridge writes
  nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final, Protocol

import structlog
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, insert, or_, select, union, update

from bridge.db.engine import Database
from bridge.db.tables import cursors, jobs, redeliveries, rooms, sources, workers
from bridge.errors import DatabaseError

RENEW_SECONDS: Final = 1.0
DEAD_AFTER: Final = 4.0
"""Seconds without a renewal. With a second between two looks, claims are freed within 5 seconds."""
WATCHED_FOR: Final = 2.0
"""Seconds for which this process must have seen a registration unchanged before it counts as dead."""
ID_LENGTH: Final = 16

CLAIMED: Final[tuple[Table, ...]] = (rooms, sources, cursors, redeliveries, jobs)
"""The tables whose rows can be claimed, in the order in which they are locked."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("bridge.db")


class Registry(Protocol):
    """How the workers of one kind of database show that they live."""

    def register(self, worker_id: str) -> None: ...

    def renew(self, worker_id: str, *, has_claims: bool) -> bool:
        """Show that this worker lives; returns false if it was declared dead."""
        ...

    def remove(self, worker_id: str) -> None: ...

    def remove_dead(self, claiming: Collection[str]) -> None:
        """Remove the registrations of workers that do not live; `claiming`: ids in the tokens of claims."""
        ...

    def ids(self) -> frozenset[str]:
        """The registered workers."""
        ...


class Worker:
    """This process's registration; it renews itself in a thread of its own, so that no long work can delay it.

    Args:
        database: whose claims are meant.
        on_freed: called, in that thread, after claims of a dead worker were freed.
        has_claims: whether this process has claims now.
    """

    def __init__(
        self,
        database: Database,
        *,
        on_freed: Callable[[], None] = lambda: None,
        has_claims: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._on_freed = on_freed
        self._has_claims = has_claims
        file = database.file
        self._registry: Registry = WorkerRows(database) if file is None else LockFiles(file)
        self._id = ""
        self._numbers = count(1)
        self._renewed_at = 0.0
        self._is_stale = False
        self._abandoned: set[str] = set()
        self._renewing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_stopped, name="liveness", daemon=True)

    def new_token(self) -> str:
        """A token for a new claim."""
        return f"{self._id}:{next(self._numbers)}"

    @contextmanager
    def claiming(self) -> Iterator[str]:
        """A token for a claim; if the database fails, what was claimed with it nevertheless is freed soon."""
        token = self.new_token()
        try:
            yield token
        except DatabaseError:
            self._abandoned.add(token)
            raise

    def owns(self, token: str) -> bool:
        """Whether a claim can still be ours: it was made under the present id, which was renewed lately."""
        return token.startswith(self._id) and time.monotonic() - self._renewed_at < DEAD_AFTER

    def start(self) -> None:
        """Register, and free the claims of workers that have died.

        Raises:
            DatabaseError: the database failed.
        """
        self._register()
        self._free_dead()
        self._thread.start()

    def stop(self) -> None:
        """Free what is still claimed, and remove the registration."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(DatabaseError, OSError):
            self._registry.remove(self._id)
            self._free_dead()

    def renew(self) -> None:
        """Renew the registration once, and free the claims of dead workers.

        Raises:
            DatabaseError: the database failed.
        """
        with self._renewing:
            started_at = time.monotonic()
            if self._is_stale:
                self._registry.remove(self._id)
                self._register()
            elif self._registry.renew(self._id, has_claims=self._has_claims()):
                self._renewed_at = started_at
            else:
                log.warning("worker.declared_dead", detail="this process was frozen, and its work was given to others")
                self._register()
            self._free_dead()
            self._free_abandoned()

    def start_afresh(self) -> None:
        """Take a new id, so that claims that could not be given back are freed; if the database is away, soon."""
        self._is_stale = True
        with contextlib.suppress(DatabaseError):
            self.renew()

    def _register(self) -> None:
        worker_id, started_at = secrets.token_hex(ID_LENGTH // 2), time.monotonic()
        self._registry.register(worker_id)
        self._id, self._renewed_at, self._is_stale = worker_id, started_at, False

    def _free_dead(self) -> None:
        claiming = self._database.read_now(claiming_workers)
        self._registry.remove_dead(claiming)
        dead = claiming - self._registry.ids()
        if dead:
            log.info("claims.freed", count=self._database.write_now(free_claims, dead))
            self._on_freed()

    def _free_abandoned(self) -> None:
        """Free what was claimed by transactions that were committed although the connection was lost."""
        abandoned = set(self._abandoned)
        if abandoned:
            self._database.write_now(free_tokens, abandoned)
            self._abandoned -= abandoned

    def _renew_until_stopped(self) -> None:
        while not self._stopping.wait(RENEW_SECONDS):
            try:
                self.renew()
            except (DatabaseError, OSError) as error:
                log.warning("worker.renewal_failed", detail=str(error))
            except Exception:
                log.exception("worker.renewal_failed")


@contextmanager
def registered(database: Database) -> Iterator[Worker]:
    """A worker for the duration of a command.

    Raises:
        DatabaseError: the database failed.
    """
    worker = Worker(database)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


class WorkerRows:
    """PostgreSQL: rows of `workers`, renewed by the database's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unchanged = _Unchanged()

    def register(self, worker_id: str) -> None:
        new = insert(workers).values(id=worker_id, seen_at=func.clock_timestamp())
        self._database.write_now(lambda connection: connection.execute(new))

    def renew(self, worker_id: str, *, has_claims: bool) -> bool:  # noqa: ARG002 - a row is renewed in any case
        renewal = update(workers).where(workers.c.id == worker_id).values(seen_at=func.clock_timestamp())
        return self._database.write_now(lambda connection: connection.execute(renewal).rowcount == 1)

    def remove(self, worker_id: str) -> None:
        removal = delete(workers).where(workers.c.id == worker_id)
        self._database.write_now(lambda connection: connection.execute(removal))

    def remove_dead(self, claiming: Collection[str]) -> None:  # noqa: ARG002 - a row that is not renewed is dead in any case
        age = func.extract("epoch", func.clock_timestamp() - workers.c.seen_at).label("age")
        found = self._database.read_now(lambda connection: connection.execute(select(workers, age)).all())
        unchanged = self._unchanged.seconds({row.id: row.seen_at for row in found})
        dead = [row for row in found if row.age >= DEAD_AFTER and unchanged[row.id] >= WATCHED_FOR]
        if dead:
            same = or_(*(and_(workers.c.id == row.id, workers.c.seen_at == row.seen_at) for row in dead))
            self._database.write_now(lambda connection: connection.execute(delete(workers).where(same)))

    def ids(self) -> frozenset[str]:
        return frozenset(self._database.read_now(lambda connection: connection.execute(select(workers.c.id)).scalars()))


class LockFiles:
    """SQLite: a locked file per process beside the database."""

    def __init__(self, database_file: Path) -> None:
        self._prefix = f"{database_file.name}-worker-"
        self._directory = database_file.parent
        self._descriptor = -1
        self._unchanged = _Unchanged()

    def register(self, worker_id: str) -> None:
        self._close()
        path = self._path(worker_id)
        unfinished = path.with_name(f"{path.name}.new")  # not seen by others until it is locked
        self._descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unfinished.rename(path)

    def renew(self, worker_id: str, *, has_claims: bool) -> bool:
        if not self._path(worker_id).exists():
            return False
        if has_claims:
            os.utime(self._descriptor)
        return True

    def remove(self, worker_id: str) -> None:
        self._path(worker_id).unlink(missing_ok=True)
        self._close()

    def remove_dead(self, claiming: Collection[str]) -> None:
        own = os.fstat(self._descriptor).st_ino if self._descriptor >= 0 else None
        signs: dict[str, tuple[int, bool]] = {}
        for worker_id in self.ids():
            with contextlib.suppress(FileNotFoundError):
                found = self._path(worker_id).stat()
                if found.st_ino != own:
                    signs[worker_id] = found.st_mtime_ns, worker_id in claiming
        for worker_id, seconds in self._unchanged.seconds(signs).items():
            path = self._path(worker_id)
            is_frozen = worker_id in claiming and seconds >= DEAD_AFTER
            if is_frozen or _is_unlocked(path):
                path.unlink(missing_ok=True)

    def ids(self) -> frozenset[str]:
        found = (path.name.removeprefix(self._prefix) for path in self._directory.glob(f"{self._prefix}*"))
        return frozenset(name for name in found if len(name) == ID_LENGTH)

    def _path(self, worker_id: str) -> Path:
        return self._directory / f"{self._prefix}{worker_id}"

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Unchanged:
    """For how long this process has seen values unchanged, by a clock that nothing sets."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[object, float]] = {}

    def seconds(self, values: Mapping[str, object]) -> dict[str, float]:
        now = time.monotonic()
        before, self._since = self._since, {}
        for key, value in values.items():
            known, since = before.get(key, (value, now))
            self._since[key] = (value, since if known == value else now)
        return {key: now - since for key, (_, since) in self._since.items()}


def claiming_workers(connection: Connection) -> frozenset[str]:
    """The ids in the tokens of all claims."""
    ids = (select(_worker_of(table)).where(table.c.claim_token.is_not(None)) for table in CLAIMED)
    return frozenset(connection.execute(union(*ids)).scalars())


def free_claims(connection: Connection, worker_ids: Collection[str]) -> int:
    """Free every claim of these workers; returns how many."""
    freed = 0
    for table in CLAIMED:
        theirs = (table.c.claim_token.is_not(None), _worker_of(table).in_(sorted(worker_ids)))
        freed += connection.execute(update(table).where(*theirs).values(claim_token=None)).rowcount
    return freed


def free_tokens(connection: Connection, tokens: Collection[str]) -> None:
    """Free what was claimed with these tokens."""
    for table in CLAIMED:
        connection.execute(update(table).where(table.c.claim_token.in_(sorted(tokens))).values(claim_token=None))


def _is_unlocked(path: Path) -> bool:
    """Whether the process that locked the file has died."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _worker_of(table: Table) -> ColumnElement[str]:
    """The id of the worker in a row's token."""
    return func.substr(table.c.claim_token, 1, ID_LENGTH)

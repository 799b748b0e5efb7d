"""Workers that live, die and freeze, second by second of a clock that the test sets; nothing waits for it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select, text, update
from structlog.testing import capture_logs

from bridge.db import liveness
from bridge.db.engine import Database
from bridge.db.liveness import CLAIMED, Worker, read_claims
from bridge.db.tables import endpoints, events, jobs, redeliveries, rooms, workers
from bridge.errors import DatabaseError
from tests.harness.builders import at, seen
from tests.harness.store_driver import StoreDriver
from tests.harness.tables import connected

DEAD = "00000000deadbeef"


class Now:
    """Seconds on the clock of every worker of a test."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Process:
    """A worker that renews and looks when the test calls it, with the tokens that it is working on."""

    def __init__(self, url: str, now: Now) -> None:
        self.database = Database(url)
        self.tokens: set[str] = set()
        self.has_made_due = False
        self.database.on_due(self._note_due)
        self.worker = Worker(self.database, tokens_in_use=lambda: frozenset(self.tokens), clock=now)
        self.worker.start()

    def _note_due(self) -> None:
        self.has_made_due = True

    def renew(self) -> None:
        self.worker.renew()

    def renew_and_look(self) -> None:
        self.worker.renew()
        self.worker.free_claims()

    def claim(self) -> str:
        """Claim every room."""
        token = self.worker.new_token()
        self.database.write_now(lambda connection: connection.execute(update(rooms).values(claim_token=token)))
        return token


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    monkeypatch.setattr(liveness, "RENEW_SECONDS", 3600.0)
    return Now()


@pytest.fixture
def start(now: Now, store: StoreDriver, migrated_url: str) -> Iterator[Callable[[], Process]]:
    """Start a process on a database with a room."""
    store.track("room")
    started: list[Process] = []

    def start_one() -> Process:
        started.append(Process(migrated_url, now))
        return started[-1]

    yield start_one
    for process in started:
        process.worker.stop()
        process.database.close()


def pass_seconds(now: Now, count: int, *steps: Callable[[], None]) -> None:
    for _ in range(count):
        now.seconds += 1
        for step in steps:
            step()


def claims(store: StoreDriver) -> list[tuple[str, str]]:
    return sorted(store.database.read_now(read_claims))


def registered(store: StoreDriver) -> set[str]:
    file = store.database.file
    if file is None:
        return {row.id for row in store.rows(workers)}
    return {path.name.rpartition("-")[2] for path in file.parent.glob("*-worker-*")}


def register_dead(store: StoreDriver, seconds_ago: float) -> None:
    """Leave the registration of a process that was killed."""
    file = store.database.file
    if file is not None:
        file.with_name(f"{file.name}-worker-{DEAD}").touch()
        return
    seen_at = func.clock_timestamp() - text(f"interval '{seconds_ago} seconds'")
    store.write(lambda connection: connection.execute(insert(workers).values(id=DEAD, seen_at=seen_at)))


def claim_everything(connection: Connection) -> None:
    """Claim a row of every table."""
    key = {
        "endpoint_key": select(endpoints.c.id).scalar_subquery(),
        "event_key": select(func.min(events.c.id)).scalar_subquery(),
    }
    connection.execute(insert(redeliveries).values(**key, requested_at=at(0), next_attempt_at=at(0), state="owed"))
    connection.execute(insert(jobs).values(name="prune", next_run_at=at(0)))
    for table in CLAIMED.values():
        connection.execute(update(table).values(claim_token=f"{DEAD}:1"))


@pytest.mark.parametrize("seconds_ago", [10, 0, -3600], ids=["long dead", "just died", "by a clock that was ahead"])
def test_the_claims_of_a_process_that_died_are_freed(
    start: Callable[[], Process], now: Now, store: StoreDriver, seconds_ago: float
) -> None:
    store.subscribe()
    store.poll(0, room=seen("anna"))
    store.write(claim_everything)
    assert {table for table, _ in claims(store)} == set(CLAIMED)
    register_dead(store, seconds_ago)

    survivor = start()
    if store.database.file is None:  # a row, unlike a lock, must have been seen unchanged
        watched = 2 if seconds_ago > 0 else 4
        pass_seconds(now, watched - 1, survivor.renew_and_look)
        assert len(claims(store)) == len(CLAIMED)
        pass_seconds(now, 1, survivor.renew_and_look)

    assert claims(store) == []
    assert survivor.has_made_due
    assert len(registered(store)) == 1


def test_a_frozen_process_is_fenced_and_goes_on_under_a_new_id(
    start: Callable[[], Process], now: Now, store: StoreDriver
) -> None:
    frozen, other = start(), start()
    token = frozen.claim()
    frozen.tokens = {token}
    pass_seconds(now, 3, other.renew_and_look)
    assert claims(store) == [("rooms", token)]
    assert frozen.worker.owns(token)
    pass_seconds(now, 2, other.renew_and_look)
    assert claims(store) == []
    assert not frozen.worker.owns(token), "it stops by itself, before it has asked the database"

    with capture_logs() as logs:
        frozen.renew()
    assert [line["event"] for line in logs] == ["worker.declared_dead"]
    assert not frozen.worker.owns(token)
    again = frozen.claim()
    frozen.tokens = {again}
    assert frozen.worker.owns(again)
    assert again.partition(":")[0] != token.partition(":")[0]
    pass_seconds(now, 10, frozen.renew, other.renew_and_look)
    assert claims(store) == [("rooms", again)]


def test_claims_of_a_process_that_lives_stay(start: Callable[[], Process], now: Now, store: StoreDriver) -> None:
    """Claims so short that the process has none whenever it renews, and a long one, whose file it touches."""
    living, other = start(), start()

    def claim_shortly() -> None:
        living.renew()
        latest.append(living.claim())

    latest: list[str] = []
    pass_seconds(now, 10, claim_shortly, other.renew_and_look)
    living.tokens = {latest[-1]}
    pass_seconds(now, 10, living.renew_and_look, other.renew_and_look)
    assert claims(store) == [("rooms", latest[-1])]
    assert len(registered(store)) == 2


def test_no_worker_counts_as_dead_after_an_outage_of_the_database(
    start: Callable[[], Process], now: Now, store: StoreDriver
) -> None:
    """Nor does it when the observer itself was frozen: the other one may come back as late again as it lasted."""
    late, observer = start(), start()
    token = late.claim()
    late.tokens = {token}
    pass_seconds(now, 2, late.renew, observer.renew_and_look)
    now.seconds += 8
    observer.renew_and_look()
    pass_seconds(now, 8, observer.renew_and_look)
    assert claims(store) == [("rooms", token)]
    pass_seconds(now, 10, late.renew, observer.renew_and_look)
    assert claims(store) == [("rooms", token)]
    pass_seconds(now, 5, observer.renew_and_look)
    assert claims(store) == [], "and afterwards the limit is as before"


def test_a_claim_that_nothing_works_on_is_freed(start: Callable[[], Process], now: Now, store: StoreDriver) -> None:
    process = start()
    token = process.claim()
    process.tokens = {token}
    pass_seconds(now, 10, process.renew_and_look)
    process.tokens = set()
    pass_seconds(now, 4, process.renew_and_look)
    assert claims(store) == [("rooms", token)], "work on it might only be about to begin"
    pass_seconds(now, 1, process.renew_and_look)
    assert claims(store) == []
    assert process.has_made_due


def test_a_claim_whose_row_is_locked_keeps_no_other_from_being_freed(
    postgresql_migrated_url: str, postgresql_store: StoreDriver, now: Now
) -> None:
    store = postgresql_store
    store.track("a", "b")
    store.write(lambda connection: connection.execute(update(rooms).values(claim_token=f"{DEAD}:1")))
    with connected(postgresql_migrated_url) as locking:
        locking.execute(select(rooms).where(rooms.c.upstream_id == "a").with_for_update())
        process = Process(postgresql_migrated_url, now)
        assert [row.claim_token is None for row in store.rows(rooms, "upstream_id")] == [False, True]
    process.worker.free_claims()
    assert claims(store) == []
    process.worker.stop()
    process.database.close()


def test_a_stop_leaves_nothing(start: Callable[[], Process], store: StoreDriver) -> None:
    stopping, other = start(), start()
    stopping.claim()
    stopping.worker.stop()
    assert claims(store) == []
    assert len(registered(store)) == 1
    other.worker.stop()
    assert registered(store) == set()


def test_processes_that_start_together_all_live(migrated_url: str, now: Now, store: StoreDriver) -> None:
    """Each looks for dead ones while the others are about to lock their files."""
    databases = [Database(migrated_url) for _ in range(6)]
    started = [Worker(database, clock=now) for database in databases]
    together = threading.Barrier(len(started))

    def run(worker: Worker) -> None:
        together.wait()
        worker.start()
        for _ in range(20):
            worker.free_claims()
        worker.renew()

    threads = [threading.Thread(target=run, args=(worker,)) for worker in started]
    with capture_logs() as logs:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert logs == []
    assert len(registered(store)) == len(started)
    for worker, database in zip(started, databases, strict=True):
        worker.stop()
        database.close()
    assert registered(store) == set()


def test_names_of_files_are_no_patterns(tmp_path: Path, now: Now, sqlite_template: Path) -> None:
    file = tmp_path / "a [b]*'% é.db"
    shutil.copy(sqlite_template, file)
    left, notes = (file.with_name(f"{file.name}-worker-{end}") for end in (DEAD, "notes-of-someone"))
    left.touch()
    notes.touch()
    process = Process(f"sqlite:///{file}", now)
    assert not left.exists()
    assert notes.exists()
    assert len(list(tmp_path.glob("*-worker-*"))) == 2
    process.worker.stop()
    process.database.close()
    assert {path.name for path in tmp_path.iterdir() if "-worker-" in path.name} == {notes.name}


def test_a_file_that_cannot_be_made_is_an_error_for_the_operator(tmp_path: Path, now: Now) -> None:
    with pytest.raises(DatabaseError, match=r"^cannot create or lock .*/nowhere/bridge\.db-worker-\w+: .*; put the"):
        Process(f"sqlite:///{tmp_path / 'nowhere' / 'bridge.db'}", now)

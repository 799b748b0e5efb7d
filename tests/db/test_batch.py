"""Group commit: few transactions, a bad row fails alone, a batch waits while the database is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from sqlalchemy import Connection, insert, text
from structlog.testing import capture_logs

from bridge.db.batch import GroupCommit
from bridge.db.engine import Database
from bridge.db.tables import sources
from bridge.errors import DatabaseError
from tests.harness.store_driver import StoreDriver
from tests.harness.waiting import until


class Names:
    """Writes names through a group commit; `bad` ones raise, and the database refuses names that are taken."""

    def __init__(self, store: StoreDriver, bad: Sequence[str] = ()) -> None:
        self.store = store
        self.bad = set(bad)
        self.batches: list[int] = []
        self.commits: GroupCommit[str, str] = GroupCommit(lambda names: store.database.write(self._write, names))

    def _write(self, connection: Connection, names: Sequence[str]) -> list[str]:
        self.batches.append(len(names))
        for name in names:
            connection.execute(insert(sources).values(name=name))
            if name in self.bad:
                raise ValueError(name)
        return [f"wrote {name}" for name in names]

    async def submit(self, *names: str) -> list[str | BaseException]:
        return await asyncio.gather(*(self.commits.submit(name) for name in names), return_exceptions=True)

    def stored(self) -> list[str]:
        return [row.name for row in self.store.rows(sources, "name")]


async def test_items_that_are_ready_together_are_written_together(store: StoreDriver) -> None:
    names = Names(store)
    wanted = [f"n{number:03}" for number in range(100)]

    assert await names.submit(*wanted) == [f"wrote {name}" for name in wanted]
    assert names.stored() == wanted
    assert len(names.batches) <= 2


async def test_items_submitted_during_a_commit_are_written_next(store: StoreDriver) -> None:
    names = Names(store)
    waves: list[asyncio.Task[list[str | BaseException]]] = []
    for wave in range(5):
        waves.append(asyncio.create_task(names.submit(*(f"{wave}-{number}" for number in range(10)))))
        await asyncio.sleep(0)
    await asyncio.gather(*waves)

    assert len(names.stored()) == 50


async def test_many_items_are_written_in_several_batches(store: StoreDriver) -> None:
    names = Names(store)
    results = await names.submit(*(f"n{number:04}" for number in range(1200)))

    assert results == [f"wrote n{number:04}" for number in range(1200)]
    assert max(names.batches) <= 500


@pytest.mark.parametrize(("faulty", "error"), [("bad", ValueError), ("taken", DatabaseError)])
async def test_a_faulty_item_fails_alone(store: StoreDriver, faulty: str, error: type[Exception]) -> None:
    names = Names(store, bad=["bad"])
    await names.submit("taken")

    first, failed, last = await names.submit("a", faulty, "c")

    assert (first, last) == ("wrote a", "wrote c")
    assert isinstance(failed, error)
    assert await names.submit("d") == ["wrote d"]
    assert names.stored() == ["a", "c", "d", "taken"]


async def test_a_cancelled_submit_does_not_affect_others(store: StoreDriver) -> None:
    names = Names(store)
    tasks = [asyncio.create_task(names.commits.submit(name)) for name in "abc"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [results[0], results[2]] == ["wrote a", "wrote c"]
    assert isinstance(results[1], asyncio.CancelledError)
    assert await names.submit("d") == ["wrote d"]


async def test_a_batch_waits_while_the_database_is_away(postgresql_migrated_url: str) -> None:
    store = StoreDriver(database=Database(postgresql_migrated_url))
    names = Names(store)
    assert await names.submit("before") == ["wrote before"]
    refuse_connections(postgresql_migrated_url, away=True)
    with capture_logs() as logs:
        waiting = asyncio.create_task(names.submit("during", "too"))
        await until(lambda: any(line["event"] == "database.waiting" for line in logs))
        assert not waiting.done()
        refuse_connections(postgresql_migrated_url, away=False)

        assert await waiting == ["wrote during", "wrote too"]
    assert names.stored() == ["before", "during", "too"]
    assert all("postgres:postgres" not in str(line) for line in logs)
    store.database.close()


def refuse_connections(url: str, *, away: bool) -> None:
    """Make the server refuse connections to this database, or accept them again."""
    name = urlsplit(url).path.removeprefix("/")
    with psycopg.connect(urlunsplit(urlsplit(url)._replace(path="/postgres")), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {str(not away).lower()}")
        if away:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])


@pytest.mark.parametrize("statement", ["SELECT 1/0", "INSERT INTO nowhere VALUES (1)"])
async def test_a_faulty_statement_does_not_count_as_a_database_that_is_away(
    postgresql_store: StoreDriver, statement: str
) -> None:
    tries: list[int] = []

    def write(connection: Connection, items: Sequence[int]) -> Sequence[int]:
        tries.append(len(items))
        connection.execute(text(statement))
        return items

    commits: GroupCommit[int, int] = GroupCommit(lambda items: postgresql_store.database.write(write, items))
    with pytest.raises(Exception, match=r"zero|nowhere"):
        await commits.submit(1)
    assert tries == [1, 1], "once in its batch, once alone"

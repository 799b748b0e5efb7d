"""Fixtures for every test: a database of each kind, a simulated upstream and a receiver on loopback."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog
from sqlalchemy import event

from bridge.db.engine import Database
from tests.harness import postgres
from tests.harness.compiled import share_compiled_statements
from tests.harness.receiver import Receiver
from tests.harness.schemas import delivered_problems
from tests.harness.simulator import Simulator
from tests.harness.store_driver import StoreDriver, copied_sqlite, migrated_postgresql, migrated_sqlite

share_compiled_statements()
SERVER = pytest.StashKey[Path]()

# Every TLS context would load the system's authorities, which takes longer than most tests: here is one, long expired.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "harness/no_authority.pem")

# No deadlines: on a busy machine any example may take a second.
hypothesis.settings.register_profile("test", max_examples=50, deadline=None)
hypothesis.settings.register_profile("campaign", max_examples=1000, deadline=None)
hypothesis.settings.load_profile("test")


def pytest_configure(config: pytest.Config) -> None:
    # The background jobs of a shell ignore Ctrl-C, and so would the programs that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    workerinput = getattr(config, "workerinput", None)
    if workerinput is None:
        config.stash[SERVER] = Path(tempfile.gettempdir()) / f"bridge-tests-{os.getpid()}"
    else:
        config.stash[SERVER] = Path(workerinput["bridge_server"])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are processors: the tests that start processes wait a lot."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return processors + (processors + 1) // 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each worker's share begin with some of the longest tests, so that none of them is left for the end."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    shares = [(slow[n::count], quick[len(quick) * n // count : len(quick) * (n + 1) // count]) for n in range(count)]
    items[:] = [item for share in shares for part in share for item in part]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist's WorkerController, which has no public type
    node.workerinput["bridge_server"] = str(node.config.stash[SERVER])


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        postgres.stop_server(config.stash[SERVER])


@pytest.fixture(autouse=True)
def _log_everything() -> Iterator[None]:
    """Undo what commands in this process set up: other tests look at lines below `warning`."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres_url(pytestconfig: pytest.Config) -> str:
    """The run's PostgreSQL server, started when first needed."""
    return postgres.server_url(pytestconfig.stash[SERVER])


@pytest.fixture
def postgresql_database_url(postgres_url: str) -> Iterator[str]:
    """A fresh, empty PostgreSQL database."""
    url = postgres.create_database(postgres_url)
    yield url
    postgres.drop_database(url)


@pytest.fixture
def sqlite_database_url(tmp_path: Path) -> str:
    """A fresh SQLite database: a file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'bridge.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh, empty database, once of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_database_url")
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return migrated_sqlite(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def postgresql_template(postgres_url: str) -> str:
    return migrated_postgresql(postgres_url)


@pytest.fixture
def sqlite_migrated_url(sqlite_template: Path, tmp_path: Path) -> str:
    return copied_sqlite(sqlite_template, tmp_path)


@pytest.fixture(scope="session")
def postgresql_databases(postgres_url: str, postgresql_template: str) -> Iterator[postgres.Databases]:
    databases = postgres.Databases(postgres_url, postgresql_template)
    yield databases
    databases.drop()


@pytest.fixture
def postgresql_migrated_url(postgresql_databases: postgres.Databases) -> Iterator[str]:
    with postgresql_databases.borrowed() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest) -> str:
    """A database with the newest schema and nothing in it, once of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_migrated_url")
    return url


@contextmanager
def opened(url: str) -> Iterator[StoreDriver]:
    """A store that never syncs to disk, which would be most of the time of a short transaction."""
    database = Database(url)
    if database.dialect == "sqlite":
        event.listen(database._writing, "connect", lambda driver, _: driver.execute("PRAGMA synchronous = OFF").close())
    yield StoreDriver(database=database)
    database.close()


@pytest.fixture
def store(migrated_url: str) -> Iterator[StoreDriver]:
    with opened(migrated_url) as driver:
        yield driver


@pytest.fixture
def postgresql_store(postgresql_migrated_url: str) -> Iterator[StoreDriver]:
    with opened(postgresql_migrated_url) as driver:
        yield driver


@pytest.fixture
def sqlite_store(sqlite_migrated_url: str) -> Iterator[StoreDriver]:
    with opened(sqlite_migrated_url) as driver:
        yield driver


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """A simulated upstream of this test's own."""
    with Simulator() as upstream:
        yield upstream


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that accepts everything until it is scripted; what it has accepted agrees with the JSON Schemas."""
    with Receiver() as subscriber:
        yield subscriber
    assert delivered_problems(subscriber.deliveries) == []

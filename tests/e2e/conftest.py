"""What every scenario starts with: a simulated upstream, a receiver, a database that is ready for `bridge run`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import postgres
from tests.harness.config import write_config
from tests.harness.process import bridge
from tests.harness.receiver import Receiver
from tests.harness.simulator import SimulatorClient, SimulatorProcess


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[SimulatorClient]:
    """A simulated upstream of this test's own."""
    with SimulatorProcess(tmp_path) as process:
        yield process.client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A subscriber that accepts everything until it is scripted."""
    with Receiver() as subscriber:
        yield subscriber


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a PostgreSQL database that `bridge migrate` has been through, to copy from."""
    url = postgres.create_database(postgres_url)
    config = tmp_path_factory.mktemp("migrate") / "bridge.toml"
    bridge(write_config(config, database_url=url, upstream="http://127.0.0.1:9"), "migrate")
    return url.rpartition("/")[2]


@pytest.fixture
def postgresql_ready_url(postgres_url: str, migrated_template: str) -> Iterator[str]:
    """A PostgreSQL database with the newest schema and nothing in it."""
    url = postgres.create_database(postgres_url, template=migrated_template)
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def ready_url(request: pytest.FixtureRequest) -> str:
    """A database that `bridge run` starts on: SQLite migrates itself, PostgreSQL has been migrated."""
    name = "sqlite_database_url" if request.param == "sqlite" else "postgresql_ready_url"
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture
def seed(record_property: Callable[[str, object], None]) -> int:
    """Chance, repeatable: `BRIDGE_TEST_SEED=… make test` runs a scenario again that has failed."""
    chosen = int(os.environ.get("BRIDGE_TEST_SEED") or secrets.randbelow(2**31))
    record_property("seed", chosen)
    print(f"seed {chosen}")  # noqa: T201 - pytest shows it when the test fails
    return chosen

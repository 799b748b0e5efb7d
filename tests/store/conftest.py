"""A stage on each kind of database: the same behaviour is asked of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.store.database import Database
from tests.harness import postgres
from tests.store.stage import Stage, copied_sqlite, migrated_postgresql, migrated_sqlite


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return migrated_sqlite(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def postgresql_template(postgres_url: str) -> str:
    return migrated_postgresql(postgres_url)


@pytest.fixture
def sqlite_migrated_url(sqlite_template: Path, tmp_path: Path) -> str:
    return copied_sqlite(sqlite_template, tmp_path)


@pytest.fixture
def postgresql_migrated_url(postgres_url: str, postgresql_template: str) -> Iterator[str]:
    url = postgres.create_database(postgres_url, template=postgresql_template)
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest) -> str:
    """A database with the newest schema and nothing in it, once of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_migrated_url")
    return url


@pytest.fixture
def stage(migrated_url: str) -> Iterator[Stage]:
    database = Database(migrated_url)
    yield Stage(database=database)
    database.close()


@pytest.fixture
def postgresql_stage(postgresql_migrated_url: str) -> Iterator[Stage]:
    database = Database(postgresql_migrated_url)
    yield Stage(database=database)
    database.close()


@pytest.fixture
def sqlite_stage(sqlite_migrated_url: str) -> Iterator[Stage]:
    database = Database(sqlite_migrated_url)
    yield Stage(database=database)
    database.close()

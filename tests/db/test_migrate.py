"""The version of the schema: migration, refusal of other schemas, agreement of migrations and tables."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, insert, inspect, select, text

import bridge.db.indexes  # noqa: F401 - belong to the metadata
from bridge.db.engine import Database
from bridge.db.migrate import alembic_config, migrate
from bridge.db.schema import HEAD, ensure_schema, schema_state
from bridge.db.tables import metadata, rooms
from bridge.errors import ConfigurationError, SchemaError


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database that was never migrated."""
    database = Database(database_url)
    yield database
    database.close()


def test_the_migrations_build_the_tables(database: Database) -> None:
    database.write_now(migrate)

    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)

    assert database.read_now(differences) == []
    assert database.read_now(schema_state).is_current
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


def test_the_migrations_build_the_same_indexes_and_constraints(database: Database) -> None:
    database.write_now(migrate)

    def names(connection: Connection) -> set[str | None]:
        found = inspect(connection)
        tables = found.get_table_names()
        return {index["name"] for table in tables for index in found.get_indexes(table)} | {
            unique["name"] for table in tables for unique in found.get_unique_constraints(table)
        }

    found = database.read_now(names)
    assert {str(index.name) for table in metadata.tables.values() for index in table.indexes} <= found
    assert {"ux_visits_open", "uq_events_room_key_sequence", "uq_endpoints_name"} <= found


def test_partial_indexes_are_partial(database: Database) -> None:
    database.write_now(migrate)
    query = (
        "SELECT sql FROM sqlite_master WHERE name = 'ux_visits_open'"
        if database.dialect == "sqlite"
        else "SELECT indexdef FROM pg_indexes WHERE indexname = 'ux_visits_open'"
    )
    definition = database.read_now(lambda connection: connection.execute(text(query)).scalar_one())

    assert "left_at IS NULL" in definition


def test_migrating_twice_changes_nothing(database: Database) -> None:
    database.write_now(migrate)
    before = database.read_now(schema_state)
    database.write_now(migrate)

    assert database.read_now(schema_state) == before


def test_rooms_of_the_first_schema_are_kept(database: Database) -> None:
    row = {"source": "main", "upstream_id": "a", "origin": "manual", "enabled": True, "tracked": True}
    times_and_head = {"added_at": datetime(2026, 11, 23, tzinfo=UTC), "chain_head": b""}

    def build(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        then = Table("rooms", MetaData(), autoload_with=connection)
        connection.execute(insert(then).values(row | times_and_head))

    database.write_now(build)
    assert not database.read_now(schema_state).is_current
    database.write_now(migrate)
    stored = select(rooms).where(rooms.c.source == "main")
    room = database.read_now(lambda connection: connection.execute(stored).one())
    assert (room.upstream_id, room.tracked, room.listed) == ("a", True, False)
    assert (room.listed_count, room.live_until, room.expected) == (None, None, None)


def test_several_processes_may_migrate_at_once(database_url: str) -> None:
    failures: list[BaseException] = []
    databases = [Database(database_url) for _ in range(3)]

    def run(database: Database) -> None:
        try:
            database.write_now(migrate)
        except BaseException as failure:  # noqa: BLE001 - asserted in the thread of the test
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert databases[0].read_now(schema_state).is_current
    for database in databases:
        database.close()


def test_a_fresh_sqlite_file_is_migrated_automatically(sqlite_database_url: str) -> None:
    database = Database(sqlite_database_url)
    ensure_schema(database)
    ensure_schema(database)

    assert database.read_now(schema_state).is_current
    database.close()


def test_a_fresh_postgresql_database_is_refused_with_the_command(postgresql_database_url: str) -> None:
    database = Database(postgresql_database_url)

    with pytest.raises(SchemaError, match="bridge migrate") as refused:
        ensure_schema(database)

    assert "postgres:postgres" not in str(refused.value)
    assert database.read_now(schema_state).is_fresh
    database.close()


def test_an_outdated_schema_is_refused_with_the_command(database: Database) -> None:
    database.write_now(lambda connection: connection.execute(text("CREATE TABLE other (id INTEGER)")))

    with pytest.raises(SchemaError, match="bridge migrate"):
        ensure_schema(database)

    assert not database.read_now(schema_state).is_current


def test_a_newer_schema_is_refused_without_a_command(database: Database) -> None:
    database.write_now(migrate)
    database.write_now(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))

    with pytest.raises(SchemaError, match="newer") as refused:
        database.write_now(migrate)
    assert "9999" in str(refused.value)
    with pytest.raises(SchemaError) as refused:
        ensure_schema(database)
    assert "run `bridge migrate`" not in str(refused.value)


def test_a_migration_that_fails_leaves_nothing(database: Database) -> None:
    class TestError(Exception):
        pass

    def broken(connection: Connection) -> None:
        migrate(connection)
        raise TestError

    with pytest.raises(TestError):
        database.write_now(broken)

    assert database.read_now(schema_state).is_fresh


@pytest.mark.parametrize(
    "url", ["mysql://u:hunter2@h/d", "nonsense", "oracle://u:hunter2@h/d", "sqlite+aiosqlite:///x"]
)
def test_other_databases_are_refused_with_examples(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Database(url)

    assert "sqlite:///" in str(refused.value)
    assert "hunter2" not in str(refused.value)

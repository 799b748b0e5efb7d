from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.cli.conftest import Cli
from tests.harness.doctor_runs import contents, examine, only
from tests.harness.simulator import Simulator
from tests.harness.tables import change

UNPRIVILEGED_USER = 65_534


@pytest.mark.parametrize(
    ("statement", "advice"),
    [
        ("DELETE FROM alembic_version", "run `bridge migrate`"),
        ("UPDATE alembic_version SET version_num = '9999'", "a newer one migrated it"),
    ],
)
def test_a_schema_of_another_version_is_a_failure_with_advice(cli: Cli, statement: str, advice: str) -> None:
    cli.take_up()
    change(cli.database_url, statement)
    before = contents(cli.directory)

    schema = only(examine(cli, code=1), "schema")

    assert schema["state"] == "fail"
    assert advice in schema["advice"]
    assert contents(cli.directory) == before


def test_an_empty_file_stays_empty(cli: Cli) -> None:
    cli.database_file.touch()

    assert only(examine(cli), "schema")["detail"] == "an empty database"
    assert cli.database_file.stat().st_size == 0


def test_the_database_of_another_program_is_not_changed(cli: Cli) -> None:
    with contextlib.closing(sqlite3.connect(cli.database_file)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = contents(cli.directory)

    assert only(examine(cli, code=1), "schema")["state"] == "fail"
    assert contents(cli.directory) == before


def test_a_file_that_is_not_a_database_is_a_failure(cli: Cli) -> None:
    cli.database_file.write_bytes(b"a letter, not a database" * 100)

    database = only(examine(cli, code=1), "database")

    assert (database["state"], database["detail"]) == ("fail", "file is not a database")


def test_the_write_ahead_log_of_a_running_service_is_read(busy: Cli) -> None:
    with contextlib.closing(sqlite3.connect(busy.database_file, isolation_level=None)) as connection:
        connection.execute("UPDATE rooms SET failures = 7, last_failure = 'reset'")
        assert Path(f"{busy.database_file}-wal").stat().st_size > 0

        assert "7 failures in a row: reset" in only(examine(busy, code=1), "room")["detail"]


def test_a_directory_that_is_not_there_is_a_failure(cli: Cli) -> None:
    cli.database_url = f"sqlite:///{cli.directory}/nowhere/bridge.db"
    cli.configure()

    database = only(examine(cli, code=1), "database")

    assert "there is no directory" in database["detail"]
    assert not (cli.directory / "nowhere").exists()


@pytest.fixture
def shared(cli: Cli) -> Iterator[Cli]:
    """A configuration and a database in a directory that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        cli.directory = Path(name)
        cli.directory.chmod(0o755)
        cli.config, cli.database_file = cli.directory / "bridge.toml", cli.directory / "bridge.db"
        cli.database_url = f"sqlite:///{cli.database_file}"
        cli.configure()
        yield cli
        cli.directory.chmod(0o755)


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Root may write everywhere, another user may not; codecs are loaded before, from files that only root may read."""
    "localhost".encode("idna")
    before = os.geteuid()
    if before == 0:
        os.seteuid(UNPRIVILEGED_USER)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_directory_that_is_not_writable_is_a_failure(shared: Cli, *, is_there: bool) -> None:
    if is_there:
        shared.take_up()
        shared.database_file.chmod(0o644)
    shared.directory.chmod(0o555)

    with without_privileges():
        found = examine(shared, code=1)

    assert "is not writable" in only(found, "database")["detail"]


@pytest.mark.parametrize(("mode", "obstacle"), [(0, "readable"), (0o444, "writable")])
def test_a_file_that_may_not_be_read_or_written_is_a_failure(shared: Cli, mode: int, obstacle: str) -> None:
    shared.take_up()
    shared.database_file.chmod(mode)
    shared.directory.chmod(0o777)

    with without_privileges():
        found = examine(shared, code=1)

    assert only(found, "database")["detail"] == f"the file is not {obstacle}"


@pytest.fixture
def on_postgresql(
    tmp_path: Path, postgresql_database_url: str, simulator: Simulator, capsys: pytest.CaptureFixture[str]
) -> Cli:
    return Cli(tmp_path, simulator.url, capsys, database_url=postgresql_database_url)


def test_an_empty_postgresql_database_must_be_migrated(on_postgresql: Cli) -> None:
    schema = only(examine(on_postgresql, code=1), "schema")
    assert (schema["detail"], schema["advice"]) == ("an empty database", "run `bridge migrate`")

    on_postgresql("migrate")

    found = examine(on_postgresql)
    assert only(found, "database")["detail"].startswith("PostgreSQL 1")
    assert only(found, "schema")["state"] == "ok"


@pytest.mark.parametrize(
    ("is_migrated", "statement", "obstacle"),
    [
        (True, "ALTER DATABASE {} SET default_transaction_read_only = on", "default_transaction_read_only is on"),
        (True, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", "may not write to the tables"),
        (False, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", "may not create tables"),
    ],
)
def test_a_postgresql_database_that_accepts_no_writes_is_a_failure(
    on_postgresql: Cli, *, is_migrated: bool, statement: str, obstacle: str
) -> None:
    owner = urlsplit(on_postgresql.database_url)
    if is_migrated:
        on_postgresql("migrate")
    with psycopg.connect(on_postgresql.database_url, autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = 'reader'").fetchone() is None:
            connection.execute("CREATE ROLE reader LOGIN PASSWORD 'pa55word'")
        connection.execute(statement.format(owner.path.removeprefix("/")))
    if "READ_ONLY" not in statement.upper():
        reader = owner._replace(netloc=f"reader:pa55word@{owner.hostname}:{owner.port}")
        on_postgresql.database_url = urlunsplit(reader)
        on_postgresql.configure()

    database = only(examine(on_postgresql, code=1), "database")

    assert (database["state"], obstacle in database["detail"]) == ("fail", True)
    assert "pa55word" not in database["subject"]


def test_without_a_key_stored_secrets_are_a_warning(busy: Cli) -> None:
    secrets = only(examine(busy), "secrets")

    assert (secrets["state"], "in clear" in secrets["detail"]) == ("warn", True)


def test_with_a_key_every_stored_text_is_decrypted(
    cli: Cli, endpoint: Mapping[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", "new,old")
    cli.configure(endpoints=[endpoint])
    cli.take_up()

    assert only(examine(cli), "secrets")["detail"] == "2 stored texts can be decrypted"


@pytest.mark.parametrize("keys", ["other", None])
def test_a_secret_whose_key_is_not_listed_is_a_failure(
    cli: Cli, endpoint: Mapping[str, object], monkeypatch: pytest.MonkeyPatch, keys: str | None
) -> None:
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", "first")
    cli.configure(endpoints=[endpoint])
    cli.take_up()
    monkeypatch.delenv("BRIDGE_ENCRYPTION_KEY")
    if keys is not None:
        monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", keys)

    locked = [one for one in examine(cli, code=1) if one["check"] == "secrets" and one["state"] == "fail"]

    assert [one["subject"] for one in locked] == ["crm", "crm"]
    assert ["its secret" in locked[0]["detail"], "its headers" in locked[1]["detail"]] == [True, True]


def test_a_text_that_was_stored_before_there_was_a_key_is_a_warning(busy: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", "new")

    secrets = only(examine(busy), "secrets")

    assert secrets["state"] == "warn"
    assert secrets["detail"].endswith(": crm")

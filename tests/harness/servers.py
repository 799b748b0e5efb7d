"""PostgreSQL as operators run it: a primary with a standby to fail over to, and pgbouncer in front of a server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import psycopg

from tests.harness import postgres
from tests.harness.waiting import wait_until

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
POOL_SIZE = 4
NOBODY = 65_534


class Replicated:
    """A primary and its standby; `url` names both, `primary_url` and `standby_url` one. Use as a context manager."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="bridge-replicated-"))
        self._directory.chmod(0o755)
        self.primary_url = postgres.start(self._directory / "primary")
        self.standby_url = postgres.start(self._directory / "standby", copy_of=self.primary_url)
        primary, standby = urlsplit(self.primary_url), urlsplit(self.standby_url)
        user, _, host = primary.netloc.rpartition("@")
        self.url = urlunsplit(primary._replace(netloc=f"{user}@{host},{standby.hostname}:{standby.port}"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("standby", "primary"):
            with suppress(subprocess.SubprocessError):
                postgres.control(self._directory / name, "-m", "immediate", "stop")
        shutil.rmtree(self._directory, ignore_errors=True)

    def make_read_only(self) -> None:
        """Let the primary refuse to write, in running sessions too; it still responds."""
        with psycopg.connect(self.primary_url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            connection.execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Make the standby the primary, once it has everything."""
        with psycopg.connect(self.primary_url) as connection:
            (position,) = connection.execute("SELECT pg_current_wal_lsn()").fetchone() or (None,)
        with psycopg.connect(self.standby_url, autocommit=True) as connection:
            query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            wait_until(lambda: (connection.execute(query, (position,)).fetchone() or (False,))[0], what="the copy")
        postgres.control(self._directory / "standby", "-w", "promote")

    def stop_primary(self) -> None:
        postgres.control(self._directory / "primary", "-m", "immediate", "stop")


@contextmanager
def pgbouncer(database_url: str, directory: Path) -> Iterator[str]:
    """Run pgbouncer in transaction mode in front of a database; yields the database's address through it."""
    assert PGBOUNCER is not None, "check PGBOUNCER first"
    server, port = urlsplit(database_url), postgres.free_port()
    users, config = directory / "users.txt", directory / "pgbouncer.ini"
    users.write_text(f'"{server.username}" "{server.password}"\n')
    config.write_text(
        f"[databases]\n* = host={server.hostname} port={server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = plain\nauth_file = {users}\npool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\n"
    )
    command, user = [PGBOUNCER, "-q", str(config)], NOBODY if os.geteuid() == 0 else None
    for path in (directory, *directory.parents[:3], users, config):  # it refuses to run as root
        with suppress(PermissionError):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user) as process:
        try:
            wait_until(lambda: _listens(port), what="pgbouncer")
            address = f"{server.username}:{server.password}@127.0.0.1:{port}"
            yield urlunsplit(server._replace(netloc=address))
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

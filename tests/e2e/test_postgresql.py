"""The real program on PostgreSQL as operators run it: failovers, pgbouncer, databases of another encoding."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest
from psycopg import sql

from tests.harness import postgres
from tests.harness.config import Configure, write_config
from tests.harness.deliveries import all_problems
from tests.harness.process import Bridge, BridgeProcess, command
from tests.harness.receiver import Receiver
from tests.harness.servers import PGBOUNCER, POOL_SIZE, Replicated, pgbouncer
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.slow

ROOMS = [f"room-{number}" for number in range(8)]
LISTENING: LiteralString = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"


@pytest.fixture
def replicated() -> Iterator[Replicated]:
    with Replicated() as servers:
        yield servers


@pytest.fixture
def configure(tmp_path: Path, simulator: Simulator, receiver: Receiver) -> Configure:
    """Write a `bridge.toml`; `database_url` is an argument."""
    return partial(
        write_config,
        tmp_path / "bridge.toml",
        upstream=simulator.url,
        rooms=ROOMS,
        endpoints=[receiver.endpoint()],
    )


def join_everywhere(simulator: Simulator, peer: str) -> None:
    for room in ROOMS:
        simulator.join(room, f"{peer}-{room}")


def wait_for_joins(receiver: Receiver, count: int) -> None:
    wait_until(lambda: len(receiver.events("peer.joined")) >= count, what=f"{count} joins")


@pytest.mark.parametrize("stops", [True, False], ids=["stopped", "read-only"])
def test_work_goes_on_at_the_new_primary(
    configure: Configure, replicated: Replicated, simulator: Simulator, receiver: Receiver, *, stops: bool
) -> None:
    config = configure(database_url=replicated.url)
    command(config, "migrate")
    join_everywhere(simulator, "before")
    with BridgeProcess(config) as program:
        wait_for_joins(receiver, len(ROOMS))
        if not stops:
            replicated.make_read_only()
        replicated.promote()
        if stops:
            replicated.stop_primary()
        join_everywhere(simulator, "after")
        wait_for_joins(receiver, 2 * len(ROOMS))
        assert program.stop() == 0
    assert all_problems(receiver.deliveries, replicated.standby_url) == []


def test_a_process_listens_on_one_connection_until_it_stops(
    configure: Configure, postgresql_migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    """Over a reload, and again after the connection was lost; room-0 is added by another process."""
    config = configure(database_url=postgresql_migrated_url, rooms=ROOMS[1:])
    with (
        psycopg.connect(postgresql_migrated_url, autocommit=True) as database,
        BridgeProcess(config, "poller", "sender") as program,
    ):
        program.wait_ready()
        wait_until(lambda: listening(database) == 1, what="a process that listens")
        program.send(signal.SIGHUP)
        wait_until(lambda: list(program.lines("configuration.reloaded")), what="the reload")
        assert listening(database) == 1
        database.execute(f"SELECT pg_terminate_backend(pid) {LISTENING}")
        wait_until(lambda: list(program.lines("listen.failed")), what="the loss of the connection")
        wait_until(lambda: listening(database) == 1, what="a process that listens again")
        simulator.join(ROOMS[0], "anna")
        command(config, "rooms", "add", ROOMS[0])
        receiver.wait_for_count(2, room=ROOMS[0])
        assert program.stop() == 0
        wait_until(lambda: listening(database) == 0, what="the end of its connection")
    assert all_problems(receiver.deliveries, postgresql_migrated_url) == []


def listening(database: psycopg.Connection) -> int:
    return len(database.execute(f"SELECT pid {LISTENING}").fetchall())


def test_a_database_that_refuses_to_write_makes_the_service_not_ready(
    configure: Configure, replicated: Replicated, simulator: Simulator, receiver: Receiver
) -> None:
    config = configure(database_url=replicated.primary_url, web={"listen": f"127.0.0.1:{postgres.free_port()}"})
    command(config, "migrate")
    with BridgeProcess(config) as program:
        program.wait_ready()
        url = next(program.lines("web.listening"))["url"] + "readyz"
        join_everywhere(simulator, "anna")
        wait_for_joins(receiver, len(ROOMS))
        wait_until(lambda: readiness(url)["ready"], what="a service that is ready")
        replicated.make_read_only()
        wait_until(lambda: not readiness(url)["ready"], what="a service that is not")
        assert any("nothing could be written" in reason for reason in readiness(url)["reasons"])
        with psycopg.connect(replicated.primary_url) as connection:
            (count,) = connection.execute("SELECT count(*) FROM pg_stat_activity").fetchone() or (0,)
        assert count < 30
        assert program.stop() == 0


def readiness(url: str) -> dict[str, Any]:
    response: dict[str, Any] = httpx.get(url, trust_env=False, timeout=30).json()
    return response


def end_connections(url: str) -> None:
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(query, (urlsplit(url).path.removeprefix("/"),))


def test_connections_that_are_ended_again_and_again_cost_nothing(
    configure: Configure, postgresql_migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    with BridgeProcess(configure(database_url=postgresql_migrated_url)) as program:
        program.wait_ready()
        for round_number in range(1, 7):
            end_connections(postgresql_migrated_url)
            join_everywhere(simulator, f"guest{round_number}")
            end_connections(postgresql_migrated_url)
            wait_for_joins(receiver, round_number * len(ROOMS))
        assert program.stop() == 0
    assert all_problems(receiver.deliveries, postgresql_migrated_url) == []


def test_a_database_with_strict_settings_of_its_own(
    configure: Configure, postgresql_migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    name = sql.Identifier(urlsplit(postgresql_migrated_url).path.removeprefix("/"))
    with psycopg.connect(postgresql_migrated_url, autocommit=True) as connection:
        for setting, value in (("default_transaction_isolation", "serializable"), ("statement_timeout", "2s")):
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, sql.Identifier(setting), sql.Literal(value))
            )
    with BridgeProcess(configure(database_url=postgresql_migrated_url)) as program:
        for round_number in range(1, 4):
            join_everywhere(simulator, f"guest{round_number}")
            wait_for_joins(receiver, round_number * len(ROOMS))
        assert program.stop() == 0
    assert all_problems(receiver.deliveries, postgresql_migrated_url) == []


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
@pytest.mark.parametrize("options", ["", "?prepare_threshold=0"])
def test_pgbouncer_in_transaction_mode(
    configure: Configure,
    tmp_path: Path,
    postgresql_database_url: str,
    simulator: Simulator,
    receiver: Receiver,
    options: str,
) -> None:
    with pgbouncer(postgresql_database_url, tmp_path) as url:
        config = configure(database_url=url + options)
        command(config, "migrate")
        with BridgeProcess(config) as program:
            for round_number in range(1, 6):
                join_everywhere(simulator, f"guest{round_number}")
                wait_for_joins(receiver, round_number * len(ROOMS))
            command(config, "doctor")
            command(config, "audit", "verify")
            program.wait_ready()
            settings = {found for _ in range(20) for found in settings_of_others(url)}
            assert program.stop() == 0
            assert [line for line in program.lines() if line["level"] != "info"] == []
    assert settings == {tuple(read_settings(postgresql_database_url))}
    assert all_problems(receiver.deliveries, postgresql_database_url) == []
    assert len(receiver.deliveries) == len(receiver.events()), "each came once"


SETTINGS = ("lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout", "statement_timeout")


def read_settings(url: str) -> list[str]:
    """The time-outs of another program that has connected to a database."""
    with psycopg.connect(url, prepare_threshold=None) as connection:
        return [str((connection.execute(f"SHOW {name}").fetchone() or [""])[0]) for name in SETTINGS]


def settings_of_others(url: str) -> Iterator[tuple[str, ...]]:
    for _ in range(POOL_SIZE):
        yield tuple(read_settings(url))


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_is_not_utf8_is_refused_with_the_reason(
    configure: Configure, tmp_path: Path, postgres_url: str, encoding: str
) -> None:
    name = f"odd_{encoding.lower()}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    config = configure(database_url=urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}")))
    for arguments in (["migrate"], ["run"], ["doctor"]):
        with Bridge(*arguments, "--config", str(config), directory=tmp_path) as program:
            assert program.wait() == 1
            words = " ".join(program.output.split())
            assert f"its encoding is {encoding}, and names need UTF8" in words
            assert "Traceback" not in words

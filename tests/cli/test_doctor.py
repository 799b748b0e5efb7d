from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import os
import pty
import socket
import sqlite3
import ssl
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bridge.cli.doctor_database import judge_space
from bridge.cli.doctor_findings import State
from bridge.cli.doctor_machine import secrets_in_clear
from bridge.sources.checkup import Checkup, parse_date
from tests.cli.conftest import Cli
from tests.harness.config import API_KEY, write_config
from tests.harness.loop_thread import LoopThread
from tests.harness.process import BridgeProcess, bridge_command, environment
from tests.harness.receiver import SECRET, Answer, Receiver
from tests.harness.simulator import SimulatorClient

ROOM = "abc-defg-hij"
NOBODY = 65_534
NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
OPEN_LOOPBACK = {"allow_private_networks": ["127.0.0.0/8"]}
LIVE_SESSIONS = b'{"liveSessions":[]}'

Found = Mapping[str, Any]


class Listener(LoopThread):
    """A TCP or TLS server that sends everybody who asks the same bytes, or nothing, ever."""

    def __init__(self, answer: bytes | None = None, tls: ssl.SSLContext | None = None) -> None:
        super().__init__("listener")
        self._answer = answer
        self._tls = tls
        self.port = 0
        self.received = b""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready()
        await self._stopping.wait()
        server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                self.received += chunk
                if self._answer is not None and b"\r\n\r\n" in self.received:
                    writer.write(self._answer)
                    await writer.drain()
                    break
            writer.close()


def answering(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers))
    return head.encode() + b"\r\n\r\n" + body


def examine(cli: Cli, *, code: int = 0) -> list[Found]:
    found: list[Found] = cli("doctor", "--json", code=code).json()
    return found


def only(found: Sequence[Found], check: str, subject: str | None = None) -> Found:
    """The finding of that check (and subject), of which there must be one."""
    (one,) = [one for one in found if one["check"] == check and subject in (None, one["subject"])]
    return one


def change(cli: Cli, statement: str, *values: object) -> None:
    """Write into the SQLite file what it takes a service days to come to."""
    with contextlib.closing(sqlite3.connect(cli.database_file)) as connection:
        assert connection.execute(statement, values).rowcount > 0
        connection.commit()


def stored(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")


def ago(**how_long: float) -> str:
    return stored(datetime.now(UTC) - timedelta(**how_long))


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir() if path.is_file()}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def busy(cli: Cli, simulator: SimulatorClient, receiver: Receiver) -> Cli:
    """A service has been here: a room that was live, an endpoint that takes deliveries."""
    cli.configure(rooms=[ROOM], endpoints=[receiver.endpoint("crm")])
    cli.take_up()
    simulator.join(ROOM, "anna")
    cli("poll", ROOM)
    cli.deliver()
    return cli


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_healthy_bridge_has_no_failure(busy: Cli) -> None:
    found = examine(busy)

    assert {one["state"] for one in found if one["check"] not in ("config_file", "encryption")} == {"ok"}
    assert [one["check"] for one in found] == [
        "version", "config_file", "open_files", "web", "database", "disk", "schema", "encryption", "secrets",
        "api_key", "clock", "source", "room", "endpoint", "connection",
    ]  # fmt: skip
    assert all(list(one) == ["check", "subject", "state", "detail", "advice"] for one in found)
    assert all((one["advice"] is None) == (one["state"] == "ok") for one in found)


def test_the_table_says_what_the_json_says(busy: Cli) -> None:
    done = busy("doctor")

    header, *rows = done.out.splitlines()
    assert header.split() == ["check", "subject", "state", "found", "what", "to", "do"]
    assert len(rows) == len(examine(busy))
    assert any(row.split()[:4] == ["api", "key", "main", "ok"] for row in rows)
    assert done.err == "13 ok, 2 warn, 0 fail\n"


def test_one_failure_is_exit_code_1(cli: Cli) -> None:
    cli.configure(sources={"main": {"base_url": f"http://127.0.0.1:{closed_port()}"}})

    done = cli("doctor", code=1)

    assert "1 fail" in done.err
    assert "unreachable: connect" in done.out


def test_a_broken_configuration_is_exit_code_2(cli: Cli) -> None:
    cli.config.write_text('[bridge]\nnmae = "x"\n')

    assert "nmae" in cli.refuses("doctor", code=2)


def test_nothing_is_changed(busy: Cli, simulator: SimulatorClient, receiver: Receiver) -> None:
    before, events, delivered = contents(busy.directory), busy.events(), len(receiver.deliveries)
    polls = len(simulator.polls())

    examine(busy)

    assert contents(busy.directory) == before
    assert busy.events() == events
    assert len(receiver.deliveries) == delivered
    assert len(simulator.polls()) == polls


def test_nothing_is_made_where_nothing_was(cli: Cli, receiver: Receiver) -> None:
    cli.configure(rooms=[ROOM], endpoints=[receiver.endpoint("crm")])
    before = contents(cli.directory)

    found = examine(cli)

    assert contents(cli.directory) == before
    assert only(found, "database")["detail"] == "can be made here"
    assert only(found, "schema")["state"] == "warn"
    assert "`bridge run` makes it" in only(found, "schema")["advice"]
    assert only(found, "endpoint")["detail"].startswith("new")
    assert receiver.deliveries == ()


def test_no_secret_is_shown(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["pa55word", API_KEY, SECRET, "hush-header", "hush-token", "hush-path", "key-of-the-vault"]
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", "key-of-the-vault")
    with Listener(answering(f'{{"message": "key {API_KEY}?"}}'.encode(), status="500 Oops")) as echo:
        write_config(
            cli.config,
            database_url=f"postgresql://bridge:pa55word@127.0.0.1:{closed_port()}/x?password=pa55word",
            upstream=f"http://{echo.host}",
            rooms=[ROOM],
            endpoints=[
                {
                    "name": "crm",
                    "url": f"https://127.0.0.1:{closed_port()}/hush-path?token=hush-token",
                    "secret": SECRET,
                    "headers": {"x-auth": "hush-header"},
                }
            ],
            web={"tokens": [{"name": "ops", "token": "hush-token"}]},
        )
        shown = [cli("doctor", *form, code=1) for form in ((), ("--json",))]

    for done in shown:
        assert not [secret for secret in secrets if secret in done.out + done.err]
        assert "server error (500)" in done.out


def test_progress_is_shown_on_a_terminal_alone(busy: Cli) -> None:
    assert "examining" not in busy("doctor").err
    reading, writing = pty.openpty()
    done = subprocess.run(
        bridge_command("doctor", "--config", str(busy.config)),
        env=environment({"TERM": "xterm", "COLUMNS": "80"}),
        stdout=subprocess.PIPE,
        stderr=writing,
        check=False,
    )
    os.close(writing)
    with open(reading, "rb", closefd=True, buffering=0) as terminal:  # noqa: PTH123 - a descriptor has no path
        said = terminal.read(65_536).decode()
    assert done.returncode == 0, said
    assert "examining" in said
    assert b"\x1b" not in done.stdout


def test_on_a_narrow_terminal_advice_stands_below(busy: Cli) -> None:
    reading, writing = pty.openpty()
    with subprocess.Popen(
        bridge_command("doctor", "--config", str(busy.config)),
        env=environment({"TERM": "xterm", "COLUMNS": "80"}),
        stdout=writing,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(writing)
        said = b""
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
            while chunk := os.read(reading, 65_536):
                said += chunk
        os.close(reading)
    assert process.returncode == 0
    assert "→ set BRIDGE_ENCRYPTION_KEY" in said.decode()
    assert "what to do" not in said.decode()


def test_it_ends_when_everything_hangs(cli: Cli) -> None:
    with Listener() as silent:
        endpoints = [{"name": f"e{number:02}", "url": f"https://{silent.host}/"} for number in range(70)]
        write_config(
            cli.config,
            database_url=f"postgresql://bridge:pa55word@{silent.host}/x",
            upstream=f"http://{silent.host}",
            rooms=[ROOM],
            endpoints=endpoints,
            sources={"main": {"timeout": "60s"}},
            web={"listen": silent.host},
        )
        found = examine(cli, code=1)

    connections = [one for one in found if one["check"] == "connection"]
    assert {one["detail"] for one in connections} == {
        "timeout: no connection within 4 s",
        "not tried: too many others hang",
    }
    assert len(connections) == 70
    assert "timeout" in only(found, "database")["detail"] or "no answer" in only(found, "database")["detail"]
    assert only(found, "api_key")["detail"] == "timeout: no whole answer within 4 s"
    assert only(found, "web")["detail"] == "taken by a program that is no bridge"
    assert only(found, "room")["detail"] == "not polled yet"


# --- the database ----------------------------------------------------------------------------------------------------


def test_a_database_that_is_outdated_is_a_failure_with_the_command_to_run(cli: Cli) -> None:
    cli.take_up()
    change(cli, "DELETE FROM alembic_version")
    before = contents(cli.directory)

    schema = only(examine(cli, code=1), "schema")

    assert (schema["state"], schema["advice"]) == ("fail", "run `bridge migrate`")
    assert contents(cli.directory) == before


def test_a_database_of_a_newer_version_is_a_failure(cli: Cli) -> None:
    cli.take_up()
    change(cli, "UPDATE alembic_version SET version_num = '9999'")

    schema = only(examine(cli, code=1), "schema")

    assert "9999" in schema["detail"]
    assert "a newer one migrated it" in schema["advice"]


def test_an_empty_file_is_not_made_a_database(cli: Cli) -> None:
    cli.database_file.touch()

    assert only(examine(cli), "schema")["detail"] == "an empty database"
    assert cli.database_file.stat().st_size == 0


def test_another_programs_database_is_left_as_it_is(cli: Cli) -> None:
    with contextlib.closing(sqlite3.connect(cli.database_file)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = contents(cli.directory)

    assert only(examine(cli, code=1), "schema")["state"] == "fail"
    assert contents(cli.directory) == before


def test_a_file_that_is_no_database_is_a_failure(cli: Cli) -> None:
    cli.database_file.write_bytes(b"a letter, not a database" * 100)

    database = only(examine(cli, code=1), "database")

    assert (database["state"], database["detail"]) == ("fail", "file is not a database")


def test_what_a_running_service_has_not_moved_into_the_file_yet_is_seen(busy: Cli) -> None:
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
def shared_directory() -> Iterator[Path]:
    """A directory that everybody can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Root may write everywhere."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_directory_that_may_not_be_written_to_is_a_failure(
    cli: Cli, shared_directory: Path, *, is_there: bool
) -> None:
    cli.directory = shared_directory
    cli.config, cli.database_file = shared_directory / "bridge.toml", shared_directory / "bridge.db"
    cli.database_url = f"sqlite:///{cli.database_file}"
    cli.configure()
    if is_there:
        cli.take_up()
    shared_directory.chmod(0o555)

    with without_privileges():
        found = examine(cli, code=1)

    shared_directory.chmod(0o755)
    assert "nothing may be written into" in only(found, "database")["detail"]


def test_a_file_that_may_not_be_written_to_is_a_failure(cli: Cli, shared_directory: Path) -> None:
    cli.directory = shared_directory
    cli.config, cli.database_file = shared_directory / "bridge.toml", shared_directory / "bridge.db"
    cli.database_url = f"sqlite:///{cli.database_file}"
    cli.configure()
    cli.take_up()
    cli.database_file.chmod(0o444)
    shared_directory.chmod(0o777)

    with without_privileges():
        found = examine(cli, code=1)

    assert only(found, "database")["detail"] == "the file may only be read"
    assert only(found, "schema")["state"] == "ok"


@pytest.mark.parametrize(("free", "state"), [(0, State.WARN), (104_857_599, State.WARN), (104_857_600, State.OK)])
def test_little_space_is_a_warning(free: int, state: State) -> None:
    assert judge_space("/data", free).state is state


def test_the_disk_is_the_databases(busy: Cli) -> None:
    disk = only(examine(busy), "disk")

    assert disk["subject"] == str(busy.directory)
    assert disk["detail"].endswith("MB free")


@pytest.fixture
def on_postgresql(
    tmp_path: Path, postgresql_database_url: str, simulator: SimulatorClient, capsys: pytest.CaptureFixture[str]
) -> Cli:
    return Cli(tmp_path, simulator.url, capsys, database_url=postgresql_database_url)


def test_an_empty_postgresql_database_must_be_migrated(on_postgresql: Cli) -> None:
    schema = only(examine(on_postgresql, code=1), "schema")
    assert (schema["detail"], schema["advice"]) == ("an empty database", "run `bridge migrate`")

    on_postgresql("migrate")

    found = examine(on_postgresql)
    assert only(found, "database")["detail"].startswith("PostgreSQL 1")
    assert only(found, "schema")["state"] == "ok"
    assert only(found, "secrets")["detail"] == "0 stored texts can be opened"


@pytest.mark.parametrize(
    ("is_migrated", "statement", "obstacle"),
    [
        (True, "ALTER DATABASE {} SET default_transaction_read_only = on", "default_transaction_read_only is on"),
        (True, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", "may not write into the tables"),
        (False, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", "may not create tables"),
    ],
)
def test_a_postgresql_database_that_takes_no_writes_is_a_failure(
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


# --- secrets at rest -------------------------------------------------------------------------------------------------


def test_without_a_key_a_warning_says_that_secrets_are_in_clear(busy: Cli) -> None:
    found = examine(busy)

    assert (only(found, "encryption")["state"], only(found, "secrets")["state"]) == ("warn", "ok")
    assert "in clear" in only(found, "encryption")["detail"]


def test_with_a_key_all_is_well(cli: Cli, endpoint: Mapping[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", "new,old")
    cli.configure(endpoints=[endpoint])
    cli.take_up()

    found = examine(cli)

    assert only(found, "encryption")["detail"] == "secrets are encrypted (2 keys)"
    assert only(found, "secrets")["detail"] == "2 stored texts can be opened"


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

    lost = [one for one in examine(cli, code=1) if one["check"] == "secrets"]

    assert [(one["subject"], one["state"]) for one in lost] == [("crm", "fail"), ("crm", "fail")]
    assert ["its secret" in lost[0]["detail"], "its headers" in lost[1]["detail"]] == [True, True]


def test_what_was_stored_before_there_was_a_key_is_a_warning(busy: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", "new")

    secrets = only(examine(busy), "secrets")

    assert secrets["state"] == "warn"
    assert secrets["detail"].endswith(": crm")


# --- sources ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "state", "detail"),
    [
        ({"kind": "unauthorized"}, "fail", "key refused (401)"),
        ({"kind": "rate_limited"}, "warn", "too many requests (429)"),
        ({"kind": "rate_limited", "retry_after": 30}, "warn", "too many requests (429), asks for a pause of 30s"),
        ({"kind": "status", "status": 503}, "fail", "server error (503)"),
        ({"kind": "html_200"}, "fail", "the body is not JSON"),
        ({"kind": "not_found_page"}, "fail", "status 404"),
        ({"kind": "redirect"}, "fail", "a redirect, which is not followed"),
        ({"kind": "reset"}, "fail", "unreachable: reset"),
        ({"kind": "timeout"}, "fail", "timeout: no whole answer within 0.5 s"),
    ],
)
def test_how_a_source_answers(
    cli: Cli, simulator: SimulatorClient, fault: Mapping[str, object], state: str, detail: str
) -> None:
    cli.configure(sources={"main": {"timeout": "500ms"}}, rooms=[ROOM])
    simulator.faults(fault)

    found = examine(cli, code=1 if state == "fail" else 0)

    key = only(found, "api_key", "main")
    assert key["state"] == state
    assert detail in key["detail"]
    assert key["advice"]
    assert only(found, "room")["detail"] == "not polled yet"
    assert simulator.polls() == []


def test_the_wrong_key_is_refused(cli: Cli) -> None:
    cli.configure(sources={"main": {"api_key": "ak_wrong"}, "other": {}})

    found = examine(cli, code=1)

    assert only(found, "api_key", "main")["detail"] == "key refused (401)"
    assert "[sources.main]" in only(found, "api_key", "main")["advice"]
    assert only(found, "api_key", "other")["state"] == "ok"


@pytest.mark.parametrize(
    ("base_url", "word"),
    [
        ("http://no-such-name.invalid/api", "dns"),
        ("http://127.0.0.1:{closed}/", "connect"),
        ("https://{plain}/", "tls"),
    ],
)
def test_why_a_source_is_unreachable(cli: Cli, receiver: Receiver, base_url: str, word: str) -> None:
    url = base_url.format(closed=closed_port(), plain=urlsplit(receiver.url).netloc)
    cli.configure(sources={"main": {"base_url": url}})

    found = examine(cli, code=1)

    assert only(found, "api_key")["detail"].startswith(f"unreachable: {word}")
    assert [one for one in found if one["check"] == "clock"] == []


def test_no_live_room_is_a_good_answer(cli: Cli) -> None:
    none = b'{"ok": false, "message": "No live sessions found"}'
    with Listener(answering(none, status="404 Not Found")) as upstream:
        cli.configure(upstream=f"http://{upstream.host}")

        assert only(examine(cli), "api_key")["state"] == "ok"
        assert upstream.received.startswith(b"GET /api/v2/sdk/live-sessions HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("ahead", "state", "detail"),
    [
        (timedelta(), "ok", "agrees with"),
        (timedelta(seconds=3), "ok", "agrees with"),
        (timedelta(seconds=60), "warn", "behind"),
        (timedelta(seconds=-60), "warn", "ahead of"),
        (timedelta(minutes=20), "fail", "20m behind"),
        (timedelta(minutes=-20), "fail", "ahead of"),
    ],
)
def test_a_clock_that_is_wrong(cli: Cli, ahead: timedelta, state: str, detail: str) -> None:
    date = format_datetime(datetime.now(UTC).replace(microsecond=0) + ahead + timedelta(seconds=1), usegmt=True)
    with Listener(answering(LIVE_SESSIONS, f"date: {date}")) as upstream:
        cli.configure(upstream=f"http://{upstream.host}")
        clock = only(examine(cli, code=1 if state == "fail" else 0), "clock")

    assert clock["state"] == state
    assert detail.rsplit(maxsplit=1)[-1] in clock["detail"]
    assert ("NTP" in (clock["advice"] or "")) == (state != "ok")


@pytest.mark.parametrize("headers", [(), ("date: yesterday",)])
def test_an_upstream_that_does_not_say_its_time(cli: Cli, headers: Sequence[str]) -> None:
    with Listener(answering(LIVE_SESSIONS, *headers)) as upstream:
        cli.configure(upstream=f"http://{upstream.host}")
        clock = only(examine(cli), "clock")

    assert clock["detail"].startswith("not compared")


@pytest.mark.parametrize(
    ("dated_after", "skew"),
    [(-10.0, 9.0), (-1.0, 0.0), (-0.5, 0.0), (0.0, 0.0), (4.0, 0.0), (5.0, -1.0), (64.0, -60.0)],
)
def test_a_slow_answer_is_no_skew(dated_after: float, skew: float) -> None:
    checkup = Checkup(
        failure=None,
        asked_at=NOW,
        answered_at=NOW + timedelta(seconds=4),
        dated_at=NOW + timedelta(seconds=dated_after),
    )

    assert checkup.clock_skew == timedelta(seconds=skew)


@pytest.mark.parametrize("header", [None, "", "yesterday", "Mon, 99 Nov 2026 09:30:00 GMT", "1764063000"])
def test_a_date_that_cannot_be_read_is_none(header: str | None) -> None:
    assert parse_date(header) is None


def test_a_date_is_in_utc() -> None:
    assert parse_date("Mon, 23 Nov 2026 09:30:00 GMT") == NOW
    assert parse_date("Mon, 23 Nov 2026 09:30:00 -0000") == NOW


def test_what_the_pollers_think_of_a_source_is_told(busy: Cli) -> None:
    change(
        busy, "UPDATE sources SET condition = 'unauthorized', since = ?, held_until = ?", ago(hours=2), ago(hours=-1)
    )

    source = only(examine(busy), "source")

    assert source["state"] == "warn"
    assert source["detail"].startswith("unauthorized for 2h, next try in 59m")

    change(busy, "UPDATE sources SET condition = 'failing', held_until = ?", ago(hours=1))
    assert only(examine(busy), "source")["detail"] == "failing for 2h: its rooms are hardly polled"


# --- rooms -----------------------------------------------------------------------------------------------------------


def test_a_room_that_was_live_is_well(busy: Cli) -> None:
    room = only(examine(busy), "room", ROOM)

    assert room["state"] == "ok"
    assert room["detail"].startswith("polled ")


def test_a_room_that_was_never_live_may_not_exist(cli: Cli) -> None:
    cli("rooms", "add", ROOM)
    cli("poll", ROOM)

    room = only(examine(cli), "room", ROOM)

    assert room["state"] == "warn"
    assert "unknown to Huddle01 or never live: both look the same" in room["detail"]


def test_a_room_that_fails_is_a_warning_until_it_lasts(busy: Cli, simulator: SimulatorClient) -> None:
    simulator.faults({"kind": "status", "status": 500}, room=ROOM)
    busy("poll", ROOM, code=1)
    room = only(examine(busy), "room")
    assert (room["state"], "1 failure in a row: server_error: status 500" in room["detail"]) == ("warn", True)

    change(busy, "UPDATE rooms SET failures = 5, complete_at = ?", ago(minutes=10))
    room = only(examine(busy, code=1), "room")
    assert room["state"] == "fail"
    assert room["detail"].startswith("last whole answer 10m")


def test_a_room_that_never_answered_says_so(cli: Cli, simulator: SimulatorClient) -> None:
    cli("rooms", "add", ROOM)
    simulator.faults({"kind": "html_200"}, room=ROOM)
    cli("poll", ROOM, code=1)

    assert only(examine(cli), "room")["detail"].startswith("no whole answer yet, 1 failure in a row")


def test_a_disabled_room_is_said_to_be_that(cli: Cli) -> None:
    cli.configure(rooms=[{"id": ROOM, "enabled": False}])
    assert only(examine(cli), "room")["detail"] == "disabled, so it is not polled"
    cli.take_up()
    assert only(examine(cli), "room")["state"] == "ok"


@pytest.mark.parametrize("is_taken_up", [True, False])
def test_rooms_that_were_never_polled_are_asked_for(cli: Cli, simulator: SimulatorClient, *, is_taken_up: bool) -> None:
    cli.configure(rooms=[ROOM, "quiet", "broken"])
    simulator.join(ROOM, "anna")
    simulator.faults({"kind": "status", "status": 500}, room="broken")
    if is_taken_up:
        cli.take_up()

    found = examine(cli)

    assert only(found, "room", ROOM)["detail"] == "not polled yet; live now, 1 peer"
    assert only(found, "room", "quiet")["state"] == "warn"
    assert "both look the same" in only(found, "room", "quiet")["detail"]
    assert only(found, "room", "broken")["detail"].startswith("server_error: status 500")


def test_rooms_of_several_sources_are_told_apart(cli: Cli) -> None:
    cli.configure(sources={"main": {}, "other": {}}, rooms=[{"id": ROOM, "source": name} for name in ("main", "other")])

    found = examine(cli)

    assert only(found, "room", f"main/{ROOM}")
    assert only(found, "room", f"other/{ROOM}")


def test_many_rooms_are_counted(cli: Cli, simulator: SimulatorClient) -> None:
    rooms = [f"room-{number:02}" for number in range(30)]
    cli.configure(rooms=[{"id": ROOM, "enabled": False}, *rooms])
    cli.take_up()
    for number in range(23):
        cli("poll", rooms[number], "--json")
    change(cli, "UPDATE rooms SET failures = 9, last_failure = 'reset' WHERE upstream_id = 'room-00'")
    polls = len(simulator.polls())

    told = [one for one in examine(cli, code=1) if one["check"] == "room"]

    assert [(one["subject"], one["state"]) for one in told] == [
        ("1 room", "fail"),
        ("22 rooms", "warn"),
        ("7 rooms", "warn"),
        ("1 room", "ok"),
    ]
    assert told[0]["detail"] == "cannot be polled: room-00"
    assert told[1]["detail"].endswith("room-01, room-02, room-03, room-04, room-05 and 17 more")
    assert told[3]["detail"] == "disabled"
    assert len(simulator.polls()) == polls


# --- endpoints -------------------------------------------------------------------------------------------------------


def test_an_endpoint_that_takes_deliveries_is_well(busy: Cli, receiver: Receiver) -> None:
    found = examine(busy)

    assert only(found, "endpoint", "crm")["detail"] == "active, nothing owed"
    assert only(found, "connection", "crm")["detail"] == f"{urlsplit(receiver.url).netloc} answers, without TLS"


@pytest.mark.parametrize(
    ("values", "state", "detail"),
    [
        ("state = 'disabled', state_reason = 'operator'", "warn", "disabled (operator), nothing owed"),
        ("state = 'disabled', state_reason = 'gone'", "fail", "disabled (gone), nothing owed"),
        ("state = 'disabled', state_reason = 'failing'", "fail", "disabled (failing), nothing owed"),
        ("circuit = 'open', failing_since = {ago}", "fail", "circuit open, failing for 2h, nothing owed"),
        ("failing_since = {ago}", "warn", "failing for 2h, nothing owed"),
    ],
)
def test_the_state_of_an_endpoint(busy: Cli, values: str, state: str, detail: str) -> None:
    change(busy, "UPDATE endpoints SET " + values.format(ago=repr(ago(hours=2))))

    endpoint = only(examine(busy, code=1 if state == "fail" else 0), "endpoint")

    assert (endpoint["state"], endpoint["detail"]) == (state, detail)
    assert "crm" in endpoint["advice"]


def test_an_endpoint_that_is_gone(busy: Cli, simulator: SimulatorClient, receiver: Receiver) -> None:
    receiver.script(Answer(status=410))
    simulator.leave(ROOM, "anna")
    busy("poll", ROOM)
    busy.deliver()

    endpoint = only(examine(busy, code=1), "endpoint")

    assert endpoint["detail"].startswith("disabled (gone), 2 events owed for ")


def test_what_is_owed_for_long_asks_for_a_sender(busy: Cli, simulator: SimulatorClient) -> None:
    simulator.join(ROOM, "bert")
    busy("poll", ROOM)
    assert only(examine(busy), "endpoint")["state"] == "ok"
    change(busy, "UPDATE events SET recorded_at = ?", ago(hours=3))

    endpoint = only(examine(busy), "endpoint")

    assert (endpoint["state"], endpoint["detail"]) == ("warn", "1 event owed for 3h")
    assert "is a sender running?" in endpoint["advice"]


def test_what_an_endpoint_does_not_want_is_not_owed(busy: Cli, simulator: SimulatorClient, receiver: Receiver) -> None:
    busy.configure(rooms=[ROOM], endpoints=[receiver.endpoint("crm", events=["room.empty"])])
    busy.take_up()
    simulator.join(ROOM, "bert")
    busy("poll", ROOM)
    change(busy, "UPDATE events SET recorded_at = ?", ago(hours=3))

    assert only(examine(busy), "endpoint")["detail"] == "active, nothing owed"


def test_an_endpoint_that_is_new_and_disabled(cli: Cli) -> None:
    cli.configure(endpoints=[{"name": "crm", "url": f"http://127.0.0.1:{closed_port()}/", "enabled": False}])

    found = examine(cli)

    assert only(found, "endpoint")["detail"] == "new, and disabled"
    assert only(found, "connection")["state"] == "warn"


def test_an_endpoint_that_was_added_by_hand_is_examined_too(cli: Cli, receiver: Receiver) -> None:
    cli("endpoints", "add", "by-hand", f"{receiver.url}/x")

    found = examine(cli)

    assert only(found, "endpoint", "by-hand")["state"] == "ok"
    assert only(found, "connection", "by-hand")["state"] == "ok"


@pytest.mark.parametrize(
    ("url", "delivery", "detail"),
    [
        ("http://127.0.0.1:{closed}/hush", OPEN_LOOPBACK, "connect: 127.0.0.1:{closed}: connection refused"),
        ("https://localhost:{closed}/hush", {"allow_private_networks": []}, "blocked: "),
        ("https://no-such-name.invalid/hush", OPEN_LOOPBACK, "dns: no-such-name.invalid cannot be resolved"),
        ("https://127.0.0.1:{plain}/hush", OPEN_LOOPBACK, "tls: 127.0.0.1:{plain}: "),
    ],
)
def test_why_there_is_no_way_to_an_endpoint(
    cli: Cli, receiver: Receiver, url: str, delivery: Mapping[str, object], detail: str
) -> None:
    ports = {"closed": closed_port(), "plain": urlsplit(receiver.url).port}
    cli.configure(endpoints=[{"name": "crm", "url": url.format(**ports)}], delivery=delivery)

    done = cli("doctor", "--json", code=1)

    connection = only(done.json(), "connection", "crm")
    assert connection["state"] == "fail"
    assert connection["detail"].startswith(detail.format(**ports))
    assert connection["advice"]
    assert "hush" not in done.out


def test_a_firewall_that_swallows_everything(cli: Cli) -> None:
    with Listener() as silent:
        cli.configure(endpoints=[{"name": "crm", "url": f"https://{silent.host}/"}])
        connection = only(examine(cli, code=1), "connection")

    assert connection["detail"] == "timeout: no connection within 4 s"


def certificate(path: Path, *, days: float, address: str = "127.0.0.1") -> Path:
    """A certificate of one's own and its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + signed.public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("days", "address", "is_trusted", "state", "detail"),
    [
        (30.5, "127.0.0.1", True, "ok", "TLSv1.3, certificate for another 30d"),
        (3.5, "127.0.0.1", True, "warn", "TLSv1.3, certificate for another 3d"),
        (-1, "127.0.0.1", True, "fail", "certificate has expired"),
        (30.5, "127.0.0.2", True, "fail", "IP address mismatch"),
        (30.5, "127.0.0.1", False, "fail", "self-signed certificate"),
    ],
)
def test_certificates(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, *, days: float, address: str, is_trusted: bool, state: str, detail: str
) -> None:
    pem = certificate(cli.directory / "receiver.pem", days=days, address=address)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    with Listener(answering(b""), tls=context) as receiver:
        cli.configure(endpoints=[{"name": "crm", "url": f"https://{receiver.host}/"}])
        connection = only(examine(cli, code=1 if state == "fail" else 0), "connection")

    assert connection["state"] == state
    assert detail in connection["detail"]
    assert receiver.received == b"", "a request was sent"


# --- this machine ----------------------------------------------------------------------------------------------------


def test_versions_are_told(cli: Cli) -> None:
    version = only(examine(cli), "version")

    assert version["detail"].startswith("bridge ")
    assert "Python 3." in version["detail"]


@pytest.mark.parametrize(
    ("mode", "secrets", "state"),
    [(0o644, True, "warn"), (0o600, True, "ok"), (0o640, True, "ok"), (0o644, False, "ok")],
)
def test_who_may_read_the_configuration(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, *, mode: int, secrets: bool, state: str
) -> None:
    monkeypatch.setenv("HUDDLE01_API_KEY", API_KEY)
    if not secrets:
        cli.configure(sources={"main": {"api_key": "env:HUDDLE01_API_KEY"}})
    cli.config.chmod(mode)

    file = only(examine(cli), "config_file")

    assert (file["state"], file["subject"]) == (state, str(cli.config))
    assert stat.S_IMODE(cli.config.stat().st_mode) == mode
    if state == "warn":
        assert "sources.main.api_key" in file["detail"]
        assert "chmod 600" in file["advice"]


def test_secrets_in_clear_are_found_wherever_they_stand() -> None:
    tables = {
        "bridge": {"name": "x"},
        "sources": {"a": {"api_key": "x"}, "b": {"api_key": "env:X"}, "c": {"api_key_file": "x"}},
        "endpoints": [
            {"secret": "x", "headers": {"X-Auth": "x", "X-Other": "env:X"}},
            {"secret_file": "x"},
            {"url": "https://x/"},
        ],
        "web": {"tokens": [{"token": "x"}]},
        "unknown": {"secret": "x"},
    }

    assert list(secrets_in_clear(tables)) == [
        "sources.a.api_key",
        "endpoints[0].secret",
        "endpoints[0].headers.X-Auth",
        "web.tokens[0].token",
    ]


def test_a_configuration_from_the_environment_alone_has_no_file(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.directory)
    cli.config.unlink()
    environ = {"BRIDGE__WEB__LISTEN": "", "BRIDGE__DATABASE__URL": cli.database_url}
    done = subprocess.run(
        bridge_command("doctor"), env={**environment(), **environ}, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "everything comes from the environment" in done.stdout


def test_too_few_open_files_are_a_warning(cli: Cli) -> None:
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 200; exec "$@"', "sh", *bridge_command("doctor", "--config", str(cli.config))],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "at most 200, and up to 688 may be needed" in done.stdout


def test_the_web_server_is_off(cli: Cli) -> None:
    assert only(examine(cli), "web")["detail"] == "off"


def test_the_web_servers_port_is_free(cli: Cli) -> None:
    cli.configure(web={"listen": f"127.0.0.1:{closed_port()}"})

    assert only(examine(cli), "web")["detail"].startswith("free")


def test_a_running_bridge_is_recognized(cli: Cli) -> None:
    cli.configure(web={"listen": f"127.0.0.1:{closed_port()}"})
    with BridgeProcess(cli.config, "web").wait_ready():
        web = only(examine(cli), "web")

    assert (web["state"], web["detail"]) == ("ok", "a bridge answers there")


@pytest.mark.parametrize("answer", [answering(b"hello\n"), answering(b"ok\n", status="404 Not Found"), b"\0", None])
def test_another_program_on_the_port_is_a_failure(cli: Cli, answer: bytes | None) -> None:
    with Listener(answer) as other:
        cli.configure(web={"listen": other.host})
        web = only(examine(cli, code=1), "web")

    assert (web["state"], web["detail"]) == ("fail", "taken by a program that is no bridge")


def test_an_address_of_another_machine_cannot_be_listened_on(cli: Cli) -> None:
    tokens = [{"name": "ops", "token": "hush", "scopes": ["read"]}]
    cli.configure(web={"listen": "192.0.2.1:8080", "tokens": tokens})

    web = only(examine(cli, code=1), "web")

    assert web["detail"].startswith("cannot be listened on: ")

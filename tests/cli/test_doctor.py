from __future__ import annotations

import contextlib
import os
import pty
import subprocess

import pytest

from tests.cli.conftest import Cli
from tests.harness.config import API_KEY, write_config
from tests.harness.doctor_runs import (
    ROOM,
    Listener,
    answering,
    closed_port,
    contents,
    examine,
    only,
    serve_once,
)
from tests.harness.process import BridgeProcess, bridge_command, environment
from tests.harness.receiver import SECRET, Receiver
from tests.harness.simulator import SimulatorClient


@pytest.fixture
def busy(cli: Cli, simulator: SimulatorClient, receiver: Receiver) -> Cli:
    return serve_once(cli, simulator, receiver)


def test_a_healthy_bridge_has_no_failure(busy: Cli) -> None:
    found = examine(busy)

    assert {one["state"] for one in found if one["check"] != "encryption"} == {"ok"}
    assert [one["check"] for one in found] == [
        "version", "open_files", "web", "database", "disk", "schema", "encryption", "secrets",
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
    assert done.err == "13 ok, 1 warn, 0 fail\n"


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
    secrets = ["pa55word", API_KEY, SECRET, "hush-header", "hush-token", "hush-path", "key-of-the-cipher"]
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", "key-of-the-cipher")
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
        endpoints = [
            {"name": f"e{assign_sequences:02}", "url": f"https://{silent.host}/"} for assign_sequences in range(70)
        ]
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
    assert "timeout" in only(found, "database")["detail"] or "no response" in only(found, "database")["detail"]
    assert only(found, "api_key")["detail"] == "timeout: no whole response within 4 s"
    assert only(found, "web")["detail"] == "taken by a program that is no bridge"
    assert only(found, "room")["detail"] == "not polled yet"


def test_versions_are_told(cli: Cli) -> None:
    version = only(examine(cli), "version")

    assert version["detail"].startswith("bridge ")
    assert "Python 3." in version["detail"]


def test_a_configuration_from_the_environment_alone_has_no_file(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.directory)
    cli.config.unlink()
    environ = {"BRIDGE__WEB__LISTEN": "", "BRIDGE__DATABASE__URL": cli.database_url}
    done = subprocess.run(
        bridge_command("doctor"), env={**environment(), **environ}, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_too_few_open_files_are_a_warning(cli: Cli) -> None:
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 200; exec "$@"', "sh", *bridge_command("doctor", "--config", str(cli.config))],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "at most 200, and up to 2224 may be needed" in done.stdout


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


def test_a_bridge_whose_answer_comes_in_two_parts_is_recognized(cli: Cli) -> None:
    with Listener(answering(b"ok\n")) as other:
        cli.configure(web={"listen": other.host})
        web = only(examine(cli), "web")

    assert (web["state"], web["detail"]) == ("ok", "a bridge answers there")


@pytest.mark.parametrize("response", [answering(b"hello\n"), answering(b"ok\n", status="404 Not Found"), b"\0", None])
def test_another_program_on_the_port_is_a_failure(cli: Cli, response: bytes | None) -> None:
    with Listener(response) as other:
        cli.configure(web={"listen": other.host})
        web = only(examine(cli, code=1), "web")

    assert (web["state"], web["detail"]) == ("fail", "taken by a program that is no bridge")

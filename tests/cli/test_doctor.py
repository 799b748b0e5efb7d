from __future__ import annotations

import pytest

from tests.cli.conftest import ROOM, Cli
from tests.harness.config import API_KEY, write_config
from tests.harness.doctor_runs import contents, examine, http_response, only
from tests.harness.postgres import free_port
from tests.harness.receiver import SECRET, Receiver
from tests.harness.simulator import Simulator
from tests.harness.wire import RawReceiverThread, hang


def test_a_healthy_bridge_has_no_failure(busy: Cli) -> None:
    found = examine(busy)

    assert {one["state"] for one in found if one["check"] != "secrets"} == {"ok"}
    assert [one["check"] for one in found] == [
        "database", "schema", "secrets", "api_key", "clock", "room", "endpoint",
    ]  # fmt: skip
    assert all(list(one) == ["check", "subject", "state", "detail", "advice"] for one in found)
    assert all((one["advice"] is None) == (one["state"] == "ok") for one in found)


def test_the_table_has_the_findings_of_the_json(busy: Cli) -> None:
    done = busy("doctor")

    header, *rows = done.out.splitlines()
    assert header.split() == ["STATE", "CHECK", "SUBJECT", "FOUND"]
    advice = [row for row in rows if row.strip().startswith("→")]
    assert len(rows) - len(advice) == len(examine(busy))
    assert any(row.split()[:4] == ["ok", "api", "key", "main"] for row in rows)
    assert [row.strip() for row in advice] == [
        "→ set BRIDGE_ENCRYPTION_KEY to a long random text, and keep a copy elsewhere"
    ]
    assert done.err == "6 ok, 1 warn, 0 fail\n"


def test_a_broken_configuration_is_exit_code_2(cli: Cli) -> None:
    cli.config.write_text('[bridge]\nnmae = "x"\n')

    assert "nmae" in cli.refuses("doctor", code=2)


def test_nothing_is_changed(busy: Cli, simulator: Simulator, receiver: Receiver) -> None:
    before, events, delivered = contents(busy.directory), busy.events(), len(receiver.deliveries)
    polls = len(simulator.polls())

    examine(busy)

    assert contents(busy.directory) == before
    assert busy.events() == events
    assert len(receiver.deliveries) == delivered
    assert len(simulator.polls()) == polls


def test_nothing_is_created(cli: Cli, receiver: Receiver) -> None:
    cli.configure(rooms=[ROOM], endpoints=[receiver.endpoint("crm")])
    before = contents(cli.directory)

    found = examine(cli)

    assert contents(cli.directory) == before
    assert only(found, "database")["detail"] == "can be created here"
    assert only(found, "schema")["state"] == "warn"
    assert "`bridge run`" in only(found, "schema")["advice"]
    assert only(found, "endpoint")["state"] == "ok"
    assert receiver.deliveries == ()


def test_no_secret_is_shown(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["pa55word", API_KEY, SECRET, "hush-header", "hush-token", "hush-path", "key-of-the-cipher"]
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", "key-of-the-cipher")
    with RawReceiverThread(http_response(f'{{"message": "key {API_KEY}?"}}'.encode(), status="500 Oops")) as echo:
        write_config(
            cli.config,
            database_url=f"postgresql://bridge:pa55word@127.0.0.1:{free_port()}/x?password=pa55word",
            upstream=f"http://{echo.host}",
            rooms=[ROOM],
            endpoints=[
                {
                    "name": "crm",
                    "url": f"https://127.0.0.1:{free_port()}/hush-path?token=hush-token",
                    "secret": SECRET,
                    "headers": {"x-auth": "hush-header"},
                }
            ],
        )
        shown = [cli("doctor", *form, code=1) for form in ((), ("--json",))]

    for done in shown:
        assert not [secret for secret in secrets if secret in done.out + done.err]
        assert "server error (500)" in done.out


def test_it_ends_although_everything_hangs(cli: Cli) -> None:
    with RawReceiverThread(hang) as silent:
        endpoints = [{"name": f"e{number:02}", "url": f"https://{silent.host}/"} for number in range(70)]
        write_config(
            cli.config,
            database_url=f"postgresql://bridge:pa55word@{silent.host}/x",
            upstream=f"http://{silent.host}",
            rooms=[ROOM],
            endpoints=endpoints,
            sources={"main": {"timeout": "60s"}},
        )
        found = examine(cli, code=1)

    connections = [one for one in found if one["check"] == "endpoint"]
    assert {one["detail"] for one in connections} == {
        "timeout: no connection within 4 s",
        "not tried: too many others time out",
    }
    assert len(connections) == 70
    assert "timeout" in only(found, "database")["detail"]
    assert only(found, "api_key")["detail"] == "timeout: no complete response within 4 s"
    assert only(found, "room")["detail"] == "not polled yet"

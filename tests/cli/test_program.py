from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import Any

import pytest
from typer.main import get_command

from bridge.cli.main import COMMANDS, app, run
from tests.cli.conftest import ROOM, Cli
from tests.harness.process import bridge_command, environment
from tests.harness.simulator import Simulator
from tests.harness.tables import change

LISTINGS = [("rooms", "list"), ("endpoints", "list"), ("events", "list"), ("deliveries", "list")]
READING = [*LISTINGS, ("rooms", "show", "x"), ("endpoints", "show", "x"), ("deliveries", "show", "x"), ("poll", "x"),
           ("rooms", "remove", "x"), ("endpoints", "remove", "x"), ("events", "tail")]  # fmt: skip
ALL = [*READING, ("rooms", "add", "x"), ("endpoints", "add", "x", "https://127.0.0.1/")]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("command", LISTINGS, ids=" ".join)
def test_an_empty_listing_is_an_empty_array(cli: Cli, command: tuple[str, ...]) -> None:
    cli.take_up()
    assert cli(*command, "--json").out == "[]\n"
    done = cli(*command)
    assert done.out == ""
    assert done.err != ""


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_commands_that_only_read_create_no_database(cli: Cli, command: tuple[str, ...]) -> None:
    assert "there is no database" in cli.refuses(*command, code=1)
    assert not cli.database_file.exists()


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_an_outdated_schema_is_refused_with_the_command_to_run(cli: Cli, command: tuple[str, ...]) -> None:
    cli.take_up()
    change(cli.database_url, "DELETE FROM alembic_version")
    assert "run `bridge migrate`" in cli.refuses(*command, code=1)


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_a_file_that_is_not_a_database_is_named(cli: Cli, command: tuple[str, ...]) -> None:
    cli.database_file.write_bytes(b"a letter, not a database" * 100)
    assert "not a database" in cli.refuses(*command, code=1)


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_a_broken_configuration_is_a_configuration_error(cli: Cli, command: tuple[str, ...]) -> None:
    cli.config.write_text('[bridge]\nnmae = "x"\n')
    assert 'line 2: bridge.nmae: unknown key; did you mean "name"?' in cli.refuses(*command, code=2)


@pytest.mark.parametrize(
    "arguments",
    [("rooms",), ("rooms", "liszt"), ("rooms", "show"), ("events", "list", "--jsno"), ("frob",), ("poll",),
     ("events", "list", "--limit", "many"), ("endpoints", "add", "x")],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_explained_on_stderr(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: bridge" in err
    assert "Traceback" not in err


def test_the_configuration_can_be_named_by_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.take_up()
    monkeypatch.setenv("BRIDGE_CONFIG", str(cli.config))
    assert run(["events", "list"]) == 0
    monkeypatch.setenv("BRIDGE_CONFIG", str(cli.config) + "x")
    assert run(["events", "list"]) == 2


@pytest.mark.parametrize("command", [*LISTINGS, ("rooms", "show", ROOM), ("poll", ROOM, "--dry-run")], ids=" ".join)
def test_tables_fit_a_terminal_of_80_columns(
    busy: Cli, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = _Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", screen)
        patch.setenv("COLUMNS", "80")
        patch.setenv("TERM", "dumb")
        assert run([*command, "--config", str(busy.config)]) == 0
    plain = busy(*command).out
    table = [line.rstrip() for line in screen.getvalue().splitlines()]
    assert max(map(len, table)) <= 80
    assert len(screen.getvalue().splitlines()) == len(plain.splitlines()), "a cell was folded"


@pytest.mark.parametrize("command", [*LISTINGS, ("rooms", "show", ROOM)], ids=" ".join)
def test_without_a_terminal_there_are_no_colours(busy: Cli, command: tuple[str, ...]) -> None:
    done = busy(*command)
    assert "\x1b" not in done.out + done.err


def test_a_name_that_cannot_be_encoded_is_escaped(busy: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "zoe", metadata={"displayName": "Zoë 🦊"})
    busy("poll", ROOM)
    for form in ([], ["--json"]):
        done = subprocess.run(
            bridge_command("events", "list", *form, "--config", str(busy.config)),
            env=environment({"PYTHONIOENCODING": "ascii"}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Zo\\xeb" in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_exit_code_1_without_a_message(busy: Cli, unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        bridge_command("events", "list", "--json", "--config", str(busy.config)),
        env=environment({"PYTHONUNBUFFERED": unbuffered}),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("command", [("--version",), ("--help",), ("events", "list", "--json"), ("init", "--help")])
def test_an_output_that_cannot_be_written_is_a_message(cli: Cli, command: tuple[str, ...]) -> None:
    cli.take_up()
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            bridge_command(*command),
            cwd=cli.directory,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "bridge: the output cannot be written: no space left on device\n")


def test_the_configuration_can_be_named_before_the_command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = cli.directory / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("BRIDGE_CONFIG", "nowhere.toml")
    file = str(cli.directory / "bridge.toml")
    assert run(["check"]) == 2
    assert run(["check", "--config", file]) == 0
    assert run(["--config", file, "check"]) == 0


def test_init_writes_the_named_file(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.directory)
    assert run(["init", "--config", "by-option.toml"]) == 0
    assert run(["init", "by-argument.toml"]) == 0
    monkeypatch.setenv("BRIDGE_CONFIG", "by-variable.toml")
    assert run(["init"]) == 0
    assert run(["init"]) == 2
    for name in ("by-option.toml", "by-argument.toml", "by-variable.toml"):
        assert (cli.directory / name).stat().st_mode & 0o777 == 0o600


def test_init_writes_a_source_of_the_named_kind(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.directory)
    for name in ("LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"):
        monkeypatch.setenv(name, "value")
    assert run(["init", "meet.toml", "--source", "livekit"]) == 0
    assert run(["--config", "meet.toml", "check"]) == 0
    assert run(["init", "other.toml", "--source", "livekitt"]) == 2
    assert not (cli.directory / "other.toml").exists()


def test_check_points_out_what_is_missing(cli: Cli) -> None:
    message = cli("check").err
    assert "note: no room is listed" in message
    assert "note: no endpoint is listed" in message


def test_every_command_of_the_help_can_be_looked_up() -> None:
    group: Any = get_command(app)
    assert [group.commands[name].name for name in COMMANDS] == list(COMMANDS)


def test_only_its_owner_may_read_the_database(tracked: Cli) -> None:
    assert tracked.database_file.exists()
    for file in tracked.directory.glob("bridge.db*"):
        assert file.stat().st_mode & 0o777 == 0o600, file

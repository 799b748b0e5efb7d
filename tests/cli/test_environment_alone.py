"""Without a file, the environment may be the whole configuration; it does not remove what a file once named."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from bridge.cli.main import run
from bridge.cli.settings import DEFAULT_CONFIG, find_file
from tests.cli.conftest import Cli
from tests.harness.config import Table
from tests.harness.process import READY, Bridge
from tests.harness.tables import everything

REJECTED = "the database has rooms or endpoints of a configuration file, and there is no file here"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory without a file."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.mark.parametrize(
    ("is_there", "variable", "found"),
    [
        (True, "BRIDGE__LOG__LEVEL", DEFAULT_CONFIG),
        (True, None, DEFAULT_CONFIG),
        (False, "BRIDGE__LOG__LEVEL", None),
        (False, "BRIDGE_ENCRYPTION_KEY", DEFAULT_CONFIG),  # no key of the configuration
        (False, None, DEFAULT_CONFIG),
    ],
)
def test_any_key_in_the_environment_replaces_a_missing_file(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, *, is_there: bool, variable: str | None, found: Path | None
) -> None:
    if is_there:
        (elsewhere / "bridge.toml").touch()
    if variable is not None:
        monkeypatch.setenv(variable, "debug")

    assert find_file(None) == found


def test_a_named_file_must_exist_whatever_is_in_the_environment(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BRIDGE__LOG__LEVEL", "debug")

    assert run(["check", "--config", str(elsewhere / "bridge.toml")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("others", [{}, {"BRIDGE__ROOMS": '[{"id": "a"}]'}])
def test_check_names_the_environment_as_the_configuration(
    others: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"BRIDGE__SOURCES__MAIN__API_KEY": "k", **others}.items():
        monkeypatch.setenv(name, value)

    assert run(["check"]) == 0
    count = len(others)
    assert capsys.readouterr().err.startswith(f"the environment alone: ok (1 source, {count} room")


def test_a_service_without_configuration_does_not_start_on_a_database_with_configured_rooms(
    cli: Cli, elsewhere: Path, endpoint: Table
) -> None:
    cli.configure(rooms=["abc-defg-hij"], endpoints=[endpoint])
    cli.take_up()
    before = everything(cli.database_url)

    with Bridge("run", directory=elsewhere, env={"BRIDGE__DATABASE__URL": cli.database_url}) as program:
        assert program.wait() == 1
        assert program.output == (
            f"bridge: {REJECTED}: name it with --config or BRIDGE_CONFIG; "
            "to remove them, start once with a file that names none\n"
        )
    assert everything(cli.database_url) == before


def test_a_service_removes_what_its_file_no_longer_names_and_rejects_a_missing_file(cli: Cli, endpoint: Table) -> None:
    cli.configure(rooms=["abc-defg-hij"], endpoints=[endpoint])
    cli.take_up()
    cli.configure()

    with Bridge("run", directory=cli.directory, env={"BRIDGE__LOG__LEVEL": "info"}) as program:
        program.wait_for_output(READY)
        assert cli("endpoints", "list", "--json").json() == []
        cli.config.unlink()
        program.send(signal.SIGHUP)
        logged = json.loads(program.wait_for_output("configuration.re"))
        assert program.stop() == 0

    assert (logged["event"], "does not exist" in logged["detail"]) == ("configuration.rejected", True)

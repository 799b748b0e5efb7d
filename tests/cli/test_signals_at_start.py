"""Signals that come while the program is being loaded: only `run` takes them as the service would."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.__main__ import _command
from tests.harness.process import environment

WENT_ON = 7
LOADING = f"""
import os, signal, sys

number = int(sys.argv.pop(1))
signal.signal(number, signal.SIG_DFL)  # whatever whoever runs the tests has made of it, as nohup does

class Looking:
    def find_spec(self, name, path, target=None):
        if name == "bridge.cli":
            signal.raise_signal(number)
            os._exit({WENT_ON})

sys.meta_path.insert(0, Looking())
from bridge.__main__ import main
main()
"""
"""The program, which gets a signal as soon as it begins to load its commands, and ends if it has survived it."""
TAIL = ("events", "tail", "--room", "run")


def exit_code(number: signal.Signals, *arguments: str, directory: Path) -> int:
    return subprocess.run(
        [sys.executable, "-c", LOADING, str(int(number)), *arguments],
        cwd=directory,
        env=environment(),
        capture_output=True,
        check=False,
    ).returncode


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["run"], "run"),
        (["run", "--role", "web"], "run"),
        (["--config", "run", "check"], "check"),
        (["-c", "run", "check"], "check"),
        (["--config=x.toml", "run"], "run"),
        (["-c", "x.toml", "run"], "run"),
        ([*TAIL], "events"),
        (["poll", "run"], "poll"),
        (["--version"], None),
        (["--config"], None),
        ([], None),
    ],
)
def test_the_command_is_the_first_word_that_is_no_option_and_no_value_of_one(
    arguments: list[str], command: str | None
) -> None:
    assert _command(arguments) == command


def test_run_does_not_take_a_reload_for_a_hang_up(tmp_path: Path) -> None:
    assert exit_code(signal.SIGHUP, "run", directory=tmp_path) == WENT_ON


def test_run_is_stopped_in_order_as_long_as_nothing_has_begun(tmp_path: Path) -> None:
    assert exit_code(signal.SIGTERM, "run", directory=tmp_path) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_room_that_is_called_run_changes_nothing_for_other_commands(tmp_path: Path, number: signal.Signals) -> None:
    assert exit_code(number, *TAIL, directory=tmp_path) == -number

"""Signals while the program is being loaded: only `run` handles them as the service does."""

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
signal.signal(number, signal.SIG_DFL)  # the caller may have changed it, as nohup does

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "bridge.cli":
            signal.raise_signal(number)
            os._exit({WENT_ON})

sys.meta_path.insert(0, Finder())
from bridge.__main__ import main
main()
"""
"""The program gets a signal when it begins to load its commands, and exits if it has survived it."""
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
        (["--config=x.toml", "run"], "run"),
        ([*TAIL], "events"),
        (["poll", "run"], "poll"),
        (["--version"], None),
        ([], None),
    ],
)
def test_the_command_is_the_first_word_that_is_not_an_option_or_its_value(
    arguments: list[str], command: str | None
) -> None:
    assert _command(arguments) == command


def test_run_survives_a_signal_to_reload(tmp_path: Path) -> None:
    assert exit_code(signal.SIGHUP, "run", directory=tmp_path) == WENT_ON


def test_run_exits_with_0_before_anything_has_begun(tmp_path: Path) -> None:
    assert exit_code(signal.SIGTERM, "run", directory=tmp_path) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_room_named_run_changes_nothing_for_other_commands(tmp_path: Path, number: signal.Signals) -> None:
    assert exit_code(number, *TAIL, directory=tmp_path) == -number

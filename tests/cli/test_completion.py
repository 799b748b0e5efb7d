"""Completion as bash does it, with the script that the program prints."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.cli.main import COMMANDS
from tests.cli.test_imports import DATABASE, NEVER, PROGRAM
from tests.harness.process import environment

BESIDE_PYTHON = str(Path(sys.executable).parent)
SCRIPT = """
eval "$(bridge --show-completion)"
COMP_WORDS=({words}) COMP_CWORD={last}
_bridge_completion bridge
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("",), list(COMMANDS)),
        (("de",), ["demo", "deliveries"]),
        (("deliveries", "s"), ["show", "skip"]),
        (("deliveries", "list", "--de"), ["--dead"]),
    ],
)
def test_bash_completes(words: tuple[str, ...], expected: list[str]) -> None:
    script = SCRIPT.format(words=shlex.join(("bridge", *words)), last=len(words))
    env = environment({"PATH": os.pathsep.join((BESIDE_PYTHON, os.environ["PATH"]))})
    done = subprocess.run(["bash", "-euc", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == expected


def test_the_names_of_commands_are_completed_without_importing_them() -> None:
    env = environment({"_BRIDGE_COMPLETE": "complete_bash", "COMP_WORDS": "bridge ", "COMP_CWORD": "1"})
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)

    modules = {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}
    assert "typer" in modules
    assert not modules & (NEVER | DATABASE)

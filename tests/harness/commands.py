"""A command beside the running program, without the second that it takes to start another Python."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from bridge.cli.main import run


def command(config: Path, *arguments: str) -> str:
    """Carry out a command in this process and return its stdout; fails on any exit code but 0."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([*arguments, "--config", str(config)])
    assert code == 0, f"bridge {' '.join(arguments)}: exit {code}\n{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue()

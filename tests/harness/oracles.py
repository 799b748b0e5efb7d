"""Other implementations, from npm, that ours are compared with: the scripts in tests/oracles.

Without Node or the packages the tests that need them are skipped; where the environment variable CI is set they fail
instead, so that a gate cannot pass by not looking.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ORACLES = Path(__file__).resolve().parent.parent / "oracles"
PATIENCE = 60.0
HOW_TO = "install Node 20 or newer and run `npm ci` in tests/oracles"


def require_oracles() -> None:
    """Skip the calling test if the oracles are not installed; fail it where CI is set."""
    missing = find_missing(ORACLES)
    if missing is None:
        return
    reason = f"{missing}: {HOW_TO}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def find_missing(oracles: Path) -> str | None:
    """Return what is not installed, or None."""
    if shutil.which("node") is None:
        return "there is no node on this machine"
    wanted: dict[str, str] = json.loads((oracles / "package.json").read_text(encoding="utf-8"))["dependencies"]
    for name, version in wanted.items():
        package = oracles / "node_modules" / name / "package.json"
        if not package.exists():
            return f"the npm package {name} is not installed"
        installed = json.loads(package.read_text(encoding="utf-8"))["version"]
        if installed != version:
            return f"the npm package {name} is installed as {installed}, not as {version}"
    return None


def node(
    script: str,
    *args: str,
    input: str | bytes = b"",  # noqa: A002 - as subprocess calls it
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a script of tests/oracles and return its output; it must succeed, so outcomes are printed, not exit codes.

    It blocks: a test that serves the script from its own event loop calls `await asyncio.to_thread(node, …)`.

    Raises:
        AssertionError: the script failed; the message has its errors.
    """
    require_oracles()
    done = subprocess.run(
        ["node", str(ORACLES / script), *args],
        input=input.encode() if isinstance(input, str) else input,
        env={**os.environ, **(env or {})},
        cwd=ORACLES,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    if done.returncode != 0:
        raise AssertionError(f"{script} exited with {done.returncode}:\n{done.stderr.decode(errors='replace')}")
    return done.stdout.decode()

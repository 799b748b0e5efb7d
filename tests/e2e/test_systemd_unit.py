"""deploy/bridge.service: systemd finds no fault in it, and what it starts is a bridge."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.config import load
from tests.harness.process import ROOT, Process, bridge_command, environment

UNIT = ROOT / "deploy/bridge.service"
BESIDE_PYTHON = Path(sys.executable).parent
ANALYZE = shutil.which("systemd-analyze")
SAFE = 20
"""The highest exposure that is accepted, in tenths."""

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def settings(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ANALYZE), *arguments], capture_output=True, text=True, check=False)


@needs_systemd
def test_its_exposure_is_low() -> None:
    done = analyze("security", "--offline=true", f"--threshold={SAFE}", str(UNIT))
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level for bridge.service" in done.stdout


@needs_systemd
def test_it_has_no_mistakes(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/presence-bridge/bin", str(BESIDE_PYTHON)))
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(copy))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_its_commands_run_with_the_configuration_that_init_writes(tmp_path: Path) -> None:
    subprocess.run(bridge_command("init"), cwd=tmp_path, env=environment(), check=True, capture_output=True)
    (tmp_path / "huddle01-api-key").write_text("a-key\n")
    env = dict(assignment.split("=", 1) for assignment in settings("Environment"))
    assert env["BRIDGE_CONFIG"] == "/etc/presence-bridge/bridge.toml"
    env |= {
        "BRIDGE_CONFIG": str(tmp_path / "bridge.toml"),
        "BRIDGE__SOURCES__MAIN__API_KEY_FILE": env["BRIDGE__SOURCES__MAIN__API_KEY_FILE"].replace("%d", str(tmp_path)),
        "BRIDGE__SOURCES__MAIN__BASE_URL": "http://127.0.0.1:9",
        "BRIDGE__WEB__LISTEN": "127.0.0.1:0",
        "PATH": os.pathsep.join((str(BESIDE_PYTHON), os.environ["PATH"])),
    }
    assert load(tmp_path / "bridge.toml", env).sources[0].api_key == "a-key"

    migrate, run = (Path(command).name.split() for key in ("ExecStartPre", "ExecStart") for command in settings(key))
    with Process(migrate, tmp_path, env=env) as first:
        assert first.wait() == 0
    with Process(run, tmp_path, env=env) as program:
        program.wait_for_output("bridge.started")
        assert program.stop() == 0

"""The files for Prometheus and Grafana, and `promtool`, which checks them.

`promtool` comes with Prometheus: without it the tests that need it are skipped; where CI is set they fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus/bridge.rules.yml"
RULE_TESTS = DEPLOY / "prometheus/bridge.rules.test.yml"
DASHBOARD = DEPLOY / "grafana/presence-bridge.json"
HOW_TO = "install Prometheus (Debian's package `prometheus`)"
PATIENCE = 60.0


def promtool(*arguments: str, input: str = "") -> str:  # noqa: A002 - as subprocess calls it
    """Run promtool, which must find nothing to complain about, and return its output."""
    program = shutil.which("promtool")
    if program is None:
        reason = f"there is no promtool on this machine: {HOW_TO}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    done = subprocess.run(
        [program, *arguments], input=input, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"promtool {' '.join(arguments)}: exit {done.returncode}\n{output}"
    return output


def dashboard_expressions() -> Iterator[str]:
    """Every expression of the dashboard, with Grafana's variable filled in."""
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    for panel in panels:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "5m")


def used_metrics() -> set[str]:
    """The names of the series that alerts and dashboard use."""
    expressions = re.findall(r"expr: (.*?)\n {8}\S", RULES.read_text(encoding="utf-8"), re.DOTALL)
    return {
        name for text in (*expressions, *dashboard_expressions()) for name in re.findall(r"\bbridge_[a-z_]+\b", text)
    }

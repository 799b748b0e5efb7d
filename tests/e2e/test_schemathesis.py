"""Schemathesis reads the OpenAPI description and calls every route, single and in sequences, with what it makes up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.config import Configure
from tests.harness.process import BridgeProcess
from tests.harness.simulator import Simulator

TOKEN = "a-token-for-schemathesis-0123456789"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_nothing_ends_in_an_error_or_in_what_is_not_described(
    configure: Configure, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.join("room", "ann")
    web = {
        "listen": "127.0.0.1:0",
        "requests_per_second": 0,
        "tokens": [{"name": "ops", "token": TOKEN, "scopes": ["admin"]}],
    }
    with BridgeProcess(configure(rooms=["room"], web=web)) as program:
        program.wait_ready()
        url = next(program.lines("web.listening"))["url"]
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "run", f"{url}api/v1/openapi.json"),
                *("--header", f"Authorization: Bearer {TOKEN}", "--checks", CHECKS, "--max-examples", "12"),
                *("--exclude-path", "/api/v1/events/stream", "--warnings", "off", "--no-color", "--no-shrink"),
                *("--generation-database", "none", "--request-timeout", "60"),
            ],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert program.stop() == 0
    assert "Traceback" not in program.output

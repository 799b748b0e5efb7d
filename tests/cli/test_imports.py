"""Modules that a command must not import: what it imports is most of the time that it takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.conftest import Cli
from tests.harness.process import environment

HTTP = {"httpx", "httpx_aiohttp", "aiohttp", "fastapi", "starlette", "uvicorn", "jinja2"}
TOOLS = {"alembic", "mako", "apscheduler", "prometheus_client", "structlog"}
NEVER = HTTP | TOOLS | {"rich", "pygments", "cryptography", "psycopg"}
DATABASE = {"sqlalchemy", "sqlite3"}
OF_POSTGRESQL = "sqlalchemy.dialects.postgresql"
BRIDGE = {"bridge.simulator", "bridge.service", "bridge.delivery.sender", "bridge.polling.poller", "bridge.web"}

PROGRAM = """
import sys
from bridge.cli.main import run
code = run(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


def imported_by(cli: Cli, command: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command.split()],
        env=environment(), cwd=cli.directory, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("command", "forbidden"),
    [
        ("--help", NEVER | DATABASE | {"pydantic"}),
        ("check", NEVER | DATABASE),
        ("rooms list", NEVER),
        ("rooms list --json", NEVER),
        ("endpoints list", NEVER),
        ("events list", NEVER),
        ("deliveries list", NEVER),
        ("deliveries list --dead", NEVER),
        ("attendance export", NEVER),
        ("audit verify", NEVER),
        ("privacy export --person ann", NEVER),
    ],
)
def test_a_command_imports_only_what_it_needs(cli: Cli, command: str, forbidden: set[str]) -> None:
    cli.take_up()
    modules = imported_by(cli, command)

    assert {name for name in modules if name.partition(".")[0] in forbidden} == set()
    assert not modules & {OF_POSTGRESQL, *BRIDGE}

"""The command line for tests: a directory with a configuration, an upstream and a receiver on loopback."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import structlog

from bridge.admin.configured import apply_configuration
from bridge.cli.main import run
from bridge.compose import endpoint_context, open_webhook_client
from bridge.config import Settings, load
from bridge.db.encryption import SecretCipher
from bridge.db.engine import Database
from bridge.db.schema import ensure_schema
from bridge.delivery.sender import Sender
from bridge.runtime import system_runtime
from tests.harness.claimant import Claimant
from tests.harness.config import Table, write_config
from tests.harness.receiver import Receiver
from tests.harness.simulator import Simulator
from tests.harness.store_driver import copied_sqlite

Json = Any
ROOM = "abc-defg-hij"


@dataclass(frozen=True)
class Done:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    def json(self) -> Json:
        return json.loads(self.out)


class Cli:
    """Runs commands in this process, with a configuration of its own."""

    def __init__(
        self,
        directory: Path,
        upstream: str,
        capsys: pytest.CaptureFixture[str],
        *,
        database_url: str | None = None,
        template: Path | None = None,
    ) -> None:
        self.directory = directory
        self.config = directory / "bridge.toml"
        self.database_file = directory / "bridge.db"
        self.database_url = database_url or f"sqlite:///{self.database_file}"
        self._template = template
        self._upstream = upstream
        self._capsys = capsys
        self.configure()

    def configure(self, *, upstream: str | None = None, **how: Any) -> None:  # noqa: ANN401 - write_config's own
        """Write the configuration again; `how` is for `write_config`."""
        write_config(self.config, database_url=self.database_url, upstream=upstream or self._upstream, **how)

    def __call__(self, *arguments: str, code: int = 0) -> Done:
        """Run a command; the exit code must be as expected, and there must be no traceback."""
        self._capsys.readouterr()
        actual = run([*arguments, "--config", str(self.config)])
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        assert actual == code, f"bridge {' '.join(arguments)}: exit {actual}\n{out}\n{err}"
        return Done(actual, out, err)

    def refuses(self, *arguments: str, code: int) -> str:
        """Run a command that must fail with a message on stderr alone; return the message."""
        done = self(*arguments, code=code)
        assert done.out == ""
        assert done.err != ""
        return done.err

    @property
    def settings(self) -> Settings:
        return load(self.config, os.environ)

    def database(self) -> Database:
        return Database(self.database_url)

    def take_up(self) -> None:
        """Load the configuration into the database, as the service does at start and reload."""
        if self._template is not None and not self.database_file.exists():
            copied_sqlite(self._template, self.directory)
        settings, database = self.settings, self.database()
        ensure_schema(database)
        database.write_now(
            apply_configuration,
            sources=[account.name for account in settings.sources],
            rooms=settings.rooms,
            endpoints=settings.endpoints,
            context=endpoint_context(settings, system_runtime()),
        )
        database.close()

    def deliver(self) -> None:
        """Deliver what is due, as the sender does at one tick."""
        asyncio.run(self._deliver())

    async def _deliver(self) -> None:
        settings, runtime, database = self.settings, system_runtime(), self.database()
        cipher = SecretCipher(settings.encryption_keys)
        async with open_webhook_client(settings, runtime) as client:
            await Sender(database, client, settings.delivery.policy, runtime, Claimant(), cipher=cipher).tick()
        database.close()

    def events(self, *filters: str) -> Sequence[dict[str, Json]]:
        """Return the log, newest first."""
        found: list[dict[str, Json]] = self("events", "list", "--json", "--limit", "1000", *filters).json()
        return found


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with patch.dict(os.environ):  # `bridge --config` sets BRIDGE_CONFIG
        for name in list(os.environ):
            if name.startswith(("BRIDGE", "HUDDLE01", "FORCE_COLOR")):
                monkeypatch.delenv(name)
        yield
        structlog.reset_defaults()  # commands log warnings only; other tests look for more


@pytest.fixture
def cli(tmp_path: Path, simulator: Simulator, capsys: pytest.CaptureFixture[str], sqlite_template: Path) -> Cli:
    """One source, no room, no endpoint, no database yet."""
    return Cli(tmp_path, simulator.url, capsys, template=sqlite_template)


@pytest.fixture
def tracked(cli: Cli) -> Cli:
    """One room, which was added with a command."""
    cli("rooms", "add", ROOM)
    return cli


@pytest.fixture
def endpoint(receiver: Receiver) -> Table:
    """A table for `[[endpoints]]`."""
    return receiver.endpoint("crm")


@pytest.fixture
def busy(cli: Cli, simulator: Simulator, receiver: Receiver) -> Cli:
    """A bridge after some time: a room has been live, an endpoint has had deliveries."""
    cli.configure(rooms=[{"id": ROOM, "name": "Weekly stand-up"}], endpoints=[receiver.endpoint("crm")])
    cli.take_up()
    simulator.join(ROOM, "peerId-4cRF64LOB6dWF_d0qEzQs", metadata={"displayName": "akmo3.eth"})
    cli("poll", ROOM)
    cli.deliver()
    return cli

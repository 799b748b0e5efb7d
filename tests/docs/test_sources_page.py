"""docs/sources.md: its configurations load, and its third kind works."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bridge.config import load
from bridge.rules.presence import Failure, FailureKind, Snapshot
from bridge.sources import kinds
from bridge.sources.kinds import KINDS, Kind, open_source
from bridge.sources.protocol import SourceSettings
from tests.docs import pages
from tests.harness.wire import Wire, listening

SOURCES = pages.ROOT / "docs/sources.md"
SECRETS = {"HUDDLE01_API_KEY": "k", "LIVEKIT_API_KEY": "k", "LIVEKIT_API_SECRET": "s"}


def test_the_configurations_load_together(tmp_path: Path) -> None:
    path = tmp_path / "bridge.toml"
    path.write_text(pages.block(SOURCES, "huddle01") + pages.block(SOURCES, "livekit"))
    main, meet = load(path, SECRETS).sources
    assert (main.requests_per_second, meet.requests_per_second) == (20, 10)
    assert (meet.base_url, meet.ignore_kinds) == ("https://example.livekit.cloud", ("egress", "agent"))


def test_the_configuration_of_discovery_loads(tmp_path: Path) -> None:
    path = tmp_path / "bridge.toml"
    path.write_text(pages.block(SOURCES, "discovery"))
    settings = load(path, SECRETS)
    assert settings.polling.discovering == {"meet"}
    assert settings.sources[0].discover_rooms == ("class-*",)


def test_the_table_has_every_kind_and_its_defaults() -> None:
    (row,) = (row for row in pages.table(SOURCES, "The kinds") if "requests_per_second" in row[""])
    columns = {name.strip("`"): cell for name, cell in row.items() if name}
    assert {name: float(cell) for name, cell in columns.items()} == {
        name: kind.requests_per_second for name, kind in KINDS.items()
    }


@pytest.fixture
def roster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of the example under the names that it gives them, and its line in the table of kinds."""
    monkeypatch.setitem(sys.modules, "bridge.sources.roster", package := ModuleType("bridge.sources.roster"))
    package.__path__ = []
    for name in ("responses", "client"):
        module = ModuleType(f"bridge.sources.roster.{name}")
        exec(compile(pages.block(SOURCES, f"roster/{name}.py"), name, "exec"), module.__dict__)  # noqa: S102 - our own page
        monkeypatch.setitem(sys.modules, module.__name__, module)
        setattr(package, name, module)
    monkeypatch.setattr("bridge.sources.roster", package, raising=False)
    entry: dict[str, Kind] = eval("{" + pages.block(SOURCES, "roster in KINDS") + "}", {"Kind": Kind})  # noqa: S307 - as above
    monkeypatch.setattr(kinds, "KINDS", {**KINDS, **entry})


@pytest.mark.usefixtures("roster")
async def test_the_third_kind_works() -> None:
    responses = [
        b'{"people": [{"id": "ann", "since": 1795424400}, {"id": "bob"}]}',
        b'{"people": [{"id": "ann"}, {}]}',
        b'{"people": []}',
        b'{"error": "x"}',
    ]

    async def respond(wire: Wire) -> None:
        body = responses[min(wire.number, len(responses)) - 1]
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    async with listening(respond) as served:
        url = f"http://{served.host}"
        account = SourceSettings(name="main", kind="roster", base_url=url, api_key="s3cr3t")
        source = open_source(account, lambda: datetime(2026, 11, 23, 9, 30, tzinfo=UTC))
        found: list[Any] = [await source.fetch("a/b") for _ in responses]
        checkup = await source.check_up()
        await source.aclose()

    assert [isinstance(one, Snapshot) and (len(one.peers), one.complete) for one in found] == [
        (2, True),
        (1, False),
        (0, True),
        False,
    ]
    assert isinstance(found[3], Failure)
    assert found[3].kind is FailureKind.BAD_RESPONSE
    assert checkup.failure is not None
    assert {request.line for request in served.requests[:4]} == {"GET /rooms/a%2Fb HTTP/1.1"}

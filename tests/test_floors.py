"""The house stands: `make test` alone notices when a floor is broken through."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "bridge").rglob("*.py"))
CLOCKS = {"now", "utcnow", "today", "time", "monotonic", "perf_counter"}


def name_of(module: Path) -> str:
    return ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(module: Path) -> set[str]:
    """The top-level packages that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.partition(".")[0])
    return found


def clock_readings(module: Path) -> Iterator[str]:
    """Calls like `datetime.now(…)` and `time.time()`; `world.now()` is an argument and no clock."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS:
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id in {"datetime", "date", "time"}:
                yield f"{name_of(module)}:{node.lineno} {owner.id}.{node.func.attr}"


def test_the_contracts_of_the_house_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)

    broken = lint_imports(cache_dir=None)

    assert broken == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("sqlalchemy", ("bridge.store",)),
        ("alembic", ("bridge.store",)),
        ("psycopg", ("bridge.store",)),
        ("sqlite3", ("bridge.store",)),
        ("apscheduler", ("bridge.service",)),
        ("httpx", ("bridge.sources", "bridge.webhooks", "bridge.service", "bridge.simulator", "bridge.cli")),
        ("aiohttp", ("bridge.http_answers", "bridge.sources", "bridge.webhooks", "bridge.simulator")),
        ("pydantic", ("bridge.config", "bridge.api", "bridge.simulator")),
        ("typer", ("bridge.cli",)),
        ("fastapi", ("bridge.api",)),
    ],
)
def test_a_library_is_used_in_its_own_room(package: str, allowed: tuple[str, ...]) -> None:
    users = {name_of(module) for module in MODULES if package in imports(module)}

    assert {user for user in users if not user.startswith(allowed)} == set()


def test_only_the_edges_read_the_clock() -> None:
    edges = ("bridge.service", "bridge.cli", "bridge.simulator")
    found = [reading for module in MODULES for reading in clock_readings(module)]

    assert [reading for reading in found if not reading.startswith(edges)] == []


@pytest.mark.parametrize("module", ["bridge.presence", "bridge.pacing", "bridge.events", "bridge.webhooks.delivery"])
def test_the_pure_floors_import_neither_clocks_nor_chance_nor_wires(module: str) -> None:
    impure = {"asyncio", "socket", "ssl", "random", "secrets", "time", "os", "pathlib", "threading", "structlog"}
    found = {name_of(path): imports(path) & impure for path in MODULES if name_of(path).startswith(module)}

    assert found
    assert {name: some for name, some in found.items() if some} == {}

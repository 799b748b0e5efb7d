"""docs/operations.md explains every log line that the service writes, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from bridge.db.engine import POSTGRESQL_WRITERS, READERS
from bridge.rules.presence import FailureKind
from bridge.web.app import LATE
from tests.docs import pages

LEVELS = {"debug", "info", "warning", "error", "exception"}
NAME = re.compile(r"[a-z]+\.[a-z_]+")


def logged() -> Iterator[tuple[str, str]]:
    """Every event that the service logs, with its level; of `speak(…)`, which chooses one, without."""
    for file in (pages.ROOT / "bridge").rglob("*.py"):
        if file.is_relative_to(pages.ROOT / "bridge/simulator"):
            continue
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match call:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[ast.Constant(value=str(event)), *_]
                ) if level in LEVELS:
                    yield event, level.replace("exception", "error")
                case ast.Call(func=ast.Name(id="speak"), args=[ast.Constant(value=str(event)), *_]):
                    yield event, ""
                case _:
                    pass


def test_every_log_line_is_explained_with_its_levels() -> None:
    documented = {pages.codes(row["event"])[0]: row["level"] for row in pages.table(pages.OPERATIONS, "Log lines")}
    found = set(logged())

    assert all(NAME.fullmatch(event) for event, _ in found)
    assert documented.keys() == {event for event, _ in found}
    for event, level in found:
        assert level in documented[event], event


def test_every_failure_of_a_poll_is_named() -> None:
    text = pages.section(pages.OPERATIONS, "Log lines")

    assert all(f"`{kind}`" in text for kind in FailureKind)


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    connections = POSTGRESQL_WRITERS + READERS + 2

    assert f"up to {connections} connections" in pages.section(pages.OPERATIONS, "SQLite or PostgreSQL")
    assert LATE.total_seconds() == 60

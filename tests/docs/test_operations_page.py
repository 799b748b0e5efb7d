"""The tables of docs/operations.md are those of the code: log events with their levels, outcomes of polls, checks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from bridge.cli.doctor.findings import Check
from bridge.rules.presence import FailureKind
from tests.docs import pages

LEVELS = {"debug", "info", "warning", "error", "exception"}
NAME = re.compile(r"[a-z]+\.[a-z_]+")


def logged() -> Iterator[tuple[str, str]]:
    """Every event that the service logs, with its level; without one if it is chosen at run time (`write = log.…`)."""
    for file in (pages.ROOT / "bridge").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match call:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[ast.Constant(value=str(event)), *_]
                ) if level in LEVELS:
                    yield event, level.replace("exception", "error")
                case ast.Call(func=ast.Name(id="write"), args=[ast.Constant(value=str(event)), *_]):
                    yield event, ""
                case _:
                    pass


def test_every_log_event_is_explained_with_its_levels() -> None:
    documented = {pages.codes(row["event"])[0]: row["level"] for row in pages.table(pages.OPERATIONS, "Log events")}
    found = set(logged())

    assert all(NAME.fullmatch(event) for event, _ in found)
    assert documented.keys() == {event for event, _ in found}
    for event, level in found:
        assert level in documented[event], event


def test_every_failure_of_a_poll_is_explained() -> None:
    rows = pages.table(pages.OPERATIONS, "Log events", "outcome")

    assert [pages.codes(row["outcome"])[0] for row in rows] == [kind.value for kind in FailureKind]


def test_every_check_of_doctor_is_explained() -> None:
    rows = pages.table(pages.OPERATIONS, "Checking")

    assert [row["check"] for row in rows] == [check.replace("_", " ") for check in Check]

"""CONTRIBUTING.md and docs/architecture.md name only existing files, names in them, floors and dependencies."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.docs import pages

FILE = re.compile(r"(?:bridge|tests|migrations|docs)/[\w/.-]+\.(?:py|md)")
EXAMPLE = "bridge/sources/roster/"
"""The folder of the worked example, which does not exist."""


def project() -> dict[str, Any]:
    return tomllib.loads((pages.ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [pages.CONTRIBUTING, pages.ARCHITECTURE], ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    named = {code for code in pages.codes(pages.prose(page)) if FILE.fullmatch(code) and not code.startswith(EXAMPLE)}

    assert {name for name in named if not (pages.ROOT / name).is_file()} == set()


def test_what_to_look_for_is_in_the_file_to_open() -> None:
    for row in pages.table(pages.CONTRIBUTING, "Where a change belongs"):
        files = [pages.ROOT / "bridge" / code for code in pages.codes(row["open"]) if code.endswith(".py")]
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        missing = [name for name in pages.codes(row["look for"]) if not re.search(rf"\b{name}\b", text)]
        assert not missing, row["to change"]


def test_the_floors_are_those_that_import_linter_checks() -> None:
    (layers,) = (
        contract["layers"]
        for contract in project()["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    rows = pages.table(pages.ARCHITECTURE, "Folders and floors")

    assert [set(pages.codes(row["modules"])) for row in rows] == [
        {name.strip().removeprefix("bridge.") for name in layer.split("|")} for layer in layers
    ]


def test_the_reason_for_each_dependency_is_given() -> None:
    dependencies = {re.split(r"[\[<>=]", line)[0] for line in project()["project"]["dependencies"]}
    rows = pages.table(pages.ARCHITECTURE, "Chosen parts")

    assert {name for row in rows for name in pages.codes(row["part"])} == dependencies

"""docs/architecture.md names files that exist, every dependency, and the floors as import-linter keeps them."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from bridge import poller, sender
from bridge.sources.huddle01 import ANSWER_LIMIT
from bridge.store import allowance, deliveries, group_commit, source_health
from bridge.webhooks.client import ClientLimits
from tests.docs import pages

REQUIREMENT = re.compile(r"[A-Za-z0-9-]+")
FILE = re.compile(r"`(bridge/[\w/]+\.py)`")


def project() -> dict[str, Any]:
    return tomllib.loads((pages.ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_file_that_is_named_exists() -> None:
    named = {file for page in pages.PAGES for file in FILE.findall(pages.read(page))}

    assert named
    assert {file for file in named if not (pages.ROOT / file).is_file()} == set()


def test_every_dependency_is_explained_and_no_other() -> None:
    declared = [REQUIREMENT.match(requirement) for requirement in project()["project"]["dependencies"]]
    explained = [pages.codes(row["part"])[0] for row in pages.table(pages.ARCHITECTURE, "Chosen parts")]

    assert sorted(explained) == sorted(found[0] for found in declared if found)


def test_the_floors_are_those_that_are_kept() -> None:
    contracts = project()["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    kept = [[module.removeprefix("bridge.") for module in layer.split(" | ")] for layer in layers]
    rows = pages.table(pages.ARCHITECTURE, "The house")

    assert [pages.codes(row["modules"]) for row in rows] == kept
    assert [int(row["floor"]) for row in rows] == list(reversed(range(len(kept))))


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    limits = pages.section(pages.ARCHITECTURE, "Limits, and where they hold")
    claims = pages.section(pages.ARCHITECTURE, "Claims, leases, fencing")

    assert f"{sender.SEATS} lines and {sender.REPLAY_SEATS} replays" in limits
    assert f"{ANSWER_LIMIT // 2**20} MiB" in limits
    assert f"{ClientLimits().answer_bytes // 2**10} KiB" in limits
    assert source_health.BURST.total_seconds() == allowance.RATE_BURST.total_seconds() == 0.25
    assert f"two time-outs and {poller.LEASE_MARGIN.seconds} seconds" in claims
    assert f"one time-out and {deliveries.LEASE_MARGIN.seconds} seconds" in claims
    assert f"up to {group_commit.LARGEST}" in pages.section(pages.ARCHITECTURE, "Group commit")

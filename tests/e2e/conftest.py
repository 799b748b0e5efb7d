"""Fixtures of the scenarios, beside a simulated upstream and a receiver: a database, and a seed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.harness.config import Configure, write_config
from tests.harness.simulator import Simulator


@pytest.fixture
def seed(record_property: Callable[[str, object], None]) -> int:
    """A seed that differs every time: `BRIDGE_TEST_SEED=… make test` repeats a scenario that has failed."""
    chosen = int(os.environ.get("BRIDGE_TEST_SEED") or secrets.randbelow(2**31))
    record_property("seed", chosen)
    print(f"seed {chosen}")  # noqa: T201 - pytest shows it when the test fails
    return chosen


@pytest.fixture
def configure(tmp_path: Path, migrated_url: str, simulator: Simulator) -> Configure:
    """Write a `bridge.toml` for this test's database and upstream."""
    return partial(write_config, tmp_path / "bridge.toml", database_url=migrated_url, upstream=simulator.url)

"""The Zapier integration of `deploy/zapier`, run by Zapier's own app tester from npm, as Zapier would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.harness import oracles

INTEGRATION = Path(__file__).resolve().parents[2] / "deploy/zapier"
Bundle = Mapping[str, Any]


class Zapier:
    """A connection to a bridge; the integration is run from a copy in `directory`, beside the packages."""

    def __init__(self, directory: Path, base_url: str, token: str) -> None:
        oracles.require_oracles()
        self._copy = directory / "zapier"
        shutil.copytree(INTEGRATION, self._copy, ignore=shutil.ignore_patterns("node_modules"))
        (self._copy / "node_modules").symlink_to(oracles.ORACLES / "node_modules")
        self._connection = {"base_url": base_url, "token": token}

    def call(self, *calls: tuple[str, Bundle]) -> list[Any]:
        """Run functions of the integration, each with a bundle; returns their values.

        Raises:
            ZapError: one has failed.
        """
        bundles = [(path, {"authData": self._connection, "inputData": {}, **bundle}) for path, bundle in calls]
        output = oracles.node("zapier.cjs", str(self._copy), input=json.dumps(bundles), env={"NODE_ENV": "test"})
        outcomes: list[dict[str, Any]] = json.loads(output)
        if errors := [outcome["error"] for outcome in outcomes if "error" in outcome]:
            raise ZapError("\n".join(errors))
        return [outcome["value"] for outcome in outcomes]


class ZapError(Exception):
    """The message that a user of Zapier reads."""

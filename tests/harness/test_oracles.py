"""Without the oracles tests are skipped, and fail where CI is set; the reason names what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness import oracles


@pytest.fixture
def outdated(tmp_path: Path) -> Path:
    """A directory of oracles with another version of a package than its `package.json` wants."""
    (tmp_path / "package.json").write_text(json.dumps({"dependencies": {"name": "1.2.3"}}), encoding="utf-8")
    package = tmp_path / "node_modules/name"
    package.mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": "1.2.4"}), encoding="utf-8")
    return tmp_path


def test_without_oracles_a_test_is_skipped_and_a_gate_fails(monkeypatch: pytest.MonkeyPatch, outdated: Path) -> None:
    monkeypatch.setattr(oracles, "ORACLES", outdated)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"as 1\.2\.4, not as 1\.2\.3: .*npm ci"):
        oracles.require_oracles()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"as 1\.2\.4, not as 1\.2\.3: .*npm ci"):
        oracles.require_oracles()


def test_the_lock_has_the_exact_packages_and_no_registry() -> None:
    package = json.loads((oracles.ORACLES / "package.json").read_text(encoding="utf-8"))
    lock_text = (oracles.ORACLES / "package-lock.json").read_text(encoding="utf-8")
    lock = json.loads(lock_text)
    assert "resolved" not in lock_text
    for name, version in package["dependencies"].items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    assert all("integrity" in entry for path, entry in lock["packages"].items() if path)

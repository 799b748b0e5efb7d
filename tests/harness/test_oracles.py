"""Without the oracles tests are skipped, and fail where CI is set; the reason names what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness import oracles


def lay_out(directory: Path, *, wanted: str, installed: str | None) -> Path:
    (directory / "package.json").write_text(json.dumps({"dependencies": {"@scope/name": wanted}}), encoding="utf-8")
    if installed is not None:
        package = directory / "node_modules/@scope/name"
        package.mkdir(parents=True)
        (package / "package.json").write_text(json.dumps({"version": installed}), encoding="utf-8")
    return directory


@pytest.fixture
def path_with_node(tmp_path: Path) -> str:
    node = tmp_path / "bin" / "node"
    node.parent.mkdir()
    node.write_text("#!/bin/sh\n", encoding="utf-8")
    node.chmod(0o755)
    return str(node.parent)


def test_nothing_is_missing_when_node_and_the_exact_packages_are_there(tmp_path: Path, path_with_node: str) -> None:
    folder = lay_out(tmp_path, wanted="1.2.3", installed="1.2.3")
    assert oracles.what_is_missing(folder, path=path_with_node) is None


def test_what_is_missing_is_named(tmp_path: Path, path_with_node: str) -> None:
    assert "no node" in str(oracles.what_is_missing(tmp_path, path=str(tmp_path)))
    folder = lay_out(tmp_path, wanted="1.2.3", installed=None)
    assert "@scope/name is not installed" in str(oracles.what_is_missing(folder, path=path_with_node))
    lay_out(tmp_path, wanted="1.2.3", installed="1.2.4")
    assert "as 1.2.4, not as 1.2.3" in str(oracles.what_is_missing(folder, path=path_with_node))


def test_without_oracles_a_test_is_skipped_and_a_gate_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(oracles, "ORACLES", lay_out(tmp_path, wanted="1.2.3", installed=None))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="npm ci"):
        oracles.require_oracles()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="npm ci"):
        oracles.require_oracles()


def test_the_lock_has_the_exact_packages_and_no_registry() -> None:
    package = json.loads((oracles.ORACLES / "package.json").read_text(encoding="utf-8"))
    lock_text = (oracles.ORACLES / "package-lock.json").read_text(encoding="utf-8")
    lock = json.loads(lock_text)
    assert "resolved" not in lock_text
    for name, version in package["dependencies"].items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    assert all("integrity" in entry for path, entry in lock["packages"].items() if path)

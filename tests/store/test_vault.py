from __future__ import annotations

import pytest

from bridge.errors import BridgeError
from bridge.store.endpoints import secrets_of
from bridge.store.tables import metadata
from bridge.store.vault import Vault
from tests.store.stage import SECRET, Stage, at, seen


def test_what_is_sealed_can_be_opened_and_not_read() -> None:
    vault = Vault(["key"])
    sealed = vault.seal("hunter2")

    assert vault.encrypts
    assert "hunter2" not in sealed
    assert vault.open(sealed) == "hunter2"
    assert vault.seal("hunter2") != sealed


def test_without_a_key_it_stands_in_clear_and_says_so() -> None:
    assert not Vault().encrypts
    assert Vault().seal("x") == "clear:x"


def test_old_keys_and_clear_text_still_open() -> None:
    old = Vault(["old"]).seal("x")

    assert Vault(["new", "old"]).open(old) == "x"
    assert Vault(["new", "old"]).open(Vault().seal("x")) == "x"
    assert Vault(["new"]).open(Vault(["new", "old"]).seal("x")) == "x"


@pytest.mark.parametrize("vault", [Vault(), Vault(["another"])])
def test_a_missing_key_is_named(vault: Vault) -> None:
    with pytest.raises(BridgeError, match="BRIDGE_ENCRYPTION_KEY"):
        vault.open(Vault(["key"]).seal("x"))


@pytest.mark.parametrize("text", ["", "clear:x", "sealed:x", "ü\x00"])
def test_any_text_comes_back(text: str) -> None:
    for vault in (Vault(), Vault(["key"])):
        assert vault.open(vault.seal(text)) == text


def test_no_column_holds_a_secret_in_clear(stage: Stage) -> None:
    stage.vault = Vault(["key"])
    stage.track("a")
    key = stage.subscribe(secret=SECRET, headers={"X-Auth": "hunter2"})
    stage.poll(0, a=seen("p"))
    stage.deliver(1)

    dump = "".join(repr(row) for table in metadata.tables.values() for row in stage.rows(table))
    assert SECRET.removeprefix("whsec_") not in dump
    assert "hunter2" not in dump
    assert stage.database.read_now(secrets_of, [key], at(0), stage.vault) == {key: [SECRET]}

from __future__ import annotations

from datetime import timedelta

import pytest

from bridge.admin.configured import apply_configuration
from bridge.db.encryption import SecretCipher
from bridge.db.tables import metadata
from bridge.delivery.endpoints import EndpointSpec, rotate_secret
from bridge.delivery.targets import load_target
from bridge.errors import BridgeError
from tests.harness.builders import at
from tests.harness.store_driver import SECRET, StoreDriver


def test_an_encrypted_text_can_be_decrypted_and_not_read() -> None:
    cipher = SecretCipher(["key"])
    ciphertext = cipher.encrypt("hunter2")

    assert cipher.has_key
    assert "hunter2" not in ciphertext
    assert cipher.decrypt(ciphertext) == "hunter2"
    assert cipher.encrypt("hunter2") != ciphertext


def test_without_a_key_a_text_is_stored_as_marked_clear_text() -> None:
    assert not SecretCipher().has_key
    assert SecretCipher().encrypt("x") == "clear:x"


def test_old_keys_and_clear_text_can_still_be_decrypted() -> None:
    old = SecretCipher(["old"]).encrypt("x")

    assert SecretCipher(["new", "old"]).decrypt(old) == "x"
    assert SecretCipher(["new", "old"]).decrypt(SecretCipher().encrypt("x")) == "x"
    assert SecretCipher(["new"]).decrypt(SecretCipher(["new", "old"]).encrypt("x")) == "x"


@pytest.mark.parametrize("cipher", [SecretCipher(), SecretCipher(["another"])])
def test_the_error_for_a_missing_key_names_the_variable(cipher: SecretCipher) -> None:
    with pytest.raises(BridgeError, match="BRIDGE_ENCRYPTION_KEY"):
        cipher.decrypt(SecretCipher(["key"]).encrypt("x"))


@pytest.mark.parametrize("text", ["", "clear:x", "encrypted:x", "ü\x00"])
def test_any_text_can_be_encrypted(text: str) -> None:
    for cipher in (SecretCipher(), SecretCipher(["key"])):
        assert cipher.decrypt(cipher.encrypt(text)) == text


def dump(store: StoreDriver) -> str:
    return "".join(repr(row) for table in metadata.tables.values() for row in store.rows(table))


def secrets(store: StoreDriver, *keys: str, name: str = "crm") -> tuple[str, ...]:
    target = store.database.read_now(load_target, name, now=at(0), cipher=SecretCipher(keys))
    return target.secrets


def start(store: StoreDriver, *keys: str, seconds: float = 0) -> None:
    """As a service with these keys starts."""
    store.cipher = SecretCipher(keys)
    store.write(apply_configuration, sources=[], rooms=[], endpoints=[], context=store.context(seconds))


def test_a_start_with_a_first_key_encrypts_stored_clear_text(store: StoreDriver) -> None:
    store.subscribe(secret=SECRET, headers={"X-Auth": "hunter2"})
    assert SECRET in dump(store)
    assert "hunter2" in dump(store)
    start(store, "key")

    assert SECRET not in dump(store)
    assert "hunter2" not in dump(store)
    assert secrets(store, "key") == (SECRET,)


def test_after_a_start_with_a_new_first_key_the_old_one_is_not_needed(store: StoreDriver) -> None:
    start(store, "old")
    store.subscribe(secret=None, headers={"X-Auth": "hunter2"})
    store.write(rotate_secret, "crm", store.context(), timedelta(seconds=5))
    start(store, "new", "old", seconds=10)
    before = dump(store)
    start(store, "new", seconds=20)

    assert dump(store) == before, "nothing is encrypted twice"
    target = store.database.read_now(load_target, "crm", now=at(20), cipher=SecretCipher(["new"]))
    assert (target.secrets, target.headers) == ((SECRET,), {"X-Auth": "hunter2"})


def test_a_start_with_a_wrong_key_changes_nothing(store: StoreDriver) -> None:
    start(store, "right")
    store.subscribe(secret=SECRET)
    before = dump(store)
    start(store, "wrong", seconds=10)
    for refused in (rotate, subscribe_other):
        with pytest.raises(BridgeError, match=r"'crm'.*BRIDGE_ENCRYPTION_KEY"):
            refused(store)

    assert dump(store) == before
    assert secrets(store, "right") == (SECRET,)


@pytest.mark.parametrize(
    ("service", "given"),
    [(["old"], ["new", "old"]), (["right", "old"], ["old", "right"]), ([], ["key"])],
    ids=["a new first key", "another order", "the service has none"],
)
def test_keys_with_another_first_key_than_the_service_are_refused(
    store: StoreDriver, service: list[str], given: list[str]
) -> None:
    """They decrypt everything; but the service may not be able to decrypt what the first of them encrypts."""
    start(store, *service)
    store.subscribe(secret=None)
    before = dump(store)
    store.cipher = SecretCipher(given)
    for refused in (rotate, subscribe_other):
        with pytest.raises(BridgeError, match=r"'crm' is not encrypted with the first of these keys"):
            refused(store)

    assert dump(store) == before
    start(store, *given)
    subscribe_other(store)


def rotate(store: StoreDriver) -> None:
    store.write(rotate_secret, "crm", store.context(10), None)


def subscribe_other(store: StoreDriver) -> None:
    store.subscribe("other")


def test_a_secret_in_the_file_replaces_one_that_cannot_be_decrypted(store: StoreDriver) -> None:
    spec = EndpointSpec(name="crm", url="https://crm.example.com/", secret=SECRET, headers={"X-Auth": "hunter2"})
    generated = EndpointSpec(name="generated", url="https://crm.example.com/")

    for key in ("lost", "new"):
        store.cipher = SecretCipher([key])
        store.write(apply_configuration, sources=[], rooms=[], endpoints=[spec, generated], context=store.context())

    target = store.database.read_now(load_target, "crm", now=at(0), cipher=SecretCipher(["new"]))
    assert (target.secrets, target.headers) == ((SECRET,), {"X-Auth": "hunter2"})
    with pytest.raises(BridgeError):
        secrets(store, "new", name="generated")
    assert secrets(store, "new", "lost", name="generated") == (SECRET,)

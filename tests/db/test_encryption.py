from __future__ import annotations

from datetime import timedelta

import pytest

from bridge.db.encryption import SecretCipher
from bridge.db.tables import metadata
from bridge.delivery.claim import load_target
from bridge.delivery.endpoints import EndpointSpec, rotate_secret, secrets_of
from bridge.errors import BridgeError
from tests.harness.builders import at, seen
from tests.harness.store_driver import SECRET, StoreDriver


def test_what_is_sealed_can_be_opened_and_not_read() -> None:
    cipher = SecretCipher(["key"])
    ciphertext = cipher.encrypt("hunter2")

    assert cipher.has_key
    assert "hunter2" not in ciphertext
    assert cipher.decrypt(ciphertext) == "hunter2"
    assert cipher.encrypt("hunter2") != ciphertext


def test_without_a_key_it_stands_in_clear_and_says_so() -> None:
    assert not SecretCipher().has_key
    assert SecretCipher().encrypt("x") == "clear:x"


def test_old_keys_and_clear_text_still_open() -> None:
    old = SecretCipher(["old"]).encrypt("x")

    assert SecretCipher(["new", "old"]).decrypt(old) == "x"
    assert SecretCipher(["new", "old"]).decrypt(SecretCipher().encrypt("x")) == "x"
    assert SecretCipher(["new"]).decrypt(SecretCipher(["new", "old"]).encrypt("x")) == "x"


@pytest.mark.parametrize("cipher", [SecretCipher(), SecretCipher(["another"])])
def test_a_missing_key_is_named(cipher: SecretCipher) -> None:
    with pytest.raises(BridgeError, match="BRIDGE_ENCRYPTION_KEY"):
        cipher.decrypt(SecretCipher(["key"]).encrypt("x"))


@pytest.mark.parametrize("text", ["", "clear:x", "ciphertext:x", "ü\x00"])
def test_any_text_comes_back(text: str) -> None:
    for cipher in (SecretCipher(), SecretCipher(["key"])):
        assert cipher.decrypt(cipher.encrypt(text)) == text


def dump(store: StoreDriver) -> str:
    return "".join(repr(row) for table in metadata.tables.values() for row in store.rows(table))


def take_up(store: StoreDriver, *keys: str, seconds: float = 0) -> None:
    """Start a service with these keys."""
    store.cipher = SecretCipher(keys)
    store.write(apply_configuration, sources=[], rooms=[], endpoints=[], context=store.context(seconds))


def test_a_key_that_is_set_later_seals_what_stood_in_clear(store: StoreDriver) -> None:
    key = store.subscribe(secret=SECRET, headers={"X-Auth": "hunter2"})
    assert SECRET in dump(store)
    assert "hunter2" in dump(store)
    take_up(store, "key")

    assert SECRET not in dump(store)
    assert "hunter2" not in dump(store)
    assert store.database.read_now(secrets_of, [key], at(0), store.cipher) == {key: [SECRET]}


def test_after_a_start_with_a_new_key_first_the_old_one_is_needed_no_more(store: StoreDriver) -> None:
    take_up(store, "old")
    store.subscribe(secret=None, headers={"X-Auth": "hunter2"})
    store.write(rotate_secret, "crm", store.context(), timedelta(seconds=5))
    take_up(store, "new", "old", seconds=10)
    before = dump(store)
    take_up(store, "new", seconds=20)

    assert dump(store) == before, "nothing is ciphertext twice"
    target = store.database.read_now(load_target, "crm", now=at(20), cipher=SecretCipher(["new"]))
    assert (target.secrets, target.headers) == ((SECRET,), {"X-Auth": "hunter2"})


def test_a_wrong_key_locks_and_harms_nothing(store: StoreDriver) -> None:
    take_up(store, "right")
    key = store.subscribe(secret=SECRET)
    before = dump(store)
    take_up(store, "wrong", seconds=10)
    for refused in (rotate, subscribe_other):
        with pytest.raises(BridgeError, match=r"'crm'.*BRIDGE_ENCRYPTION_KEY"):
            refused(store)

    assert dump(store) == before
    assert store.database.read_now(secrets_of, [key], at(0), SecretCipher(["right"])) == {key: [SECRET]}


@pytest.mark.parametrize(
    ("service", "given"),
    [(["old"], ["new", "old"]), (["right", "old"], ["old", "right"]), ([], ["key"])],
    ids=["a new one first", "in another order", "the service has none"],
)
def test_keys_of_which_the_service_seals_with_another_seal_nothing(
    store: StoreDriver, service: list[str], given: list[str]
) -> None:
    """They open all that is stored; but what the first of them seals, the service could not open, or keeps in clear."""
    take_up(store, *service)
    store.subscribe(secret=None)
    before = dump(store)
    store.cipher = SecretCipher(given)
    for refused in (rotate, subscribe_other):
        with pytest.raises(BridgeError, match=r"'crm' is not ciphertext with the first of these keys"):
            refused(store)

    assert dump(store) == before
    take_up(store, *given)
    subscribe_other(store)


def rotate(store: StoreDriver) -> None:
    store.write(rotate_secret, "crm", store.context(10), None)


def subscribe_other(store: StoreDriver) -> None:
    store.subscribe("other")


def test_what_the_file_says_unlocks_an_endpoint_of_the_file(store: StoreDriver) -> None:
    spec = EndpointSpec(name="crm", url="https://crm.example.com/", secret=SECRET, headers={"X-Auth": "hunter2"})
    generated = EndpointSpec(name="generated", url="https://crm.example.com/")

    def start(*keys: str) -> None:
        store.cipher = SecretCipher(keys)
        store.write(apply_configuration, sources=[], rooms=[], endpoints=[spec, generated], context=store.context())

    start("lost")
    start("new")

    target = store.database.read_now(load_target, "crm", now=at(0), cipher=SecretCipher(["new"]))
    assert (target.secrets, target.headers) == ((SECRET,), {"X-Auth": "hunter2"})
    with pytest.raises(BridgeError):
        store.database.read_now(load_target, "generated", now=at(0), cipher=SecretCipher(["new"]))
    store.database.read_now(load_target, "generated", now=at(0), cipher=SecretCipher(["new", "lost"]))


def test_no_column_holds_a_secret_in_clear(store: StoreDriver) -> None:
    store.cipher = SecretCipher(["key"])
    store.track("a")
    key = store.subscribe(secret=SECRET, headers={"X-Auth": "hunter2"})
    store.poll(0, a=seen("p"))
    store.deliver(1)

    assert SECRET.removeprefix("whsec_") not in dump(store)
    assert "hunter2" not in dump(store)
    assert store.database.read_now(secrets_of, [key], at(0), store.cipher) == {key: [SECRET]}

from __future__ import annotations

from datetime import timedelta

import pytest

from bridge.errors import BridgeError
from bridge.store.deliveries import target_of
from bridge.store.endpoint_state import rotate_secret
from bridge.store.endpoints import EndpointSpec, secrets_of
from bridge.store.reconcile import reconcile
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


def dump(stage: Stage) -> str:
    return "".join(repr(row) for table in metadata.tables.values() for row in stage.rows(table))


def take_up(stage: Stage, *keys: str, seconds: float = 0) -> None:
    """Start a service with these keys."""
    stage.vault = Vault(keys)
    stage.write(reconcile, sources=[], rooms=[], endpoints=[], desk=stage.desk(seconds))


def test_a_key_that_is_set_later_seals_what_stood_in_clear(stage: Stage) -> None:
    key = stage.subscribe(secret=SECRET, headers={"X-Auth": "hunter2"})
    assert SECRET in dump(stage)
    assert "hunter2" in dump(stage)
    take_up(stage, "key")

    assert SECRET not in dump(stage)
    assert "hunter2" not in dump(stage)
    assert stage.database.read_now(secrets_of, [key], at(0), stage.vault) == {key: [SECRET]}


def test_after_a_start_with_a_new_key_first_the_old_one_is_needed_no_more(stage: Stage) -> None:
    take_up(stage, "old")
    stage.subscribe(secret=None, headers={"X-Auth": "hunter2"})
    stage.write(rotate_secret, "crm", stage.desk(), timedelta(seconds=5))
    take_up(stage, "new", "old", seconds=10)
    before = dump(stage)
    take_up(stage, "new", seconds=20)

    assert dump(stage) == before, "nothing is sealed twice"
    target = stage.database.read_now(target_of, "crm", now=at(20), vault=Vault(["new"]))
    assert (target.secrets, target.headers) == ((SECRET,), {"X-Auth": "hunter2"})


def test_a_wrong_key_locks_and_harms_nothing(stage: Stage) -> None:
    take_up(stage, "right")
    key = stage.subscribe(secret=SECRET)
    before = dump(stage)
    take_up(stage, "wrong", seconds=10)
    for refused in (rotate, subscribe_other):
        with pytest.raises(BridgeError, match=r"'crm'.*BRIDGE_ENCRYPTION_KEY"):
            refused(stage)

    assert dump(stage) == before
    assert stage.database.read_now(secrets_of, [key], at(0), Vault(["right"])) == {key: [SECRET]}


@pytest.mark.parametrize(
    ("service", "given"),
    [(["old"], ["new", "old"]), (["right", "old"], ["old", "right"]), ([], ["key"])],
    ids=["a new one first", "in another order", "the service has none"],
)
def test_keys_of_which_the_service_seals_with_another_seal_nothing(
    stage: Stage, service: list[str], given: list[str]
) -> None:
    """They open all that is stored; but what the first of them seals, the service could not open, or keeps in clear."""
    take_up(stage, *service)
    stage.subscribe(secret=None)
    before = dump(stage)
    stage.vault = Vault(given)
    for refused in (rotate, subscribe_other):
        with pytest.raises(BridgeError, match=r"'crm' is not sealed with the first of these keys"):
            refused(stage)

    assert dump(stage) == before
    take_up(stage, *given)
    subscribe_other(stage)


def rotate(stage: Stage) -> None:
    stage.write(rotate_secret, "crm", stage.desk(10), None)


def subscribe_other(stage: Stage) -> None:
    stage.subscribe("other")


def test_what_the_file_says_unlocks_an_endpoint_of_the_file(stage: Stage) -> None:
    spec = EndpointSpec(name="crm", url="https://crm.example.com/", secret=SECRET, headers={"X-Auth": "hunter2"})
    generated = EndpointSpec(name="generated", url="https://crm.example.com/")

    def start(*keys: str) -> None:
        stage.vault = Vault(keys)
        stage.write(reconcile, sources=[], rooms=[], endpoints=[spec, generated], desk=stage.desk())

    start("lost")
    start("new")

    target = stage.database.read_now(target_of, "crm", now=at(0), vault=Vault(["new"]))
    assert (target.secrets, target.headers) == ((SECRET,), {"X-Auth": "hunter2"})
    with pytest.raises(BridgeError):
        stage.database.read_now(target_of, "generated", now=at(0), vault=Vault(["new"]))
    stage.database.read_now(target_of, "generated", now=at(0), vault=Vault(["new", "lost"]))


def test_no_column_holds_a_secret_in_clear(stage: Stage) -> None:
    stage.vault = Vault(["key"])
    stage.track("a")
    key = stage.subscribe(secret=SECRET, headers={"X-Auth": "hunter2"})
    stage.poll(0, a=seen("p"))
    stage.deliver(1)

    assert SECRET.removeprefix("whsec_") not in dump(stage)
    assert "hunter2" not in dump(stage)
    assert stage.database.read_now(secrets_of, [key], at(0), stage.vault) == {key: [SECRET]}

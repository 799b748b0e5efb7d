from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bridge.admin.configured import apply_configuration
from bridge.admin.endpoints import show_endpoint
from bridge.db.encryption import SecretCipher
from bridge.delivery.endpoints import EndpointSpec, find_endpoint
from bridge.delivery.revise import revise_endpoint
from bridge.delivery.targets import Target, load_target
from bridge.errors import ConflictError, NotFoundError, UsageError
from bridge.rules.signing import generate_signing_key
from tests.harness.builders import at
from tests.harness.store_driver import SECRET, StoreDriver

OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
KEY = generate_signing_key(bytes(32))


def to(**changes: Any) -> Callable[[EndpointSpec], EndpointSpec]:  # noqa: ANN401 - fields of an EndpointSpec
    return lambda spec: replace(spec, **changes)


def revise(store: StoreDriver, which: str, /, **changes: Any) -> None:  # noqa: ANN401 - fields of an EndpointSpec
    store.write(revise_endpoint, which, to(**changes), store.context(10))


def target(store: StoreDriver, name: str = "crm", seconds: float = 11) -> Target:
    return store.database.read_now(load_target, name, now=at(seconds), cipher=store.cipher)


@pytest.mark.parametrize("cipher", [SecretCipher(), SecretCipher(("a key of the operator",))])
def test_what_is_not_changed_stays(store: StoreDriver, cipher: SecretCipher) -> None:
    store.cipher = cipher
    store.subscribe("crm", headers={"X-Auth": "hush"}, rooms=("a", "b*"), timeout=timedelta(seconds=3), style="flat")
    before = store.database.read_now(show_endpoint, "crm", now=at(11), cipher=cipher, reveal=True)

    revise(store, before.id, url="https://new.example.com/", max_concurrency=2)

    after = store.database.read_now(show_endpoint, "crm", now=at(11), cipher=cipher, reveal=True)
    assert after == replace(before, url="https://new.example.com/", max_concurrency=2)


def test_a_new_secret_signs_first_and_the_old_one_for_its_grace(store: StoreDriver) -> None:
    store.subscribe("crm")
    revise(store, "crm", secret=OTHER_SECRET)
    assert target(store).secrets == (OTHER_SECRET, SECRET)
    revise(store, "crm", secret=OTHER_SECRET, rooms=("a",))
    assert target(store, seconds=90_000).secrets == (OTHER_SECRET,)


def test_another_signature_needs_a_secret_of_its_kind(store: StoreDriver) -> None:
    store.subscribe("crm")
    with pytest.raises(UsageError, match="cannot sign with signature 'v1a': give a new one"):
        revise(store, "crm", signature="v1a")
    revise(store, "crm", signature="v1a", secret=KEY)
    assert (target(store).signature, target(store).secrets[0]) == ("v1a", KEY)


def test_a_disabled_endpoint_keeps_its_backlog_and_is_enabled_again(store: StoreDriver) -> None:
    key = store.subscribe("crm")
    revise(store, "crm", enabled=False)
    store.record_joins(20, "a")
    assert store.owed(21) == []
    row = store.database.read_now(find_endpoint, "crm")
    assert (row.state, row.state_reason) == ("disabled", "operator")
    revise(store, "crm", name="crm2")
    assert store.owed(22) == [], "only enabled = true enables"
    revise(store, "crm2", enabled=True)
    assert [cursor.target.key for cursor in store.owed(23)] == [key]


def test_a_taken_name_and_an_endpoint_of_the_configuration_are_refused(store: StoreDriver) -> None:
    spec = EndpointSpec(name="configured", url="https://configured.example.com/", secret=SECRET)
    store.write(apply_configuration, sources=["main"], rooms=[], endpoints=[spec], context=store.context())
    store.subscribe("crm")

    with pytest.raises(ConflictError, match="named 'configured' exists"):
        revise(store, "crm", name="configured")
    with pytest.raises(ConflictError, match="'configured' belongs to the configuration"):
        revise(store, "configured", max_concurrency=2)
    with pytest.raises(NotFoundError):
        revise(store, "nobody", max_concurrency=2)


def test_a_changed_subscription_to_snapshots_gets_them(store: StoreDriver) -> None:
    store.subscribe("crm", events=("peer.joined",))
    store.record_joins(0, "a")
    revise(store, "crm", events=("room.snapshot",))
    store.append_snapshots(20)
    assert store.event_types("a")[-1] == "room.snapshot"

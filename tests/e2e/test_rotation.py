"""Secrets are rotated while deliveries flow: a receiver may switch at any moment of the grace period."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.harness.config import Configure, Table
from tests.harness.deliveries import difference_from_log, stored_events
from tests.harness.process import BridgeProcess, command
from tests.harness.receiver import Delivery, Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

ROOMS = [f"room-{number}" for number in range(6)]
CHANGES = 3

Verifier = Callable[[Delivery], bool]


def by_secret(secret: str) -> Verifier:
    return lambda delivery: delivery.is_signed_with(secret)


def by_public_key(key: str) -> Verifier:
    """Return a verifier of `v1a` by the specification, with the key that `bridge endpoints show` prints."""
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix("whpk_")))

    def verifies(delivery: Delivery) -> bool:
        headers = delivery.headers
        content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + delivery.body
        for signature in headers["webhook-signature"].split():
            version, _, text = signature.partition(",")
            try:
                public.verify(base64.b64decode(text), content)
            except InvalidSignature:
                continue
            return version == "v1a"
        return False

    return verifies


@dataclass(slots=True)
class Subscriber:
    """A receiver that has one key at a time; `keys` has each with the number of the request before it."""

    receiver: Receiver
    keys: list[tuple[int, Verifier]] = field(default_factory=list)

    def switch_to(self, key: Verifier) -> None:
        self.keys.append((len(self.receiver.deliveries), key))

    def failures(self) -> list[str]:
        """Return the requests that the key of their time does not verify."""
        found = []
        for delivery in self.receiver.deliveries:
            keys = [key for since, key in self.keys if since < delivery.number]
            if not keys[-1](delivery):
                found.append(f"request {delivery.number}, with key {len(keys)} of {len(self.keys)}")
        return found

    def wait_for_more(self, count: int) -> None:
        target = len(self.receiver.deliveries) + count
        wait_until(lambda: len(self.receiver.deliveries) >= target, what=f"{count} deliveries more")


@contextmanager
def subscribers() -> Iterator[tuple[Subscriber, Subscriber, Subscriber]]:
    with Receiver() as made, Receiver() as given, Receiver() as signed:
        yield Subscriber(made), Subscriber(given), Subscriber(signed)


def wait_for_reload(program: BridgeProcess, count: int) -> None:
    wait_until(lambda: len(list(program.lines("configuration.reloaded"))) == count, what="a reload")


def secret_number(number: int) -> str:
    return "whsec_" + base64.b64encode(f"secret number {number:020}".encode()).decode()


def revealed(config: Path, name: str) -> str:
    shown = json.loads(command(config, "endpoints", "show", name, "--json", "--reveal"))
    return str(shown["secrets"][0]["secret"])


def public_key(config: Path, name: str) -> str:
    return str(json.loads(command(config, "endpoints", "show", name, "--json"))["secrets"][0]["public_key"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "migrated_url", ["postgresql", pytest.param("sqlite", marks=pytest.mark.campaign)], indirect=True
)
def test_no_verification_fails_whenever_the_receiver_switches(
    configure: Configure, simulator: Simulator, seed: int
) -> None:
    """One secret is generated, one is in the file, one is a key pair; each is replaced several times."""
    rng = Random(seed)  # noqa: S311 - moments want a seed, not secrecy
    with subscribers() as (made, given, signed):

        def configure_secret(number: int) -> Path:
            endpoints: list[Table] = [
                {"name": "made", "url": made.receiver.url, "events": ["*"]},
                given.receiver.endpoint("given", secret=secret_number(number), events=["*"]),
                {"name": "signed", "url": signed.receiver.url, "events": ["*"], "signature": "v1a"},
            ]
            return configure(rooms=ROOMS, endpoints=endpoints)

        config = configure_secret(0)
        with BridgeProcess(config) as program, simulator.crowd(ROOMS, seed=seed):
            program.wait_ready()
            made.switch_to(by_secret(revealed(config, "made")))
            given.switch_to(by_secret(secret_number(0)))
            signed.switch_to(by_public_key(public_key(config, "signed")))
            made.keys[0], given.keys[0], signed.keys[0] = ((0, one.keys[0][1]) for one in (made, given, signed))
            for change in range(1, CHANGES + 1):
                fresh = command(config, "endpoints", "rotate", "made").strip()
                command(config, "endpoints", "rotate", "signed")
                configure_secret(change)
                program.send(signal.SIGHUP)
                wait_for_reload(program, change)
                for subscriber, key in (
                    (made, by_secret(fresh)),
                    (given, by_secret(secret_number(change))),
                    (signed, by_public_key(public_key(config, "signed"))),
                ):
                    subscriber.wait_for_more(rng.randrange(10, 30))
                    subscriber.switch_to(key)
                    subscriber.wait_for_more(10)
        for subscriber in (made, given, signed):
            assert subscriber.failures() == []
            assert len(subscriber.keys) == CHANGES + 1


@pytest.mark.slow
def test_deliveries_under_way_when_the_secret_changes_are_signed_with_both(
    configure: Configure, migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    """A slow receiver with a long backlog takes the new secret at once: only the request on its way may fail."""
    config = configure(
        rooms=["room"],
        endpoints=[{"name": "made", "url": receiver.url, "events": ["*"]}],
        delivery={"timeout": "30s"},
    )
    receiver.script(Response(pause=True, times=1))
    simulator.join("room", *(f"p{number}" for number in range(15)))
    with BridgeProcess(config) as program:
        wait_until(lambda: receiver.deliveries, what="the first delivery")
        fresh = command(config, "endpoints", "rotate", "made").strip()
        receiver.release()
        receiver.wait_for_count(16)
        assert program.stop() == 0
    verifies = by_secret(fresh)
    assert [one.number for one in receiver.deliveries[1:] if not verifies(one)] == []
    assert difference_from_log(receiver.deliveries, stored_events(migrated_url)) == []

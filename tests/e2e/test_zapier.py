"""The Zapier integration against the real program: Zapier's own app tester subscribes, the bridge delivers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.rules.presence import Json
from tests.harness.config import Configure
from tests.harness.oracles import ORACLES
from tests.harness.process import BridgeProcess, command
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until
from tests.harness.zapier import INTEGRATION, ZapError, Zapier

pytestmark = pytest.mark.slow

TYPES = {"peer_joined": "peer.joined", "peer_left": "peer.left", "room_empty": "room.empty"}
ANN: Json = {"displayName": "Ann", "email": "ann@example.com"}


@pytest.fixture
def migrated_url(sqlite_migrated_url: str) -> str:
    """One kind of database is enough: what is tried is on the other side of the API."""
    return sqlite_migrated_url


@pytest.fixture
def config(configure: Configure) -> Path:
    return configure(rooms=["standup", "other"], web={"listen": "127.0.0.1:0"})


@pytest.fixture
def url(config: Path) -> Iterator[str]:
    with BridgeProcess(config) as bridge:
        bridge.wait_ready()
        yield next(bridge.lines("web.listening"))["url"]


@pytest.fixture
def zapier(config: Path, url: str, tmp_path: Path) -> Zapier:
    token = command(config, "tokens", "add", "zapier", "--scope", "hooks").strip()
    return Zapier(tmp_path, url, token)


def hooks(config: Path) -> set[str]:
    return {one["id"] for one in json.loads(command(config, "endpoints", "list", "--json"))}


def subscribe(key: str) -> str:
    return f"triggers.{key}.operation.performSubscribe"


def without_metadata(event: dict[str, Any]) -> set[str]:
    return {key for key in event if not key.startswith("metadata_")}


def arrived(receiver: Receiver, path: str) -> list[dict[str, Any]]:
    return [one.event for one in receiver.deliveries if one.path == path]


def test_what_zapier_checks_before_it_takes_an_integration(tmp_path: Path) -> None:
    assert Zapier(tmp_path, "http://127.0.0.1:1", "none").call(("validate", {})) == [[]]


def test_the_integration_is_tested_with_the_packages_that_it_has() -> None:
    (ours, oracles) = (json.loads((place / "package.json").read_text()) for place in (INTEGRATION, ORACLES))
    lock = (INTEGRATION / "package-lock.json").read_text()

    assert ours["dependencies"].items() <= oracles["dependencies"].items()
    assert "resolved" not in lock
    for name, version in ours["dependencies"].items():
        assert json.loads(lock)["packages"][f"node_modules/{name}"]["version"] == version


def test_a_connection_is_tested_and_a_wrong_token_explained(
    config: Path, url: str, zapier: Zapier, tmp_path: Path
) -> None:
    (me,) = zapier.call(("authentication.test", {}))
    assert me == {"name": "zapier", "scopes": ["hooks"]}
    assert zapier.call(("authentication.connectionLabel", {"inputData": me})) == [f"zapier at {url}"]

    reader = command(config, "tokens", "add", "reader", "--scope", "read").strip()
    for token, reason in ((reader, "bridge tokens add zapier --scope hooks"), ("wrong", "the token is unknown")):
        (tmp_path / token).mkdir()
        with pytest.raises(ZapError, match=reason):
            Zapier(tmp_path / token, url, token).call(("authentication.test", {}))
    with pytest.raises(ZapError, match="the URL must begin with https"):
        zapier.call((subscribe("peer_joined"), {"targetUrl": "nowhere"}))


def test_zaps_are_fired_and_unsubscribed(
    config: Path, zapier: Zapier, simulator: Simulator, receiver: Receiver
) -> None:
    def zap(key: str, path: str, **inputs: str) -> tuple[str, dict[str, Any]]:
        return subscribe(key), {"targetUrl": f"{receiver.url}{path}", "inputData": inputs}

    first, second, *_ = zapier.call(
        zap("peer_joined", "/joined"),
        zap("peer_joined", "/joined"),
        zap("peer_left", "/left", room_id="standup"),
        zap("room_empty", "/empty", room_id="standup"),
        zap("room_empty", "/other", room_id="other"),
    )
    assert first["id"] != second["id"]
    assert len(hooks(config)) == 5

    # subscribed twice, fired twice; each trigger gets its own type
    simulator.join("standup", "ann", metadata=ANN)
    wait_until(lambda: len(arrived(receiver, "/joined")) == 2, what="both deliveries of the join")
    simulator.end("standup")
    wait_until(lambda: arrived(receiver, "/empty"), what="room.empty")
    live = {key: arrived(receiver, f"/{key.partition('_')[2]}") for key in TYPES}
    assert live["peer_joined"][0] == live["peer_joined"][1]
    assert {key: {event["type"] for event in events} for key, events in live.items()} == {
        key: {kind} for key, kind in TYPES.items()
    }
    assert not arrived(receiver, "/other")

    # what an editor of a Zap shows has the keys of what arrives
    in_room = {"inputData": {"room_id": "standup"}}
    listed = zapier.call(*((f"triggers.{key}.operation.performList", in_room) for key in TYPES))
    taken = zapier.call(*((f"triggers.{key}.operation.perform", {"cleanedRequest": live[key][0]}) for key in TYPES))
    assert listed == taken == [[live[key][0]] for key in TYPES]
    samples = json.loads((INTEGRATION / "samples.json").read_text())
    for key, kind in TYPES.items():
        assert without_metadata(samples[kind]) == without_metadata(live[key][0])

    # Zapier unsubscribes one, twice; the URL of the other responds 410
    unsubscribe = "triggers.peer_joined.operation.performUnsubscribe"
    assert zapier.call(*[(unsubscribe, {"subscribeData": first})] * 2) == [{}, {}]
    receiver.script(Response(status=410, when=lambda delivery: delivery.path == "/joined"))
    simulator.join("standup", "bo")
    wait_until(lambda: second["id"] not in hooks(config), what="the hook to be removed")
    assert len(arrived(receiver, "/joined")) == 3
    assert len(hooks(config)) == 3
    assert zapier.call((unsubscribe, {"subscribeData": second})) == [{}]

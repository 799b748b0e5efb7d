"""REST hooks through the real program: as Zapier, Make and n8n subscribe, get events, and unsubscribe."""

from __future__ import annotations

from collections import Counter

import httpx

from tests.harness.config import Configure
from tests.harness.process import BridgeProcess, command
from tests.harness.receiver import Delivery, Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.tables import rows
from tests.harness.waiting import wait_until

ROOM, TOKEN = "abc-defg-hij", "a-token-of-the-test"


def test_a_hook_is_subscribed_delivered_to_and_removed_by_410(
    configure: Configure, simulator: Simulator, receiver: Receiver, migrated_url: str
) -> None:
    config = configure(
        rooms=[ROOM],
        endpoints=[receiver.endpoint("watcher", events=["endpoint.*"])],
        web={"listen": "127.0.0.1:0", "tokens": [{"name": "zap", "token": TOKEN, "scopes": ["hooks", "read"]}]},
    )

    def of_path(*names: str) -> list[Delivery]:
        return [one for one in receiver.deliveries if one.path.strip("/") in names]

    with BridgeProcess(config).wait_ready() as program:
        wait_until(lambda: list(program.lines("web.listening")), what="the web server")
        api = next(program.lines("web.listening"))["url"] + "api/v1"
        with httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False) as client:
            twice = [{"hookUrl": f"{receiver.url}/twice", "event": "peer.joined"}] * 2
            everything = {"target_url": f"{receiver.url}/zap", "room_id": ROOM, "zap": 1}
            hooks = [client.post(f"{api}/hooks", json=body).raise_for_status().json() for body in (everything, *twice)]
            invented = client.get(f"{api}/samples/peer.joined", params={"room_id": ROOM}).json()
            simulator.join(ROOM, "anna", metadata={"displayName": "Anna", "email": "anna@example.com"})
            wait_until(lambda: len(of_path("zap", "twice")) == 3, what="a join at each hook")
            listed = client.get(f"{api}/endpoints").json()["items"]
            samples = client.get(f"{api}/samples/peer.joined", params={"room_id": ROOM}).json()

            receiver.script(Response(status=410, when=lambda one: one.path == "/zap"))
            simulator.leave(ROOM, "anna")
            wait_until(
                lambda: client.get(f"{api}/endpoints/{hooks[0]['id']}").status_code == 404, what="the end of the hook"
            )
            after = client.get(f"{api}/endpoints").json()["items"]
            again = [client.delete(f"{api}/hooks/{hook['id']}").status_code for hook in hooks]
            simulator.join(ROOM, "bert")
            wait_until(lambda: client.get(f"{api}/presence").json()["items"], what="bert")
        printed = command(config, "endpoints", "list", "--json")
        assert program.stop() == 0

    joins = of_path("zap", "twice")[:3]
    assert Counter(one.path for one in joins) == {"/zap": 1, "/twice": 2}
    assert {one.event["type"] for one in joins} == {"peer.joined"}
    secrets = [hook["secret"] for hook in hooks]
    assert sorted(sum(one.is_signed_with(secret) for one in joins) for secret in secrets) == [1, 1, 1]
    assert next(one for one in joins if one.path == "/zap").is_signed_with(secrets[0])
    assert samples == [joins[0].event]
    assert invented[0].keys() == joins[0].event.keys()
    assert [(one["origin"], one["style"]) for one in listed] == [("hook", "flat")] * 3 + [("config", "standard")]
    assert [one["id"] for one in after if one["origin"] == "hook"] == [hook["id"] for hook in hooks[1:]]
    assert (again, '"hook"' in printed) == ([204, 204, 204], False)
    assert len(of_path("zap")) == 2, "one join, and the leave that got 410"
    assert len(of_path("twice")) == 2, "unsubscribed before bert joined"
    assert of_path("watcher") == [], "no endpoint is notified"
    assert rows(migrated_url, "SELECT type FROM events WHERE type LIKE 'endpoint.%'") == []

"""Hours in a second: the real sender, sockets and database, and a clock that only moves when it is set."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_network
from typing import Any

import pytest

from bridge.db.tables import endpoints
from bridge.delivery.client import WebhookClient
from bridge.delivery.sender import Sender
from bridge.rules.delivery import DeliveryPolicy
from bridge.rules.egress import EgressPolicy
from bridge.runtime import Runtime
from tests.harness.builders import at, peer, seen
from tests.harness.claimant import Claimant
from tests.harness.deliveries import duplicates
from tests.harness.receiver import SECRET, Delivery, Receiver, Response
from tests.harness.store_driver import StoreDriver

LOOPBACK = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"),))
MINUTE, HOUR = 60, 3600
ROOMS = [f"room-{number}" for number in range(5)]


@dataclass(slots=True)
class Afternoon:
    """A sender, and rooms in which a test makes something happen."""

    store: StoreDriver
    client: WebhookClient
    receiver: Receiver
    seconds: float = 0
    people: int = 0
    jitter: float = 0.5
    _sender: Sender = field(init=False)

    def __post_init__(self) -> None:
        runtime = Runtime(now=self.now, new_id=self.store.new_id, jitter=lambda: self.jitter)
        self._sender = Sender(
            self.store.database, self.client, self.store.policy, runtime, Claimant(), cipher=self.store.cipher
        )

    def now(self) -> datetime:
        return at(self.seconds)

    def subscribe(self, name: str, **spec: Any) -> int:  # noqa: ANN401 - fields of EndpointSpec
        return self.store.subscribe(name, **{"url": f"{self.receiver.url}/{name}", "secret": SECRET} | spec)

    def happen(self, *rooms: str) -> None:
        """Replace the peer in each of the rooms by another one."""
        self.people += 1
        self.store.poll(self.seconds, **{room: seen(peer(f"p{self.people}", -1)) for room in rooms})

    async def send(self) -> None:
        """Send what is due now."""
        while await self._sender.tick():
            pass

    def log(self, room: str) -> list[int]:
        return [event["data"]["sequence"] for event in self.store.log(room)]

    def took(self, name: str, room: str) -> list[int]:
        """Return the sequences that an endpoint accepted of a room, in order of arrival."""
        return [
            one.event["data"]["sequence"]
            for one in self.receiver.accepted
            if (one.path, one.room) == (f"/{name}", room)
        ]

    def requests(self, name: str) -> int:
        """Return the number of requests that an endpoint got."""
        return sum(one.path == f"/{name}" for one in self.receiver.deliveries)

    def circuit(self, key: int) -> str:
        return str(next(row.circuit for row in self.store.rows(endpoints, "id") if row.id == key))

    def state(self, key: int) -> str:
        return str(next(row.state for row in self.store.rows(endpoints, "id") if row.id == key))


@pytest.fixture
async def begin(store: StoreDriver, receiver: Receiver) -> AsyncIterator[Callable[..., Afternoon]]:
    """Make the afternoon, with a delivery policy."""
    begun: list[Afternoon] = []
    async with WebhookClient(LOOPBACK, user_agent="presence-bridge/test", clock=lambda: begun[-1].now()) as client:  # noqa: PLW0108 - it begins later

        def make(**policy: object) -> Afternoon:
            store.policy = DeliveryPolicy(**policy)  # type: ignore[arg-type]  # fields by name
            begun.append(Afternoon(store, client, receiver))
            return begun[0]

        yield make


def to(name: str, room: str | None = None, *sequences: int) -> Callable[[Delivery], bool]:
    return lambda one: (
        one.path == f"/{name}"
        and room in (None, one.room)
        and (not sequences or one.event["data"]["sequence"] in sequences)
    )


async def test_three_hours_of_failures_at_one_endpoint_and_poison_at_another(begin: Callable[..., Afternoon]) -> None:
    steps = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120, 300, 900, 1800))
    day = begin(retry_schedule=steps)
    day.store.track(*ROOMS)
    healthy, down, poisoned = (day.subscribe(name) for name in ("healthy", "down", "poisoned"))
    outage = Response(status=503, when=to("down"))
    day.receiver.script(outage, Response(status=500, when=to("poisoned", "room-2", 4)))
    while day.seconds < 3 * HOUR:
        if day.seconds % (15 * MINUTE) == 0:
            day.happen(*ROOMS)
            log = {room: day.log(room) for room in ROOMS}
        await day.send()
        for room in ROOMS:
            assert day.took("healthy", room) == log[room], "not late by a tick, and in order"
            assert room == "room-2" or day.took("poisoned", room) == log[room]
        assert (day.circuit(healthy), day.circuit(poisoned)) == ("closed", "closed")
        day.seconds += 2.5 * MINUTE

    assert day.circuit(down) == "open"
    assert 0 < day.requests("down") < 60, "an open circuit is probed, no more"
    assert [day.took("down", room) for room in ROOMS] == [[]] * len(ROOMS)
    day.receiver.script(Response(status=500, when=to("poisoned", "room-2", 4)))
    while not any(one.path == "/down" for one in day.receiver.accepted):
        day.seconds += MINUTE
        assert day.seconds < 4 * HOUR, "a probe at least every five minutes"
        await day.send()

    for room in ROOMS:
        assert day.took("down", room) == day.log(room), "all of it, in order, at the moment of the first success"
        expected = [number for number in day.log(room) if (room, number) != ("room-2", 4)]
        assert day.took("poisoned", room) == expected
    assert duplicates([one for one in day.receiver.deliveries if one.path == "/down"]) == []
    (dead,) = day.store.dead_letters()
    assert (dead.endpoint_key, dead.reason) == (poisoned, "exhausted")
    assert dead.tries == len([one for one in day.receiver.deliveries if to("poisoned", "room-2", 4)(one)])
    assert dead.tries >= len(steps) + 1


@pytest.mark.parametrize(
    ("status", "retry_after"),
    [(429, "120"), (503, "120"), (429, format_datetime(at(120), usegmt=True))],
    ids=["429 seconds", "503 seconds", "429 date"],
)
async def test_retry_after_applies_to_every_room(
    status: int, retry_after: str, begin: Callable[..., Afternoon]
) -> None:
    day = begin()
    day.jitter = 0.0
    day.store.track(*ROOMS)
    day.subscribe("busy", max_concurrency=1)
    day.receiver.script(Response(status=status, headers={"Retry-After": retry_after}, times=1))
    day.happen(*ROOMS)
    await day.send()
    assert day.requests("busy") == 1, "Retry-After is for the endpoint, whatever the room"
    for seconds in (1, 5, 30, 60, 100, 119, 119.9):
        day.seconds = seconds
        if seconds in (30, 60):
            day.happen(*ROOMS)
        await day.send()
        assert day.requests("busy") == 1, f"a request after {seconds} s"
    day.seconds = 120
    await day.send()
    assert [day.took("busy", room) for room in ROOMS] == [day.log(room) for room in ROOMS]


async def test_an_endpoint_without_a_success_is_disabled_and_keeps_its_backlog(
    begin: Callable[..., Afternoon],
) -> None:
    day = begin(disable_after=timedelta(days=5))
    day.store.track(*ROOMS)
    key = day.subscribe("down")
    day.subscribe("watcher", events=["endpoint.*"])
    day.receiver.script(Response(status=500, when=to("down")))
    day.happen(*ROOMS)
    while day.seconds < 5 * 24 * HOUR:
        await day.send()
        assert day.state(key) == "active", f"disabled after {day.seconds / HOUR} hours"
        day.seconds += HOUR
    await day.send()

    assert [(event["type"], event["data"]["reason"]) for event in day.store.log(None)] == [
        ("endpoint.disabled", "failing")
    ]
    before = day.requests("down")
    for _ in range(10):
        day.seconds += HOUR
        await day.send()
    assert day.requests("down") == before, "a disabled endpoint gets nothing"
    assert [day.store.cursor(key, room).acked for room in ROOMS] == [0] * len(ROOMS)
    assert [one.event["type"] for one in day.receiver.accepted] == ["endpoint.disabled"]
    assert day.store.dead_letters() == []


@pytest.mark.parametrize("status", [301, 401, 404])
async def test_a_deployment_that_misleads_requests_for_ten_minutes_loses_nothing(
    begin: Callable[..., Afternoon], status: int
) -> None:
    day = begin()
    day.store.track("room")
    day.subscribe("moved")
    elsewhere = f"{day.receiver.url}/elsewhere"
    day.receiver.script(Response(status=status, headers={"Location": elsewhere}))
    day.happen("room")
    for day.seconds in (0, 10, 60, 240, 600):
        await day.send()
    failed = [(row.outcome, row.status, row.cause) for row in day.store.attempts()]
    assert failed == [("retryable", status, "status")] * len(failed)
    assert all("not followed" in row.detail and elsewhere in row.detail for row in day.store.attempts())

    day.receiver.script()
    day.seconds = 1600
    await day.send()
    assert {one.path for one in day.receiver.deliveries} == {"/moved"}
    assert day.took("moved", "room") == [1, 2]
    assert day.store.dead_letters() == []


async def test_a_poison_event_of_the_only_room_ends_as_a_dead_letter_and_the_room_goes_on(
    begin: Callable[..., Afternoon],
) -> None:
    steps = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120))
    day = begin(retry_schedule=steps)
    day.store.track("room")
    key = day.subscribe("poisoned")
    day.receiver.script(Response(status=500, when=to("poisoned", "room", 1)))
    for _ in range(3):
        day.happen("room")
        day.seconds += 10
    while day.seconds < HOUR:
        await day.send()
        day.seconds += MINUTE

    assert sorted(set(day.took("poisoned", "room"))) == [one for one in day.log("room") if one != 1]
    (dead,) = day.store.dead_letters()
    assert (dead.endpoint_key, dead.reason) == (key, "exhausted")
    assert dead.tries >= len(steps) + 1
    assert day.circuit(key) == "closed"

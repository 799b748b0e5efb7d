"""The sender, step by step: a real database, a receiver on loopback, and a clock that the test moves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.db.tables import endpoints
from bridge.delivery.client import WebhookClient
from bridge.delivery.endpoints import EndpointSpec, configure_endpoints
from bridge.delivery.replay import request_events
from bridge.delivery.sender import Sender
from bridge.rules.egress import EgressPolicy
from bridge.runtime import Runtime
from tests.harness.builders import at, peer, seen
from tests.harness.claimant import Claimant
from tests.harness.deliveries import duplicates
from tests.harness.receiver import SECRET, Delivery, Receiver, Response
from tests.harness.store_driver import StoreDriver
from tests.harness.waiting import until

LOOPBACK = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"),))


@dataclass(slots=True)
class Clock:
    """Stands still until it is moved."""

    seconds: float = 0

    def now(self) -> datetime:
        return at(self.seconds)


@dataclass(slots=True, kw_only=True)
class SenderSetup:
    """A database, a receiver, a clock and senders on them."""

    store: StoreDriver
    client: WebhookClient
    receiver: Receiver
    clock: Clock = field(default_factory=Clock)
    worker: Claimant = field(default_factory=Claimant)

    def sender(self) -> Sender:
        runtime = Runtime(now=self.clock.now, new_id=self.store.new_id, jitter=lambda: 0.5)
        return Sender(
            self.store.database, self.client, self.store.policy, runtime, self.worker, cipher=self.store.cipher
        )

    def subscribe(self, name: str = "crm", **spec: Any) -> int:  # noqa: ANN401 - fields of EndpointSpec
        return self.store.subscribe(name, **{"url": f"{self.receiver.url}/{name}", "secret": SECRET} | spec)

    def move(self, name: str, to: str) -> None:
        """Give an endpoint another URL, as a changed configuration does."""
        spec = EndpointSpec(name=name, url=f"{self.receiver.url}/{to}", secret=SECRET, events=("*",))
        self.store.write(configure_endpoints, [spec], self.store.context(self.clock.seconds))

    def replay(self, key: int, room: str) -> None:
        """Request all events of a room again."""
        ids = [event["id"] for event in self.store.log(room)]
        self.store.write(request_events, key, ids, self.clock.now())

    def health(self) -> Any:  # noqa: ANN401 - a row
        """The row of the only endpoint."""
        (row,) = self.store.rows(endpoints)
        return row

    def record_joins(self, *rooms: str, people: int = 2) -> None:
        """Record a room.occupied and `people` joins in each of the rooms."""
        self.store.track(*rooms, seconds=self.clock.seconds)
        snapshot = seen(*(peer(f"p{number}", -1) for number in range(people)))
        self.store.poll(self.clock.seconds, **dict.fromkeys(rooms, snapshot))

    def sequences(self, room: str, name: str = "crm") -> list[int]:
        """Sequences of the events of a room that an endpoint got, in order of arrival."""
        return [
            one.event["data"]["sequence"]
            for one in self.receiver.deliveries
            if one.room == room and one.path == f"/{name}"
        ]


def of_room(room: str, *sequences: int) -> Callable[[Delivery], bool]:
    return lambda one: one.room == room and (not sequences or one.event["data"]["sequence"] in sequences)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as subscriber:
        yield subscriber


@pytest.fixture
async def client() -> AsyncIterator[WebhookClient]:
    async with WebhookClient(LOOPBACK, user_agent="presence-bridge/test", clock=lambda: at(0)) as client:
        yield client


@pytest.fixture
def sending(sqlite_store: StoreDriver, client: WebhookClient, receiver: Receiver) -> SenderSetup:
    return SenderSetup(store=sqlite_store, client=client, receiver=receiver)


async def drain(sending: SenderSetup, sender: Sender | None = None) -> None:
    sender = sender or sending.sender()
    while await sender.tick():
        pass


async def test_owed_events_are_posted_in_order_and_signed(sending: SenderSetup) -> None:
    sending.subscribe(headers={"X-Auth": "yes"})
    sending.record_joins("a", people=3)
    sending.clock.seconds = 5

    assert await sending.sender().tick() == 1
    assert sending.sequences("a") == [1, 2, 3, 4]
    first = sending.receiver.deliveries[0]
    stored = sending.store.log("a")[0]
    assert first.event == stored
    assert first.event_id == stored["id"]
    stamp = int(at(5).timestamp())
    assert first.headers["webhook-timestamp"] == str(stamp)
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    content = f"{stored['id']}.{stamp}.".encode() + first.body
    signature = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    assert first.headers["webhook-signature"] == f"v1,{signature}"
    assert (first.headers["content-type"], first.headers["x-auth"]) == ("application/json", "yes")
    assert "bridge-replay" not in first.headers
    assert await sending.sender().tick() == 0


async def test_a_long_backlog_of_a_room_is_delivered_without_gaps(sending: SenderSetup) -> None:
    sending.subscribe()
    sending.record_joins("a", people=100)
    await drain(sending)

    assert sending.sequences("a") == list(range(1, 102))
    assert len(sending.store.attempts()) == 101


async def test_a_retry_has_the_same_id_and_body_and_a_fresh_signature(sending: SenderSetup) -> None:
    sending.subscribe()
    sending.record_joins("a")
    sending.receiver.script(Response(status=500, times=1))
    await drain(sending)
    assert sending.sequences("a") == [1], "the next event must wait for the one before"
    sending.clock.seconds = 4.9
    await drain(sending)
    assert sending.sequences("a") == [1]
    sending.clock.seconds = 5
    await drain(sending)

    first, again, *_ = sending.receiver.deliveries
    assert sending.sequences("a") == [1, 1, 2, 3]
    assert (first.event_id, first.body) == (again.event_id, again.body)
    assert first.headers["webhook-timestamp"] != again.headers["webhook-timestamp"]
    assert first.headers["webhook-signature"] != again.headers["webhook-signature"]


async def test_a_failing_event_stops_its_room_until_it_is_delivered(sending: SenderSetup) -> None:
    key = sending.subscribe()
    sending.record_joins("a", people=8)
    sending.receiver.script(Response(status=500, when=of_room("a", 4), times=2))
    await drain(sending)

    assert sending.sequences("a") == [1, 2, 3, 4]
    assert sending.store.cursor(key, "a").acked == 3
    sending.clock.seconds = 100
    await drain(sending)
    sending.clock.seconds = 200
    await drain(sending)
    assert sending.sequences("a") == [1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9]
    assert duplicates(sending.receiver.deliveries) == []


async def test_a_failing_room_delays_no_other_room_and_no_other_endpoint(sending: SenderSetup) -> None:
    sending.subscribe("crm")
    sending.subscribe("other")
    sending.record_joins("a", "b")
    sending.receiver.script(Response(status=500, when=lambda one: one.room == "a" and one.path == "/crm"))
    await drain(sending)

    assert set(sending.sequences("a")) == {1}, "none of its later events may overtake it"
    assert sending.sequences("b") == sending.sequences("a", "other") == sending.sequences("b", "other") == [1, 2, 3]


async def test_a_rejected_event_becomes_a_dead_letter_and_its_room_goes_on(sending: SenderSetup) -> None:
    sending.subscribe()
    sending.record_joins("a")
    sending.receiver.script(Response(status=422, when=of_room("a", 2)))
    for seconds in (0, 5, 305):
        sending.clock.seconds = seconds
        await drain(sending)

    assert sending.sequences("a") == [1, 2, 2, 2, 3]
    assert len(sending.store.dead_letters()) == 1


async def test_after_a_410_nothing_more_is_posted(sending: SenderSetup) -> None:
    key = sending.subscribe()
    sending.record_joins("a", "b", people=10)
    sending.receiver.script(Response(status=410, when=of_room("a")), Response(pause=True, when=of_room("b", 1)))
    ticking = asyncio.create_task(sending.sender().tick())
    await until(lambda: any(one.status == 410 for one in sending.receiver.deliveries))
    await until(lambda: sending.store.attempts() != [])
    sending.receiver.release()
    await ticking

    assert sending.sequences("b") == [1], "no event after the one under way"
    assert sending.store.cursor(key, "a").acked == 0


async def test_a_retry_after_pauses_the_other_rooms_of_the_endpoint(sending: SenderSetup) -> None:
    sending.subscribe()
    sending.record_joins("a", "b", people=10)
    busy = Response(status=429, headers={"Retry-After": "60"}, when=of_room("a"), times=1)
    sending.receiver.script(busy, Response(pause=True, when=of_room("b", 1), times=1))
    ticking = asyncio.create_task(sending.sender().tick())
    await until(lambda: sending.store.attempts() != [])
    sending.receiver.release()
    await ticking

    assert sending.sequences("b") == [1], "no event after the one under way"
    sending.clock.seconds = 60
    await drain(sending)
    assert sorted({*sending.sequences("b")}) == list(range(1, 12))
    assert sorted({*sending.sequences("a")}) == list(range(1, 12))


async def test_a_claim_that_another_sender_took_over_posts_nothing_more(sending: SenderSetup) -> None:
    """As after SIGSTOP: this process was declared dead, and another sender has claimed the cursor."""
    sending.subscribe()
    sending.record_joins("a", people=6)
    sending.receiver.script(Response(pause=True, times=1))
    ticking = asyncio.create_task(sending.sender().tick())
    await until(lambda: len(sending.receiver.deliveries) == 1)
    sending.store.lose_claims()
    await drain(sending)
    assert sending.sequences("a") == [1, 1, 2, 3, 4, 5, 6, 7]
    attempts = len(sending.store.attempts())
    with capture_logs() as logs:
        sending.receiver.release()
        await ticking

    assert len(sending.receiver.deliveries) == 8
    assert len(sending.store.attempts()) == attempts
    assert [line["fenced"] for line in logs if line["event"] == "delivery.attempted"] == [True]


async def test_a_claim_that_may_be_lost_is_given_back(sending: SenderSetup) -> None:
    """As after SIGSTOP, before it is known whether this process was declared dead."""
    sending.subscribe()
    sending.record_joins("a", people=6)
    sending.receiver.script(Response(pause=True, times=1))
    ticking = asyncio.create_task(sending.sender().tick())
    await until(lambda: len(sending.receiver.deliveries) == 1)
    sending.worker.frozen = True
    sending.receiver.release()
    await ticking
    assert sending.sequences("a") == [1]
    sending.worker.frozen = False
    await drain(sending)

    assert sending.sequences("a") == [1, 2, 3, 4, 5, 6, 7]


async def test_a_stop_finishes_the_event_under_way_and_posts_nothing_more(sending: SenderSetup) -> None:
    key = sending.subscribe()
    sending.record_joins("a", people=10)
    sending.receiver.script(Response(pause=True, times=1))
    sender = sending.sender()
    running = asyncio.create_task(sender.run())
    sender.wake()
    await until(lambda: len(sending.receiver.deliveries) == 1)
    stopping = asyncio.create_task(sender.stop(30))
    await asyncio.sleep(0)
    sending.receiver.release()

    assert await stopping == 0
    await running
    assert sending.sequences("a") == [1]
    assert sending.store.cursor(key, "a").acked == 1
    await drain(sending)
    assert sending.sequences("a") == list(range(1, 12)), "the rest is due at once"


async def test_an_event_that_a_stop_cancels_is_due_again_at_once(sending: SenderSetup) -> None:
    sending.subscribe()
    sending.record_joins("a")
    sending.receiver.script(Response(pause=True, times=1))
    sender = sending.sender()
    running = asyncio.create_task(sender.run())
    sender.wake()
    await until(lambda: len(sending.receiver.deliveries) == 1)

    assert await sender.stop(0.01) == 1
    await running
    await drain(sending)
    assert sending.sequences("a") == [1, 1, 2, 3]


@pytest.mark.parametrize(("grace", "cancelled", "again"), [(30, 0, [2, 3]), (0.01, 1, [1, 2, 3])])
async def test_redeliveries_that_a_stop_leaves_are_due_again_at_once(
    grace: float, cancelled: int, again: list[int], sending: SenderSetup
) -> None:
    key = sending.subscribe()
    sending.record_joins("a")
    await drain(sending)
    sending.replay(key, "a")
    sending.receiver.script(Response(pause=True, times=1))
    sender = sending.sender()
    running = asyncio.create_task(sender.run())
    sender.wake(redeliveries=True)
    await until(lambda: len(sending.receiver.deliveries) == 4)
    stopping = asyncio.create_task(sender.stop(grace))
    if not cancelled:
        await asyncio.sleep(0)
        sending.receiver.release()

    assert await stopping == cancelled
    await running
    assert len(sending.receiver.deliveries) == 4, "nothing is posted after the stop"
    await drain(sending)
    assert sending.sequences("a") == [1, 2, 3, 1, *again]


async def move_while_one_waits(sending: SenderSetup, response: Response) -> None:
    """Change the URL of endpoint `old` while a request waits for its response; then deliver what is owed."""
    count = len(sending.receiver.deliveries)
    sending.receiver.script(replace(response, pause=True, times=1))
    sender = sending.sender()
    ticking = asyncio.create_task(sender.tick())
    await until(lambda: len(sending.receiver.deliveries) == count + 1)
    sending.move("old", to="new")
    sending.receiver.release()
    await ticking
    await drain(sending, sender)


@pytest.mark.parametrize("response", [Response(status=410), Response(status=429, headers={"Retry-After": "3600"})])
async def test_a_failure_at_an_old_url_does_not_count(response: Response, sending: SenderSetup) -> None:
    sending.subscribe("old")
    sending.record_joins("a")
    await move_while_one_waits(sending, response)

    assert (sending.sequences("a", "old"), sending.sequences("a", "new")) == ([1], [1, 2, 3])
    health = sending.health()
    assert (health.state, health.paused_until, health.failures_in_row) == ("active", None, 0)


@pytest.mark.parametrize("response", [Response(status=410), Response(status=429, headers={"Retry-After": "3600"})])
async def test_a_failed_redelivery_at_an_old_url_does_not_count(response: Response, sending: SenderSetup) -> None:
    key = sending.subscribe("old")
    sending.record_joins("a")
    await drain(sending)
    sending.replay(key, "a")
    await move_while_one_waits(sending, response)

    assert sending.sequences("a", "new") == [1, 2, 3]


async def test_an_event_that_the_old_url_accepted_is_not_sent_to_the_new_one(sending: SenderSetup) -> None:
    sending.subscribe("old")
    sending.record_joins("a")
    await move_while_one_waits(sending, Response())

    assert (sending.sequences("a", "old"), sending.sequences("a", "new")) == ([1], [2, 3])


async def test_two_senders_share_the_work_in_order(
    postgresql_store: StoreDriver, client: WebhookClient, receiver: Receiver
) -> None:
    sending = SenderSetup(store=postgresql_store, client=client, receiver=receiver)
    sending.subscribe()
    names = [f"r{number}" for number in range(12)]
    sending.record_joins(*names, people=5)
    await asyncio.gather(drain(sending, sending.sender()), drain(sending, sending.sender()))

    assert all(sending.sequences(name) == [1, 2, 3, 4, 5, 6] for name in names)
    assert duplicates(receiver.deliveries) == []


async def test_an_endpoint_that_is_down_keeps_its_backlog_and_gets_it_in_order(sending: SenderSetup) -> None:
    sending.subscribe()
    names = [f"r{number}" for number in range(6)]
    sending.record_joins(*names, people=3)
    sending.receiver.script(Response(status=503))
    for seconds in range(0, 600, 20):
        sending.clock.seconds = seconds
        await drain(sending)
    during = len(sending.receiver.deliveries)
    sending.receiver.script()
    sending.clock.seconds = 1200
    await drain(sending)

    assert during < 30, "an open circuit is only probed"
    for name in names:
        accepted = [one for one in sending.receiver.accepted if one.room == name]
        assert [one.event["data"]["sequence"] for one in accepted] == [1, 2, 3, 4]


async def test_a_rate_is_kept_and_no_event_is_lost(sending: SenderSetup) -> None:
    sending.subscribe(rate_per_second=4)
    sending.record_joins("a", "b", people=4)
    posted = []
    for step in range(25):
        sending.clock.seconds = step / 4
        await drain(sending)
        posted.append(len(sending.receiver.deliveries))

    assert all(count <= step + 1 for step, count in enumerate(posted))
    assert sending.sequences("a") == sending.sequences("b") == [1, 2, 3, 4, 5]


async def test_each_attempt_is_logged_once(sending: SenderSetup) -> None:
    sending.subscribe()
    sending.record_joins("a", people=1)
    sending.receiver.script(Response(status=500, times=1))
    with capture_logs() as logs:
        await drain(sending)
        sending.clock.seconds = 10
        await drain(sending)

    lines = [line for line in logs if line["event"] == "delivery.attempted"]
    assert [(line["log_level"], line["sequence"], line["status"]) for line in lines] == [
        ("warning", 1, 500),
        ("info", 1, 200),
        ("info", 2, 200),
    ]
    assert all(SECRET not in str(line) for line in logs)


async def test_an_endpoint_can_have_its_own_timeout(sending: SenderSetup) -> None:
    sending.subscribe(timeout=timedelta(milliseconds=50))
    sending.record_joins("a")
    sending.receiver.script(Response(pause=True, times=1))
    await drain(sending)

    (attempt,) = sending.store.attempts()
    assert (attempt.outcome, attempt.cause) == ("retryable", "timeout")
    sending.receiver.release()

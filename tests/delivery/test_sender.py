"""The sender, step by step: a real database, a receiver on loopback, and a clock that the test moves."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.db.tables import endpoints
from bridge.delivery.client import WebhookClient
from bridge.delivery.endpoints import EndpointSpec, configure_endpoints
from bridge.delivery.replay import request_events
from bridge.delivery.sender import Sender
from bridge.runtime import Runtime
from tests.harness.builders import at
from tests.harness.claimant import Claimant
from tests.harness.receiver import SECRET, Delivery, Receiver, Response
from tests.harness.store_driver import StoreDriver
from tests.harness.waiting import until


@dataclass(slots=True, kw_only=True)
class SenderSetup:
    """A database, a receiver, a clock that only moves when it is set, and senders on them."""

    store: StoreDriver
    client: WebhookClient
    receiver: Receiver
    seconds: float = 0
    worker: Claimant = field(default_factory=Claimant)

    def now(self) -> datetime:
        return at(self.seconds)

    def sender(self) -> Sender:
        runtime = Runtime(now=self.now, new_id=self.store.new_id, jitter=lambda: 0.5)
        return Sender(
            self.store.database, self.client, self.store.policy, runtime, self.worker, cipher=self.store.cipher
        )

    def subscribe(self, name: str = "crm", **spec: Any) -> int:  # noqa: ANN401 - fields of EndpointSpec
        return self.store.subscribe(name, **{"url": f"{self.receiver.url}/{name}", "secret": SECRET} | spec)

    def move(self, name: str, to: str) -> None:
        """Give an endpoint another URL, as a changed configuration does."""
        spec = EndpointSpec(name=name, url=f"{self.receiver.url}/{to}", secret=SECRET, events=("*",))
        self.store.write(configure_endpoints, [spec], self.store.context(self.seconds))

    def replay(self, key: int, room: str) -> None:
        """Request all events of a room again."""
        ids = [event["id"] for event in self.store.log(room)]
        self.store.write(request_events, key, ids, self.now())

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
def sending(sqlite_store: StoreDriver, client: WebhookClient, receiver: Receiver) -> SenderSetup:
    return SenderSetup(store=sqlite_store, client=client, receiver=receiver)


async def drain(sending: SenderSetup, sender: Sender | None = None) -> None:
    sender = sender or sending.sender()
    while await sender.tick():
        pass


async def test_owed_events_are_posted_in_order_and_signed(sending: SenderSetup) -> None:
    sending.subscribe(headers={"X-Auth": "yes"})
    sending.store.record_joins(0, "a", people=3)
    sending.seconds = 5

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


async def test_a_retry_has_the_same_id_and_body_and_a_fresh_signature(sending: SenderSetup) -> None:
    sending.subscribe()
    sending.store.record_joins(0, "a")
    sending.receiver.script(Response(status=500, times=1))
    await drain(sending)
    assert sending.sequences("a") == [1], "the next event must wait for the one before"
    sending.seconds = 4.9
    await drain(sending)
    assert sending.sequences("a") == [1]
    sending.seconds = 5
    await drain(sending)

    first, again, *_ = sending.receiver.deliveries
    assert sending.sequences("a") == [1, 1, 2, 3]
    assert (first.event_id, first.body) == (again.event_id, again.body)
    assert first.headers["webhook-timestamp"] != again.headers["webhook-timestamp"]
    assert first.headers["webhook-signature"] != again.headers["webhook-signature"]


async def test_a_failing_room_delays_no_other_room_and_no_other_endpoint(sending: SenderSetup) -> None:
    sending.subscribe("crm")
    sending.subscribe("other")
    sending.store.record_joins(0, "a", "b")
    sending.receiver.script(Response(status=500, when=lambda one: one.room == "a" and one.path == "/crm"))
    await drain(sending)

    assert set(sending.sequences("a")) == {1}, "none of its later events may overtake it"
    assert sending.sequences("b") == sending.sequences("a", "other") == sending.sequences("b", "other") == [1, 2, 3]


@pytest.mark.parametrize("response", [Response(status=410), Response(status=429, headers={"Retry-After": "60"})])
async def test_after_a_410_or_a_retry_after_nothing_more_is_posted(response: Response, sending: SenderSetup) -> None:
    sending.subscribe()
    sending.store.record_joins(0, "a", "b", people=10)
    sending.receiver.script(replace(response, when=of_room("a")), Response(pause=True, when=of_room("b", 1)))
    ticking = asyncio.create_task(sending.sender().tick())
    await until(lambda: sending.store.attempts() != [])
    sending.receiver.release()
    await ticking

    assert (sending.sequences("a"), sending.sequences("b")) == ([1], [1]), "no event after the one under way"


async def test_a_claim_that_another_sender_took_over_posts_nothing_more(sending: SenderSetup) -> None:
    """As after SIGSTOP: this process was declared dead, and another sender has claimed the cursor."""
    sending.subscribe()
    sending.store.record_joins(0, "a", people=6)
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
    sending.store.record_joins(0, "a", people=6)
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


@pytest.mark.parametrize("redelivery", [False, True])
@pytest.mark.parametrize(("grace", "cancelled", "again"), [(30, 0, [2, 3]), (0.01, 1, [1, 2, 3])])
async def test_what_a_stop_leaves_is_due_again_at_once(
    sending: SenderSetup, grace: float, cancelled: int, again: list[int], *, redelivery: bool
) -> None:
    key = sending.subscribe()
    sending.store.record_joins(0, "a")
    if redelivery:
        await drain(sending)
        sending.replay(key, "a")
    posted = sending.sequences("a")
    sending.receiver.script(Response(pause=True, times=1))
    sender = sending.sender()
    running = asyncio.create_task(sender.run())
    sender.wake(redeliveries=redelivery)
    await until(lambda: len(sending.receiver.deliveries) == len(posted) + 1)
    stopping = asyncio.create_task(sender.stop(grace))
    if not cancelled:
        await asyncio.sleep(0)
        sending.receiver.release()

    assert await stopping == cancelled
    await running
    assert sending.sequences("a") == [*posted, 1], "nothing is posted after the stop"
    await drain(sending)
    assert sending.sequences("a") == [*posted, 1, *again]


@pytest.mark.parametrize("redelivery", [False, True])
@pytest.mark.parametrize(
    ("response", "again"),
    [
        (Response(status=410), [1, 2, 3]),
        (Response(status=429, headers={"Retry-After": "3600"}), [1, 2, 3]),
        (Response(), [2, 3]),
    ],
    ids=["gone", "busy", "accepted"],
)
async def test_only_a_success_counts_of_a_request_to_an_old_url(
    sending: SenderSetup, response: Response, again: list[int], *, redelivery: bool
) -> None:
    key = sending.subscribe("old")
    sending.store.record_joins(0, "a")
    if redelivery:
        await drain(sending)
        sending.replay(key, "a")
    count = len(sending.receiver.deliveries)
    sending.receiver.script(replace(response, pause=True, times=1))
    sender = sending.sender()
    ticking = asyncio.create_task(sender.tick())
    await until(lambda: len(sending.receiver.deliveries) == count + 1)
    sending.move("old", to="new")
    sending.receiver.release()
    await ticking
    await drain(sending, sender)

    assert (len(sending.sequences("a", "old")), sending.sequences("a", "new")) == (count + 1, again)
    (health,) = sending.store.rows(endpoints)
    assert (health.state, health.paused_until, health.failures_in_row) == ("active", None, 0)


async def test_each_attempt_is_logged_once(sending: SenderSetup) -> None:
    sending.subscribe()
    sending.store.record_joins(0, "a", people=1)
    sending.receiver.script(Response(status=500, times=1))
    with capture_logs() as logs:
        await drain(sending)
        sending.seconds = 10
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
    sending.store.record_joins(0, "a")
    sending.receiver.script(Response(pause=True, times=1))
    await drain(sending)

    (attempt,) = sending.store.attempts()
    assert (attempt.outcome, attempt.cause) == ("retryable", "timeout")
    sending.receiver.release()

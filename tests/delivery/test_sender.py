"""The sender, stepwise: a database for real, a receiver on loopback, time as a variable."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.db.engine import Database
from bridge.db.tables import endpoints
from bridge.delivery.client import WebhookClient
from bridge.delivery.endpoints import EndpointSpec, configure_endpoints
from bridge.delivery.replay import request_events
from bridge.delivery.sender import SLOTS, Sender
from bridge.rules.egress import EgressPolicy
from bridge.runtime import Runtime
from tests.harness import postgres
from tests.harness.builders import at, peer, seen
from tests.harness.deliveries import duplicates
from tests.harness.receiver import SECRET, Delivery, Receiver, Response
from tests.harness.store_driver import StoreDriver, copied_sqlite, migrated_postgresql, migrated_sqlite
from tests.harness.waiting import until

LOOPBACK = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"),))


@dataclass(slots=True)
class Clock:
    """Stands still until it is moved."""

    seconds: float = 0

    def now(self) -> datetime:
        return at(self.seconds)


@dataclass(slots=True, kw_only=True)
class Scene:
    """Everything a sender needs."""

    store: StoreDriver
    client: WebhookClient
    receiver: Receiver
    clock: Clock = field(default_factory=Clock)

    def sender(self, clock: Clock | None = None, *, slots: int = SLOTS) -> Sender:
        now = (clock or self.clock).now
        runtime = Runtime(now=now, new_id=self.store.new_id, new_token=self.store.token, jitter=lambda: 0.5)
        return Sender(
            self.store.database, self.client, self.store.policy, runtime, cipher=self.store.cipher, slots=slots
        )

    def subscribe(self, name: str = "crm", **spec: Any) -> int:  # noqa: ANN401 - fields of EndpointSpec
        return self.store.subscribe(name, **{"url": f"{self.receiver.url}/{name}", "secret": SECRET} | spec)

    def move(self, name: str, to: str) -> None:
        """The configuration names another URL for an endpoint now."""
        spec = EndpointSpec(name=name, url=f"{self.receiver.url}/{to}", secret=SECRET, events=("*",))
        self.store.write(configure_endpoints, [spec], self.store.context(self.clock.seconds))

    def replay(self, key: int, room: str) -> None:
        """Ask for all of a room to be sent to an endpoint again."""
        ids = [event["id"] for event in self.store.log(room)]
        self.store.write(request_events, key, ids, self.clock.now())

    def health(self) -> Any:  # noqa: ANN401 - a row
        """How the only endpoint is doing."""
        (row,) = self.store.rows(endpoints)
        return row

    def happen(self, *rooms: str, people: int = 2) -> None:
        """A room.occupied and `people` joins in each of the rooms."""
        self.store.track(*rooms, seconds=self.clock.seconds)
        snapshot = seen(*(peer(f"p{number}", -1) for number in range(people)))
        self.store.poll(self.clock.seconds, **dict.fromkeys(rooms, snapshot))

    def sequences(self, room: str, name: str = "crm") -> list[int]:
        """What was posted of a room to an endpoint, in order of arrival."""
        return [
            one.event["data"]["sequence"]
            for one in self.receiver.deliveries
            if one.room == room and one.path == f"/{name}"
        ]


def of_room(room: str, *sequences: int) -> Callable[[Delivery], bool]:
    return lambda one: one.room == room and (not sequences or one.event["data"]["sequence"] in sequences)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return migrated_sqlite(tmp_path_factory.mktemp("template"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as subscriber:
        yield subscriber


@pytest.fixture
async def client() -> AsyncIterator[WebhookClient]:
    async with WebhookClient(LOOPBACK, user_agent="presence-bridge/test", clock=lambda: at(0)) as client:
        yield client


@pytest.fixture
def scene(template: Path, tmp_path: Path, client: WebhookClient, receiver: Receiver) -> Iterator[Scene]:
    database = Database(copied_sqlite(template, tmp_path))
    yield Scene(store=StoreDriver(database=database), client=client, receiver=receiver)
    database.close()


async def drain(scene: Scene, sender: Sender | None = None) -> None:
    sender = sender or scene.sender()
    while await sender.tick():
        pass


async def test_what_is_owed_is_posted_in_order_and_signed(scene: Scene) -> None:
    scene.subscribe(headers={"X-Auth": "yes"})
    scene.happen("a", people=3)
    scene.clock.seconds = 5

    assert await scene.sender().tick() == 1
    assert scene.sequences("a") == [1, 2, 3, 4]
    first = scene.receiver.deliveries[0]
    stored = scene.store.log("a")[0]
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
    assert await scene.sender().tick() == 0


async def test_a_long_line_is_worked_off_without_gaps(scene: Scene) -> None:
    scene.subscribe()
    scene.happen("a", people=100)
    await drain(scene)

    assert scene.sequences("a") == list(range(1, 102))
    assert len(scene.store.attempts()) == 101


async def test_another_try_carries_the_same_id_and_bytes_and_a_fresh_signature(scene: Scene) -> None:
    scene.subscribe()
    scene.happen("a")
    scene.receiver.script(Response(status=500, times=1))
    await drain(scene)
    assert scene.sequences("a") == [1], "the next event must wait for the one before"
    scene.clock.seconds = 4.9
    await drain(scene)
    assert scene.sequences("a") == [1]
    scene.clock.seconds = 5
    await drain(scene)

    first, again, *_ = scene.receiver.deliveries
    assert scene.sequences("a") == [1, 1, 2, 3]
    assert (first.event_id, first.body) == (again.event_id, again.body)
    assert first.headers["webhook-timestamp"] != again.headers["webhook-timestamp"]
    assert first.headers["webhook-signature"] != again.headers["webhook-signature"]


async def test_trouble_in_the_middle_of_a_line_stops_it_there(scene: Scene) -> None:
    key = scene.subscribe()
    scene.happen("a", people=8)
    scene.receiver.script(Response(status=500, when=of_room("a", 4), times=2))
    await drain(scene)

    assert scene.sequences("a") == [1, 2, 3, 4]
    assert scene.store.cursor(key, "a").acked == 3
    scene.clock.seconds = 100
    await drain(scene)
    scene.clock.seconds = 200
    await drain(scene)
    assert scene.sequences("a") == [1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9]
    assert duplicates(scene.receiver.deliveries) == []


async def test_one_rooms_trouble_delays_no_other_room_and_no_other_endpoint(scene: Scene) -> None:
    scene.subscribe("crm")
    scene.subscribe("other")
    scene.happen("a", "b")
    scene.receiver.script(Response(status=500, when=lambda one: one.room == "a" and one.path == "/crm"))
    await drain(scene)

    assert set(scene.sequences("a")) == {1}, "none of its later events may overtake it"
    assert scene.sequences("b") == scene.sequences("a", "other") == scene.sequences("b", "other") == [1, 2, 3]


async def test_a_refused_event_is_parked_and_its_room_goes_on(scene: Scene) -> None:
    scene.subscribe()
    scene.happen("a")
    scene.receiver.script(Response(status=422, when=of_room("a", 2)))
    for seconds in (0, 5, 305):
        scene.clock.seconds = seconds
        await drain(scene)

    assert scene.sequences("a") == [1, 2, 2, 2, 3]
    assert len(scene.store.dead_letters()) == 1


async def test_gone_ends_all_posting_at_once(scene: Scene) -> None:
    key = scene.subscribe()
    scene.happen("a", "b", people=10)
    scene.receiver.script(Response(status=410, when=of_room("a")), Response(hold=True, when=of_room("b", 1)))
    ticking = asyncio.create_task(scene.sender().tick())
    await until(lambda: any(one.status == 410 for one in scene.receiver.deliveries))
    await until(lambda: scene.store.attempts() != [])
    scene.receiver.release()
    await ticking

    assert len(scene.sequences("b")) <= 2, "the endpoint said that it is gone; one may have been on its way"
    assert scene.store.cursor(key, "a").acked == 0


async def test_retry_after_silences_the_other_lines_of_the_endpoint(scene: Scene) -> None:
    scene.subscribe()
    scene.happen("a", "b", people=10)
    busy = Response(status=429, headers={"Retry-After": "60"}, when=of_room("a"), times=1)
    scene.receiver.script(busy, Response(hold=True, when=of_room("b", 1), times=1))
    ticking = asyncio.create_task(scene.sender().tick())
    await until(lambda: scene.store.attempts() != [])
    scene.receiver.release()
    await ticking

    assert len(scene.sequences("b")) <= 2, "`Retry-After` speaks for the endpoint; one may have been on its way"
    scene.clock.seconds = 60
    await drain(scene)
    assert sorted({*scene.sequences("b")}) == list(range(1, 12))
    assert sorted({*scene.sequences("a")}) == list(range(1, 12))


async def test_a_line_that_was_overtaken_posts_nothing_more(scene: Scene) -> None:
    """As after SIGSTOP: it wakes up when its lease is over and another sender has been there."""
    scene.subscribe()
    scene.happen("a", people=6)
    scene.receiver.script(Response(hold=True, times=1))
    sleeping = asyncio.create_task(scene.sender().tick())
    await until(lambda: len(scene.receiver.deliveries) == 1)
    scene.clock.seconds = 3600
    await drain(scene)
    assert scene.sequences("a") == [1, 1, 2, 3, 4, 5, 6, 7]
    attempts = len(scene.store.attempts())
    with capture_logs() as logs:
        scene.receiver.release()
        await sleeping

    assert len(scene.receiver.deliveries) <= 8 + 1, "one more may have been on its way while the first was recorded"
    assert len(scene.store.attempts()) == attempts
    assert any(line.get("fenced") for line in logs)


async def test_a_line_that_nobody_took_over_goes_on_and_loses_nothing(scene: Scene) -> None:
    scene.subscribe()
    scene.happen("a", people=6)
    scene.receiver.script(Response(hold=True, times=1))
    sleeping = asyncio.create_task(scene.sender().tick())
    await until(lambda: len(scene.receiver.deliveries) == 1)
    scene.clock.seconds = 3600
    scene.receiver.release()
    await sleeping
    await drain(scene)

    assert scene.sequences("a") == [1, 2, 3, 4, 5, 6, 7]


async def test_stopping_finishes_the_event_in_flight_and_starts_no_line(scene: Scene) -> None:
    key = scene.subscribe()
    scene.happen("a", people=10)
    scene.receiver.script(Response(hold=True, times=1))
    sender = scene.sender()
    running = asyncio.create_task(sender.run())
    sender.wake()
    await until(lambda: len(scene.receiver.deliveries) == 1)
    stopping = asyncio.create_task(sender.stop(30))
    await asyncio.sleep(0)
    scene.receiver.release()

    assert await stopping == 0
    await running
    assert scene.sequences("a") == [1]
    assert scene.store.cursor(key, "a").acked == 1
    await drain(scene)
    assert scene.sequences("a") == list(range(1, 12)), "what is left is due at once for whoever comes next"


async def test_a_line_that_stopping_drops_is_due_again_at_once(scene: Scene) -> None:
    scene.subscribe()
    scene.happen("a")
    scene.receiver.script(Response(hold=True, times=1))
    sender = scene.sender()
    running = asyncio.create_task(sender.run())
    sender.wake()
    await until(lambda: len(scene.receiver.deliveries) == 1)

    assert await sender.stop(0.01) == 1
    await running
    await drain(scene)
    assert scene.sequences("a") == [1, 1, 2, 3]


@pytest.mark.parametrize(("grace", "dropped", "again"), [(30, 0, [2, 3]), (0.01, 1, [1, 2, 3])])
async def test_redeliveries_that_stopping_leaves_are_due_again_at_once(
    grace: float, dropped: int, again: list[int], scene: Scene
) -> None:
    key = scene.subscribe()
    scene.happen("a")
    await drain(scene)
    scene.replay(key, "a")
    scene.receiver.script(Response(hold=True, times=1))
    sender = scene.sender()
    running = asyncio.create_task(sender.run())
    sender.wake()
    await until(lambda: len(scene.receiver.deliveries) == 4)
    stopping = asyncio.create_task(sender.stop(grace))
    if not dropped:
        await asyncio.sleep(0)
        scene.receiver.release()

    assert await stopping == dropped
    await running
    assert len(scene.receiver.deliveries) == 4, "nothing is begun after the word to stop"
    await drain(scene)
    assert scene.sequences("a") == [1, 2, 3, 1, *again]


async def test_more_seats_are_used_at_once(scene: Scene) -> None:
    scene.subscribe()
    scene.happen("a", "b")
    scene.receiver.script(Response(hold=True))
    sender = scene.sender(slots=1)
    running = asyncio.create_task(sender.run())
    sender.wake()
    await until(lambda: len(scene.receiver.deliveries) == 1)
    assert sender.busy == 1
    sender.resize(2)
    await until(lambda: len(scene.receiver.deliveries) == 2)

    assert sender.busy == 2
    scene.receiver.release()
    assert await sender.stop(30) == 0
    await running


async def move_while_one_waits(scene: Scene, response: Response) -> None:
    """The endpoint `old` gets another URL before it has answered a request; then whatever is owed is sent."""
    count = len(scene.receiver.deliveries)
    scene.receiver.script(replace(response, hold=True, times=1))
    sender = scene.sender()
    ticking = asyncio.create_task(sender.tick())
    await until(lambda: len(scene.receiver.deliveries) == count + 1)
    scene.move("old", to="new")
    scene.receiver.release()
    await ticking
    await drain(scene, sender)


@pytest.mark.parametrize("response", [Response(status=410), Response(status=429, headers={"Retry-After": "3600"})])
async def test_what_the_old_address_of_an_endpoint_refuses_does_not_count(response: Response, scene: Scene) -> None:
    scene.subscribe("old")
    scene.happen("a")
    await move_while_one_waits(scene, response)

    assert (scene.sequences("a", "old"), scene.sequences("a", "new")) == ([1], [1, 2, 3])
    health = scene.health()
    assert (health.state, health.paused_until, health.failures_in_row) == ("active", None, 0)


@pytest.mark.parametrize("response", [Response(status=410), Response(status=429, headers={"Retry-After": "3600"})])
async def test_what_the_old_address_refuses_of_a_replay_does_not_count(response: Response, scene: Scene) -> None:
    key = scene.subscribe("old")
    scene.happen("a")
    await drain(scene)
    scene.replay(key, "a")
    await move_while_one_waits(scene, response)

    assert scene.sequences("a", "new") == [1, 2, 3]


async def test_what_the_old_address_of_an_endpoint_accepted_is_not_sent_to_the_new_one(scene: Scene) -> None:
    scene.subscribe("old")
    scene.happen("a")
    await move_while_one_waits(scene, Response())

    old, new = scene.sequences("a", "old"), scene.sequences("a", "new")
    assert old + new == [1, 2, 3]
    assert len(old) <= 2, "one more may have been on its way while the first was recorded"


async def test_two_senders_share_the_work_in_order(
    postgres_url: str, client: WebhookClient, receiver: Receiver
) -> None:
    url = postgres.create_database(postgres_url, template=migrated_postgresql(postgres_url))
    store = StoreDriver(database=Database(url))
    scene = Scene(store=store, client=client, receiver=receiver)
    scene.subscribe()
    names = [f"r{number}" for number in range(12)]
    scene.happen(*names, people=5)
    await asyncio.gather(drain(scene, scene.sender()), drain(scene, scene.sender()))

    assert all(scene.sequences(name) == [1, 2, 3, 4, 5, 6] for name in names)
    assert duplicates(receiver.deliveries) == []
    store.database.close()
    postgres.drop_database(url)


async def test_an_endpoint_that_is_down_keeps_its_backlog_and_gets_it_in_order(scene: Scene) -> None:
    scene.subscribe()
    names = [f"r{number}" for number in range(6)]
    scene.happen(*names, people=3)
    scene.receiver.script(Response(status=503))
    for seconds in range(0, 600, 20):
        scene.clock.seconds = seconds
        await drain(scene)
    during = len(scene.receiver.deliveries)
    scene.receiver.script()
    scene.clock.seconds = 1200
    await drain(scene)

    assert during < 30, "an open circuit is probed, not stormed"
    for name in names:
        accepted = [one for one in scene.receiver.accepted if one.room == name]
        assert [one.event["data"]["sequence"] for one in accepted] == [1, 2, 3, 4]


async def test_a_rate_is_kept_and_nothing_is_lost_by_it(scene: Scene) -> None:
    scene.subscribe(rate_per_second=4)
    scene.happen("a", "b", people=4)
    posted = []
    for step in range(25):
        scene.clock.seconds = step / 4
        await drain(scene)
        posted.append(len(scene.receiver.deliveries))

    assert all(count <= step + 1 for step, count in enumerate(posted))
    assert scene.sequences("a") == scene.sequences("b") == [1, 2, 3, 4, 5]


async def test_each_attempt_is_said_once(scene: Scene) -> None:
    scene.subscribe()
    scene.happen("a", people=1)
    scene.receiver.script(Response(status=500, times=1))
    with capture_logs() as logs:
        await drain(scene)
        scene.clock.seconds = 10
        await drain(scene)

    lines = [line for line in logs if line["event"] == "delivery.attempted"]
    assert [(line["log_level"], line["sequence"], line["status"]) for line in lines] == [
        ("warning", 1, 500),
        ("info", 1, 200),
        ("info", 2, 200),
    ]
    assert all(SECRET not in str(line) for line in logs)


async def test_a_time_out_is_the_endpoints_own(scene: Scene) -> None:
    scene.subscribe(timeout=timedelta(milliseconds=50))
    scene.happen("a")
    scene.receiver.script(Response(hold=True, times=1))
    await drain(scene)

    (attempt,) = scene.store.attempts()
    assert (attempt.outcome, attempt.cause) == ("retryable", "timeout")
    scene.receiver.release()

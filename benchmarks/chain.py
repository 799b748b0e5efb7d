"""The whole chain, from a poll's response to the recorded attempt, in one process: latency at a calm pace, and cost.

The source responds at once, so that only the bridge is measured.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from ipaddress import ip_network

from sqlalchemy import Connection, func, select

from benchmarks import rig
from bridge import __version__
from bridge.admin.due import DueWork
from bridge.compose import new_secret
from bridge.db.encryption import SecretCipher
from bridge.db.engine import Database
from bridge.db.liveness import registered
from bridge.db.tables import attempts
from bridge.delivery.client import WebhookClient
from bridge.delivery.endpoints import EndpointSpec, add_endpoint
from bridge.delivery.secrets import EndpointContext
from bridge.delivery.sender import Sender
from bridge.due_work import WorkFinder
from bridge.polling.plan import PollingSettings
from bridge.polling.poller import Poller
from bridge.polling.rooms import RoomSpec, configure_rooms, ensure_sources
from bridge.rules.delivery import DeliveryPolicy, PostResult
from bridge.rules.egress import EgressPolicy
from bridge.rules.presence import Peer, Snapshot
from bridge.runtime import system_runtime
from bridge.sources.protocol import SourceSettings

CALM_ROOMS = 50
EVENTS_PER_SECOND = 100
BUSY_ROOMS = 250


class RevolvingSource:
    """A source whose rooms gain and lose a peer in turn: every poll but the first brings one event."""

    name = "main"
    clock_skew = None

    def __init__(self) -> None:
        self.responded_at: dict[str, datetime] = {}
        self._turns: dict[str, int] = {}

    async def fetch(self, room_id: str) -> Snapshot:
        """Respond at once, and remember the time."""
        turn = self._turns[room_id] = self._turns.get(room_id, 0) + 1
        resident, guest = Peer(peer_id="resident"), Peer(peer_id=f"guest-{turn}")
        self.responded_at[room_id] = system_runtime().now()
        return Snapshot(peers=(resident, guest) if turn % 2 == 0 else (resident,))

    async def aclose(self) -> None:
        """There is nothing to release."""


async def measure(options: Namespace) -> AsyncIterator[rig.Figure]:
    """Latency at a calm pace, then events per second of processor time, for each database."""
    with rig.receiver() as address:
        for bench in rig.databases(options.database):
            delays, calm_cpu = await _calm(bench, address, options.seconds * options.rounds)
            cuts = statistics.quantiles(delays, n=100)
            goal = "≤ 10" if bench.name == "SQLite" else "≤ 15"
            detail = f"{len(delays)} events at {EVENTS_PER_SECOND}/s"
            yield rig.Figure("response to POST, p50", bench.name, cuts[49], "ms", goal, detail)
            yield rig.Figure("response to POST, p99", bench.name, cuts[98], "ms", "≤ 40", detail)
            yield rig.Figure("the same, processor time", bench.name, calm_cpu, "events per CPU second", "", detail)
        for bench in rig.databases(options.database):
            goal = "≥ 900" if bench.name == "SQLite" else "≥ 700"
            per_cpu_second, per_second = await _busy(bench, address, options.seconds * options.rounds)
            yield rig.Figure(
                "poll to recorded attempt", bench.name, per_cpu_second, "events per CPU second", goal,
                f"{per_second:,.0f}/s",
            )  # fmt: skip


async def _calm(bench: rig.BenchDatabase, address: str, seconds: float) -> tuple[list[float], float]:
    interval = timedelta(seconds=CALM_ROOMS / EVENTS_PER_SECOND)
    async with _chain(bench.database, address, CALM_ROOMS, interval, rate=EVENTS_PER_SECOND) as delays:
        await asyncio.sleep(1)
        delays.clear()
        before = bench.cpu_seconds()
        await asyncio.sleep(seconds)
        return delays, len(delays) / (bench.cpu_seconds() - before)


async def _busy(bench: rig.BenchDatabase, address: str, seconds: float) -> tuple[float, float]:
    async with _chain(bench.database, address, BUSY_ROOMS, timedelta(microseconds=1), rate=0):
        await asyncio.sleep(1)
        done, cpu, start = bench.database.read_now(_attempts), bench.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(seconds)
        done = bench.database.read_now(_attempts) - done
        return done / (bench.cpu_seconds() - cpu), done / (time.perf_counter() - start)


def _attempts(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(attempts)).scalar_one()


@asynccontextmanager
async def _chain(
    database: Database, address: str, room_count: int, interval: timedelta, *, rate: float
) -> AsyncIterator[list[float]]:
    """A poller and a sender at work, woken as the service wakes them; yields the delays that they have, in ms."""
    gc.freeze()  # as the service does once it has started
    runtime, source = system_runtime(), RevolvingSource()
    context = EndpointContext(now=runtime.now(), new_id=runtime.new_id, new_secret=new_secret)
    rooms = [RoomSpec(source="main", upstream_id=f"room-{number}") for number in range(room_count)]
    database.write_now(ensure_sources, ["main"])
    database.write_now(configure_rooms, rooms, (), runtime.now(), runtime.new_id)
    endpoint = EndpointSpec(name="all", url=address, events=("peer.*",), max_concurrency=50)
    database.write_now(add_endpoint, endpoint, context)
    policy = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"),))
    account = SourceSettings(name="main", kind="", base_url="", api_key="", requests_per_second=rate)
    delays: list[float] = []

    class TimingClient(WebhookClient):
        """Measures, just before it posts, the time since the poll's response."""

        async def post(self, url: str, *, headers: Mapping[str, str], body: bytes, timeout: timedelta) -> PostResult:  # noqa: ASYNC109 - as the client has it
            delay = system_runtime().now() - source.responded_at[json.loads(body)["data"]["room_id"]]
            delays.append(delay / timedelta(milliseconds=1))
            return await super().post(url, headers=headers, body=body, timeout=timeout)

    async with TimingClient(policy, user_agent=f"presence-bridge/{__version__}", clock=runtime.now) as client:
        with registered(database) as worker:
            settings = PollingSettings(interval=interval)
            sender = Sender(database, client, DeliveryPolicy(), runtime, worker, cipher=SecretCipher())
            poller = Poller(database, {"main": (account, source)}, settings, runtime, worker, sender)

            def wake(due: DueWork) -> None:
                if due.sources:
                    poller.wake()
                if due.deliveries:
                    sender.wake()

            finder = WorkFinder(
                database, runtime.now, polls=True, deliveries=True, on_due=wake, is_notified=lambda: False
            )
            looking = asyncio.create_task(finder.run())
            running = [asyncio.create_task(poller.run()), asyncio.create_task(sender.run())]
            yield delays
            looking.cancel()
            await asyncio.gather(poller.stop(5), sender.stop(5))
            await asyncio.gather(*running)

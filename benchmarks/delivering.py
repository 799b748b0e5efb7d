"""Delivering with every attempt recorded: the sender, against bare signed POSTs by httpx over the same transport."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import AsyncIterator
from ipaddress import ip_network

import aiohttp
import httpx
from sqlalchemy import Connection, select, update

from benchmarks import rig
from bridge import __version__
from bridge.compose import new_secret
from bridge.db.encryption import SecretCipher
from bridge.db.engine import Database
from bridge.db.event_log import append_events, room_log, write_log_ends
from bridge.db.liveness import registered
from bridge.db.tables import cursors, rooms
from bridge.delivery.client import WebhookClient
from bridge.delivery.endpoints import EndpointSpec, add_endpoint
from bridge.delivery.secrets import EndpointContext
from bridge.delivery.sender import Sender
from bridge.events.bodies import draft_snapshots
from bridge.events.log import number_events
from bridge.http_transport import Transport
from bridge.polling.rooms import RoomSpec, configure_rooms, ensure_sources
from bridge.rules.delivery import DeliveryPolicy
from bridge.rules.egress import EgressPolicy
from bridge.rules.signing import parse_secret, sign
from bridge.runtime import system_runtime

ROOMS = 400
EVENTS_PER_ROOM = 60
SECRET = new_secret("v1")


async def measure(options: Namespace) -> AsyncIterator[rig.Figure]:
    """One figure per database."""
    with rig.receiver() as address:
        for bench in rig.databases(options.database):
            database = bench.database
            body = _fill(database, address, options.concurrency)

            async def bare(body: bytes = body) -> float:
                return await _post_bare(address, body, options)

            async def ours(database: Database = database) -> float:
                database.write_now(_owe_everything)
                async with _client() as client:
                    return await _deliver_for(database, client, options.seconds)

            async def bare_aiohttp(body: bytes = body) -> float:
                return await _post_with_aiohttp(address, body, options)

            yield await rig.compare("delivering a backlog", bench.name, "≥ 0.75", options.rounds, ours, bare)
            yield await rig.compare("the same, against aiohttp", bench.name, "", 1, ours, bare_aiohttp)


async def _post_bare(address: str, body: bytes, options: Namespace) -> float:
    """A loop that records nothing: sign and post, with httpx over the same transport."""
    async with httpx.AsyncClient(transport=Transport(keep_alive=15), timeout=15, trust_env=False) as client:

        async def post() -> None:
            (await client.post(address, headers=_signed(body), content=body)).raise_for_status()

        return await rig.rate(options.seconds, options.concurrency, post)


async def _post_with_aiohttp(address: str, body: bytes, options: Namespace) -> float:
    async with aiohttp.ClientSession() as session:

        async def post() -> None:
            async with session.post(address, headers=_signed(body), data=body) as response:
                response.raise_for_status()

        return await rig.rate(options.seconds, options.concurrency, post)


def _signed(body: bytes) -> dict[str, str]:
    now = int(time.time())
    signature = sign([parse_secret(SECRET)], webhook_id="evt_bare", timestamp=now, body=body)
    return {
        "webhook-id": "evt_bare",
        "webhook-timestamp": str(now),
        "webhook-signature": signature,
        "content-type": "application/json",
    }


def _client() -> WebhookClient:
    policy = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"),))
    return WebhookClient(policy, user_agent=f"presence-bridge/{__version__}", clock=system_runtime().now)


async def _deliver_for(database: Database, client: WebhookClient, seconds: float) -> float:
    """Deliveries a second, out of a backlog."""
    with registered(database) as worker:
        sender = Sender(database, client, DeliveryPolicy(), system_runtime(), worker, cipher=SecretCipher())
        running = asyncio.create_task(sender.run())
        before, start = database.read_now(_acknowledged), time.perf_counter()
        while time.perf_counter() - start < seconds:
            sender.wake()
            await asyncio.sleep(0.05)
        delivered, spent = database.read_now(_acknowledged) - before, time.perf_counter() - start
        await sender.stop(15)
        await running
    assert delivered < ROOMS * EVENTS_PER_ROOM, "the backlog was too small for the time"
    return delivered / spent


def _fill(database: Database, address: str, concurrency: int) -> bytes:
    """Write a log of a realistic size that is owed to one endpoint."""
    runtime = system_runtime()
    context = EndpointContext(now=runtime.now(), new_id=runtime.new_id, new_secret=new_secret)
    specs = [RoomSpec(source="main", upstream_id=f"room-{number}") for number in range(ROOMS)]
    endpoint = EndpointSpec(name="all", url=address, secret=SECRET, events=("*",), max_concurrency=concurrency)
    database.write_now(ensure_sources, ["main"])
    database.write_now(configure_rooms, specs, (), runtime.now(), runtime.new_id)
    database.write_now(add_endpoint, endpoint, context)

    def write(connection: Connection) -> bytes:
        (draft,) = draft_snapshots(None, (), context.now)
        events, logs = [], []
        for row in connection.execute(select(rooms)).all():
            log, new = number_events(room_log(row), [draft] * EVENTS_PER_ROOM, context.now, runtime.new_id)
            events += new
            logs.append(log)
        write_log_ends(connection, logs)
        append_events(connection, events)
        return events[0].body

    return database.write_now(write)


def _owe_everything(connection: Connection) -> None:
    connection.execute(update(cursors).values(acked=0, next_attempt_at=system_runtime().now(), claim_token=None))


def _acknowledged(connection: Connection) -> int:
    return sum(connection.execute(select(cursors.c.acked)).scalars())

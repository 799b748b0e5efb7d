"""From a poll's response to the POST on the wire: one process, 100 events a second."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Mapping
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import ClassVar

from benchmarks import rig
from bridge import __version__
from bridge.db.encryption import SecretCipher
from bridge.db.engine import Database
from bridge.delivery.client import WebhookClient
from bridge.delivery.endpoints import EndpointContext, EndpointSpec, add_endpoint
from bridge.delivery.sender import Sender
from bridge.polling.poller import Poller
from bridge.polling.record import PollingSettings
from bridge.polling.rooms import RoomSpec, reconcile_rooms, reconcile_sources
from bridge.rules.delivery import DeliveryPolicy, PostResult
from bridge.rules.egress import EgressPolicy
from bridge.rules.presence import Peer, Snapshot
from bridge.service import new_secret, system_runtime
from bridge.sources.protocol import SourceSettings

ROOMS = 50
EVENTS_PER_SECOND = 100


class Revolving:
    """A source whose rooms gain and lose a peer in turn: every poll but the first brings one event."""

    name = "main"

    def __init__(self) -> None:
        self.answered_at: dict[str, datetime] = {}
        self._turns: dict[str, int] = {}

    async def fetch(self, room_id: str) -> Snapshot:
        """Response at once, and remember when."""
        turn = self._turns[room_id] = self._turns.get(room_id, 0) + 1
        resident, guest = Peer(peer_id="resident"), Peer(peer_id=f"guest-{turn}")
        self.answered_at[room_id] = system_runtime().now()
        return Snapshot(peers=(resident, guest) if turn % 2 == 0 else (resident,))

    async def aclose(self) -> None:
        """Nothing to release."""


class NotingClient(WebhookClient):
    """Notes, just before it posts, how long ago the poll's response came."""

    source: Revolving
    delays: ClassVar[list[float]] = []

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes, timeout: timedelta) -> PostResult:  # noqa: ASYNC109 - as the client has it
        """Post it, and note the delay unless it belongs to a room's first poll."""
        data = json.loads(body)["data"]
        if data["sequence"] > 2:  # noqa: PLR2004 - the first poll's
            delay = system_runtime().now() - self.source.answered_at[data["room_id"]]
            self.delays.append(delay / timedelta(milliseconds=1))
        return await super().post(url, headers=headers, body=body, timeout=timeout)


async def main() -> None:
    """Print one line per database."""
    options = rig.arguments(__doc__ or "")
    with rig.receiver() as address:
        for name, database in rig.databases(options.database):
            delays = await _measure(database, address, options.seconds * options.rounds)
            cuts = statistics.quantiles(delays, n=100)
            print(
                f"latency, {name}: response to POST p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms"
                f" over {len(delays)} events at {EVENTS_PER_SECOND}/s"
            )
            database.close()


async def _measure(database: Database, address: str, seconds: float) -> list[float]:
    runtime, source = system_runtime(), Revolving()
    context = EndpointContext(now=runtime.now(), new_id=runtime.new_id, new_secret=new_secret)
    rooms = [RoomSpec(source="main", upstream_id=f"room-{number}") for number in range(ROOMS)]
    database.write_now(reconcile_sources, ["main"])
    database.write_now(reconcile_rooms, rooms, (), runtime.now(), runtime.new_id)
    endpoint = EndpointSpec(name="all", url=address, events=("peer.*",), max_concurrency=ROOMS)
    database.write_now(add_endpoint, endpoint, context)

    policy = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"),))
    account = SourceSettings(name="main", kind="", base_url="", api_key="", requests_per_second=EVENTS_PER_SECOND)
    settings = PollingSettings(interval=timedelta(seconds=ROOMS / EVENTS_PER_SECOND))
    async with NotingClient(policy, user_agent=f"presence-bridge/{__version__}", clock=runtime.now) as client:
        client.source = source
        client.delays.clear()
        sender = Sender(database, client, DeliveryPolicy(), runtime, cipher=SecretCipher())
        poller = Poller(database, {"main": (account, source)}, settings, runtime, on_events=sender.wake)
        running = [asyncio.create_task(poller.run()), asyncio.create_task(sender.run())]
        for _ in range(int(seconds / 0.02)):
            poller.wake()
            await asyncio.sleep(0.02)
        await asyncio.gather(poller.stop(5), sender.stop(5))
        await asyncio.gather(*running)
    return list(client.delays)


if __name__ == "__main__":
    asyncio.run(main())

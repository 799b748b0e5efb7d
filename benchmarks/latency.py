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
from bridge.compose import new_secret
from bridge.db.encryption import SecretCipher
from bridge.db.engine import Database
from bridge.delivery.client import WebhookClient
from bridge.delivery.endpoints import EndpointSpec, add_endpoint
from bridge.delivery.secrets import EndpointContext
from bridge.delivery.sender import Sender
from bridge.polling.plan import PollingSettings
from bridge.polling.poller import Poller
from bridge.polling.rooms import RoomSpec, configure_rooms, ensure_sources
from bridge.rules.delivery import DeliveryPolicy, PostResult
from bridge.rules.egress import EgressPolicy
from bridge.rules.presence import Peer, Snapshot
from bridge.runtime import system_runtime
from bridge.sources.protocol import SourceSettings

ROOMS = 50
EVENTS_PER_SECOND = 100


class RevolvingSource:
    """A source whose rooms gain and lose a peer in turn: every poll but the first brings one event."""

    name = "main"

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


class TimingClient(WebhookClient):
    """Measures, just before it posts, the time since the poll's response."""

    source: RevolvingSource
    delays: ClassVar[list[float]] = []

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes, timeout: timedelta) -> PostResult:  # noqa: ASYNC109 - as the client has it
        """Post, and keep the delay unless it belongs to a room's first poll."""
        data = json.loads(body)["data"]
        if data["sequence"] > 2:  # noqa: PLR2004 - the first poll's
            delay = system_runtime().now() - self.source.responded_at[data["room_id"]]
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
    runtime, source = system_runtime(), RevolvingSource()
    context = EndpointContext(now=runtime.now(), new_id=runtime.new_id, new_secret=new_secret)
    rooms = [RoomSpec(source="main", upstream_id=f"room-{number}") for number in range(ROOMS)]
    database.write_now(ensure_sources, ["main"])
    database.write_now(configure_rooms, rooms, (), runtime.now(), runtime.new_id)
    endpoint = EndpointSpec(name="all", url=address, events=("peer.*",), max_concurrency=ROOMS)
    database.write_now(add_endpoint, endpoint, context)

    policy = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"),))
    account = SourceSettings(name="main", kind="", base_url="", api_key="", requests_per_second=EVENTS_PER_SECOND)
    settings = PollingSettings(interval=timedelta(seconds=ROOMS / EVENTS_PER_SECOND))
    async with TimingClient(policy, user_agent=f"presence-bridge/{__version__}", clock=runtime.now) as client:
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

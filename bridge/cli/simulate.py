"""`bridge simulate`: only the simulated Huddle01 API, empty, with a crowd in it, or with a scenario from a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bridge.cli.output import Screen, say
from bridge.cli.signals import Stopping
from bridge.errors import UsageError
from bridge.simulator import DEFAULT_API_KEY, Simulation
from bridge.simulator.crowd import room_ids
from bridge.simulator.routes import API_PATH
from bridge.simulator.scenario import Scenario, load_scenario, play_random, play_scenario
from bridge.simulator.server import serve

FASTEST = 1_000
"""What a crowd may do in a second."""
SHOWN = 3
"""How many of the crowd's rooms are written out to be copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crowd:
    seed: str
    rooms: tuple[str, ...]
    rate: float


def simulate(
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65_535, help="0 is a free one.")] = 8100,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Where to listen; the default is this machine only.")
    ] = "127.0.0.1",
    api_key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help=f"A key to accept; may be repeated. Default: {DEFAULT_API_KEY}."),
    ] = None,
    random: Annotated[
        str | None, typer.Option(metavar="SEED", help="A crowd comes and goes; the same seed, the same life.")
    ] = None,
    rooms: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=10_000, help="Rooms of the crowd; default 3.")
    ] = None,
    rate: Annotated[float | None, typer.Option(metavar="N", help="What the crowd does per second; default 1.")] = None,
    scenario: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .toml or .json file of steps, each with the second it is due."),
    ] = None,
) -> None:
    """Simulate the Huddle01 API on this machine: no account, no network."""
    if random is None and (rooms is not None or rate is not None):
        raise UsageError("--rooms and --rate are for a crowd: give --random SEED too")
    if rate is not None and not 0 < rate <= FASTEST:
        raise UsageError(f"--rate {rate:g}: must be above 0, and at most {FASTEST:,}")
    scenes = () if scenario is None else load_scenario(scenario)
    simulation = Simulation(api_keys=tuple(api_key or (DEFAULT_API_KEY,)), seed=random)
    crowd = None if random is None else _Crowd(seed=random, rooms=room_ids(random, rooms or 3), rate=rate or 1.0)
    asyncio.run(_simulate(simulation, host, port, crowd, scenes))


async def _simulate(simulation: Simulation, host: str, port: int, crowd: _Crowd | None, scenes: Scenario) -> None:
    stopping = Stopping()
    screen = Screen(on_gone=stopping.asked.set)
    async with serve(simulation, host, port) as url:
        screen.write_line(f"simulating Huddle01 on {url}{API_PATH}")
        _say_how_to_use(f"{url}{API_PATH}", simulation.api_keys[0], () if crowd is None else crowd.rooms)
        lives: list[Coroutine[None, None, None]] = []
        if crowd is not None:
            lives.append(play_random(simulation, crowd.seed, crowd.rooms, crowd.rate, tell=_teller(screen)))
        if scenes:
            lives.append(_play(simulation, scenes, screen))
        await _live(lives, stopping)


async def _live(lives: Sequence[Coroutine[None, None, None]], stopping: Stopping) -> None:
    """Let them go on until told to stop, or until one of them cannot."""
    told = asyncio.create_task(stopping.asked.wait())
    going = {told, *(asyncio.create_task(life) for life in lives)}
    while not told.done():
        done, going = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
        for life in done:
            life.result()
    for life in going:
        life.cancel()


async def _play(simulation: Simulation, scenes: Scenario, screen: Screen) -> None:
    await play_scenario(simulation, scenes, tell=_teller(screen))
    say("the scenario is over; the rooms stay as they are")


def _teller(screen: Screen) -> Callable[[str], None]:
    def tell(happening: str) -> None:
        screen.show((f"{datetime.now(UTC).astimezone():%H:%M:%S}  ", "dim"), happening)

    return tell


def _say_how_to_use(base_url: str, api_key: str, room_names: tuple[str, ...]) -> None:
    shown = "".join(f'\n  [[rooms]]\n  id = "{name}"\n' for name in room_names[:SHOWN])
    more = f"  # and {len(room_names) - SHOWN} more\n" if len(room_names) > SHOWN else ""
    say(
        f'point a bridge at it in bridge.toml:\n\n  [sources.main]\n  base_url = "{base_url}"\n'
        f'  api_key = "{api_key}"\n{shown}{more}\n'
        f"move its people with the control API, say\n\n"
        f"  curl -X POST {base_url.removesuffix(API_PATH)}/_control/rooms/my-room/join"
        """ -d '{"metadata": {"displayName": "Ann"}}'\n\nCtrl-C ends it."""
    )

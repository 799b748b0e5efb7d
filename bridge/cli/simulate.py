"""`bridge simulate`: only the simulated Huddle01 API, with people who come and go."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from bridge.cli.output import print_message
from bridge.cli.screen import Screen
from bridge.cli.signals import Stopping
from bridge.simulator import DEFAULT_API_KEY, Simulation
from bridge.simulator.crowd import Crowd, room_ids
from bridge.simulator.routes import API_PATH
from bridge.simulator.server import serve

CHANGES_PER_SECOND_AND_ROOM = 0.35
SHOWN_ROOMS = 3
"""The number of rooms that are printed as configuration."""


def simulate(
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65_535, help="Port on 127.0.0.1; 0 is a free one.")
    ] = 8100,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the people and the ids of their rooms.")] = 1,
    rooms: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Number of rooms.")] = 3,
) -> None:
    """Simulate the Huddle01 API on this machine: no account, no network."""
    asyncio.run(_simulate(port, seed, room_ids(seed, rooms)))


async def _simulate(port: int, seed: int, rooms: tuple[str, ...]) -> None:
    simulation = Simulation(seed=seed)
    crowd = Crowd(simulation, seed=seed, rooms=rooms)
    stopping = Stopping()
    screen = Screen(on_gone=stopping.requested.set)

    def show(change: str) -> None:
        screen.show((f"{datetime.now(UTC).astimezone():%H:%M:%S}  ", "dim"), change)

    async with serve(simulation, port=port) as url:
        screen.write_line(f"simulating Huddle01 on {url}{API_PATH}")
        print_message(_instructions(f"{url}{API_PATH}", rooms))
        running = asyncio.create_task(crowd.run(CHANGES_PER_SECOND_AND_ROOM * len(rooms), show))
        stopped = asyncio.create_task(stopping.requested.wait())
        done, _ = await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        for task in done:
            task.result()


def _instructions(base_url: str, rooms: tuple[str, ...]) -> str:
    shown = "".join(f'\n  [[rooms]]\n  id = "{name}"\n' for name in rooms[:SHOWN_ROOMS])
    more = f"  # and {len(rooms) - SHOWN_ROOMS} more\n" if len(rooms) > SHOWN_ROOMS else ""
    source = f'  [sources.main]\n  base_url = "{base_url}"\n  api_key = "{DEFAULT_API_KEY}"\n'
    return f"To poll it, put this into bridge.toml:\n\n{source}{shown}{more}\nCtrl-C ends it."

"""A simulation with a stopped clock and a seed, on a socket, and a client with its key."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from bridge.simulator import Simulation
from bridge.simulator.server import serve
from tests.harness.clock import StoppedClock

NOW = 1_795_000_000_000
KEY = "simulated-key"


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock(NOW)


@pytest.fixture
def simulation(clock: StoppedClock) -> Simulation:
    return Simulation(seed=1, now=clock)


@pytest.fixture
async def base_url(simulation: Simulation) -> AsyncIterator[str]:
    async with serve(simulation) as url:
        yield url


@pytest.fixture
async def upstream(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the upstream's API, with the key of the first project."""
    async with httpx.AsyncClient(
        base_url=f"{base_url}/api/v2/sdk", headers={"x-api-key": KEY}, trust_env=False
    ) as client:
        yield client

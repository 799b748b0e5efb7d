"""A simulation with stopped clock and known dice, on a socket, and a client that knows the key."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from bridge.simulator import Clock, Simulation
from bridge.simulator.server import serve

NOW = 1_795_000_000_000
KEY = "simulated-key"


@pytest.fixture
def simulation() -> Simulation:
    """Seed 1, and a clock that stands at NOW."""
    return Simulation(seed=1, clock=Clock.stopped(NOW))


@pytest.fixture
async def base_url(simulation: Simulation) -> AsyncIterator[str]:
    """Where the simulation is served."""
    async with serve(simulation) as url:
        yield url


@pytest.fixture
async def upstream(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the upstream's API, with the key of the first project."""
    async with httpx.AsyncClient(
        base_url=f"{base_url}/api/v2/sdk", headers={"x-api-key": KEY}, trust_env=False
    ) as client:
        yield client


@pytest.fixture
async def control(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the control API."""
    async with httpx.AsyncClient(base_url=f"{base_url}/_control", trust_env=False) as client:
        yield client

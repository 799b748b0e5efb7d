"""The server starts on a free port, refuses a taken one, and stops at once whatever still hangs."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from bridge.errors import BridgeError
from bridge.simulator import Simulation
from bridge.simulator.faults import Fault, FaultKind
from bridge.simulator.server import serve


async def test_a_taken_port_is_refused_with_advice(base_url: str) -> None:
    port = httpx.URL(base_url).port
    assert port is not None
    with pytest.raises(BridgeError, match=f"cannot listen on 127.0.0.1:{port}: .*; choose another host or port"):
        async with serve(Simulation(), port=port):
            raise AssertionError("this port is taken")


async def test_an_error_in_the_block_is_the_callers_own() -> None:
    with pytest.raises(ConnectionRefusedError):
        async with serve(Simulation()):
            raise ConnectionRefusedError


async def test_stopping_does_not_wait_for_what_hangs() -> None:
    simulation = Simulation()
    simulation.faults.replace([Fault(kind=FaultKind.TIMEOUT)])
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:  # noqa: S113 - it is the server that ends it
        async with serve(simulation) as base_url:
            hanging = asyncio.create_task(client.get(base_url))
            while not simulation.requests.since():  # noqa: ASYNC110 - the log is all there is to see of it
                await asyncio.sleep(0)
        with pytest.raises(httpx.TransportError):
            await hanging


async def test_a_caller_that_gives_up_leaves_nothing_behind() -> None:
    simulation = Simulation()
    simulation.faults.replace([Fault(kind=FaultKind.TIMEOUT)])
    async with serve(simulation) as base_url, httpx.AsyncClient(trust_env=False) as client:
        before = len(asyncio.all_tasks())
        with pytest.raises(httpx.ReadTimeout):
            await client.get(base_url, timeout=0.1)
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 - the task's end is what is waited for
            await asyncio.sleep(0)

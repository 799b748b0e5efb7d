"""The simulation on a socket: a taken port, errors of the caller, and the end while requests come in."""

from __future__ import annotations

import httpx
import pytest

from bridge.errors import BridgeError
from bridge.simulator import Simulation
from bridge.simulator.server import serve


async def test_a_taken_port_is_refused_with_advice(base_url: str) -> None:
    port = httpx.URL(base_url).port
    assert port is not None
    with pytest.raises(BridgeError, match=f"cannot listen on 127.0.0.1:{port} .*choose another port"):
        async with serve(Simulation(), port=port):
            raise AssertionError("this port is taken")

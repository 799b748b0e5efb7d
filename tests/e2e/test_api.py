"""The API of the real program: tokens of the configuration and of the command, in two processes at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.harness.config import Configure
from tests.harness.process import BridgeProcess, command
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.slow

OPS = {"name": "ops", "token": "env:OPS_TOKEN", "scopes": ["write"]}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


def start(stack: ExitStack, config: Path) -> tuple[BridgeProcess, httpx.Client]:
    """Start a process with the web server alone; the client has no token."""
    program = stack.enter_context(BridgeProcess(config, "web")).wait_ready()
    url = next(program.lines("web.listening"))["url"]
    return program, stack.enter_context(httpx.Client(base_url=url, timeout=30))


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_tokens_and_polls_of_processes_that_only_serve(
    configure: Configure, simulator: Simulator, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPS_TOKEN", "of-the-file")
    config = configure(web={"listen": "127.0.0.1:0", "tokens": [OPS]})
    programs, clients = zip(*(start(stack, config) for _ in range(2)), strict=True)
    simulator.join("team/blue", "ann")

    # a room is added, polled, shown and removed, each time by another process
    first, second = clients
    ops = bearer("of-the-file")
    assert first.post("/api/v1/rooms", headers=ops, json={"room_id": "team/blue"}).status_code == 201
    polled = second.post("/api/v1/rooms/team%2Fblue/poll", headers=ops).json()
    assert [change["type"] for change in polled["changes"]] == ["room.occupied", "peer.joined"]
    peers = first.get("/api/v1/rooms/team%2Fblue/peers", headers=ops).json()["items"]
    assert [peer["peer_id"] for peer in peers] == ["ann"]

    # a token of the command works in every process, and in none once it is removed
    token = command(config, "tokens", "add", "reader", "--scope", "read").strip()
    for client in clients:
        assert client.get("/api/v1/me", headers=bearer(token)).json() == {"name": "reader", "scopes": ["read"]}
        assert client.delete("/api/v1/rooms/team%2Fblue", headers=bearer(token)).status_code == 403
    command(config, "tokens", "remove", "reader")
    assert [client.get("/api/v1/me", headers=bearer(token)).status_code for client in clients] == [401, 401]
    assert second.delete("/api/v1/rooms/team%2Fblue", headers=ops).status_code == 204

    # one of the file, once the process has loaded the file again
    configure(web={"listen": "127.0.0.1:0", "tokens": [{**OPS, "scopes": ["read"]}]})
    programs[0].send(signal.SIGHUP)
    wait_until(lambda: first.get("/api/v1/me", headers=ops).json()["scopes"] == ["read"], what="the reload")
    assert second.get("/api/v1/me", headers=ops).json()["scopes"] == ["write"]

    assert first.get("/api/v1/rooms").status_code == 401
    assert first.get("/readyz", headers={"host": "evil.example"}).status_code == 200
    assert first.get("/api/v1/rooms", headers={**ops, "host": "evil.example"}).status_code == 421
    for program in programs:
        assert "of-the-file" not in program.output
        assert token not in program.output
        assert "Traceback" not in program.output
        assert program.stop() == 0

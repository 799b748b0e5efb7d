"""A real `livekit-server` on loopback, with real participants: `livekit` and `livekit-api` from PyPI.

The server is built by Go once, into `.cache`: by `make livekit`, or by a test that finds none. Without Go those tests
are skipped; where CI is set they fail.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest
from livekit import api

from tests.harness.process import ROOT, Process, environment
from tests.harness.receiver import Event, Receiver
from tests.harness.waiting import wait_until

VERSION = "v1.13.5"
PROGRAM = ROOT / ".cache" / f"livekit-server-{VERSION}"
QUIET_PORTS = range(20_000, 32_000)
KEY, SECRET = "devkey", "only-for-tests-0123456789-0123456789"


class NoServerError(Exception):
    """The server cannot be built here."""


def build_server() -> Path:
    """Return the program; it is built if it is missing, which takes some minutes of CPU time."""
    if PROGRAM.exists():
        return PROGRAM
    if shutil.which("go") is None:
        raise NoServerError("there is no go on this machine: install Go, which builds livekit-server")
    PROGRAM.parent.mkdir(exist_ok=True)
    with (PROGRAM.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not PROGRAM.exists():
            command = ["go", "install", f"github.com/livekit/livekit-server/cmd/server@{VERSION}"]
            done = subprocess.run(
                command, env={**os.environ, "GOBIN": str(PROGRAM.parent)}, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise NoServerError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
            (PROGRAM.parent / "server").rename(PROGRAM)
    return PROGRAM


def require_server() -> Path:
    """Skip the calling test if there is no server; fail it where CI is set."""
    try:
        return build_server()
    except NoServerError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


def find_port() -> int:
    """Return a port that is free for TCP and UDP, and that the system gives to no outgoing connection.

    While the server is down, its clients try again and again: to a port of that range they would connect to themselves.
    """
    while True:
        port = secrets.choice(QUIET_PORTS)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, suppress(OSError):
            tcp.bind(("", port))
            udp.bind(("", port))
            return port


class LiveKitServer:
    """A server that sends its own webhooks to some URLs; use as a context manager. It can be killed and restarted."""

    def __init__(self, directory: Path, *webhooks: str) -> None:
        self._program = require_server()
        self._directory = directory
        self._config = directory / "livekit.json"  # YAML is a superset
        port = find_port()
        self.url = f"http://127.0.0.1:{port}"
        document = {
            "port": port,
            "bind_addresses": ["127.0.0.1"],
            "rtc": {
                "tcp_port": find_port(),
                "udp_port": find_port(),
                "use_external_ip": False,
                "node_ip": "127.0.0.1",
            },
            "room": {"empty_timeout": 60, "departure_timeout": 60},
            "keys": {KEY: SECRET},
            "webhook": {"api_key": KEY, "urls": webhooks},
        }
        self._config.write_text(json.dumps(document))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.__exit__(kind, error, at)

    def start(self) -> None:
        self._process = Process([str(self._program), "--config", str(self._config)], self._directory)
        wait_until(self._responds, what=lambda: f"the server: {self._process.output[-2000:]}")

    def kill(self) -> None:
        self._process.kill()

    def _responds(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(self.url, trust_env=False).is_success
        return False

    def source(self) -> dict[str, object]:
        """A table for `[sources.NAME]`."""
        return {"kind": "livekit", "base_url": self.url, "api_key": KEY, "api_secret": SECRET}

    def call(self, method: str, **message: str) -> None:
        """Call RoomService as an administrator of the room."""
        grants = api.VideoGrants(room_admin=True, room_create=True, room=message["room"])
        headers = {"authorization": f"Bearer {api.AccessToken(KEY, SECRET).with_grants(grants).to_jwt()}"}
        url = f"{self.url}/twirp/livekit.RoomService/{method}"
        httpx.post(url, json=message, headers=headers, trust_env=False).raise_for_status()


def token(room: str, identity: str) -> str:
    """The token of a participant, with name, metadata and attributes."""
    return (
        api.AccessToken(KEY, SECRET)
        .with_identity(identity)
        .with_name(identity.title())
        .with_metadata(json.dumps({"email": f"{identity}@example.com"}))
        .with_attributes({"team": "blue"})
        .with_grants(api.VideoGrants(room_join=True, room=room))
        .to_jwt()
    )


class Participants:
    """Participants in a process of their own, which can be killed without a goodbye; use as a context manager."""

    def __init__(self, server: LiveKitServer, room: str) -> None:
        self._room = room
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.livekit_participants", server.url.replace("http", "ws")],
            env=environment(),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def join(self, *identities: str) -> dict[str, str]:
        """Connect them, all at once; returns the sid of each."""
        return self._do(join={identity: token(self._room, identity) for identity in identities})

    def leave(self, *identities: str) -> None:
        """Disconnect them, with a goodbye."""
        self._do(leave=identities)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _do(self, **command: object) -> dict[str, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        response = self._process.stdout.readline()
        assert response, f"the participants have ended at {command}"
        sids: dict[str, str] = json.loads(response)
        return sids


def own_record(receiver: Receiver, *kinds: str) -> dict[str, dict[str, Any]]:
    """Participants of the server's own webhooks of these kinds, by sid."""
    events: Sequence[Event] = [delivery.event for delivery in receiver.deliveries]
    return {event["participant"]["sid"]: event["participant"] for event in events if event.get("event") in kinds}


if __name__ == "__main__":
    try:
        print(build_server())  # noqa: T201 - a program
    except NoServerError as reason:
        print(f"{reason}: the tests with a real livekit-server are skipped", file=sys.stderr)  # noqa: T201 - as above
        sys.exit(1 if os.environ.get("CI") else 0)

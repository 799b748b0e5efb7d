"""The Procfiles: their commands exist, and `honcho -f Procfile.dev start` is a working bridge on this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.docs import pages
from tests.harness.config import Configure
from tests.harness.process import ROOT, Process
from tests.harness.receiver import Receiver
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

BESIDE_PYTHON = str(Path(sys.executable).parent)


@pytest.fixture
def ports() -> dict[str, int]:
    """Three free ports, all open at once so that they differ."""
    names = ("upstream", "receiver", "web")
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    try:
        return {name: probe.getsockname()[1] for name, probe in zip(names, probes, strict=True)}
    finally:
        for probe in probes:
            probe.close()


@pytest.mark.slow
def test_procfile_dev_delivers_what_happens_in_the_simulated_rooms(tmp_path: Path, ports: dict[str, int]) -> None:
    for name in ("Procfile.dev", "deploy"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    env = {
        "PATH": os.pathsep.join((BESIDE_PYTHON, os.environ["PATH"])),
        "UPSTREAM_PORT": str(ports["upstream"]),
        "RECEIVER_PORT": str(ports["receiver"]),
        "BRIDGE__SOURCES__MAIN__BASE_URL": f"http://127.0.0.1:{ports['upstream']}/api/v2/sdk",
        "BRIDGE__ENDPOINTS__0__URL": f"http://127.0.0.1:{ports['receiver']}/",
        "BRIDGE__WEB__LISTEN": f"127.0.0.1:{ports['web']}",
    }
    with Process([sys.executable, "-m", "honcho", "-f", "Procfile.dev", "start"], tmp_path, env=env) as honcho:
        honcho.wait_for_output("bridge.started")
        assert re.search(r"receiver\S* *\|", honcho.wait_for_output("✓ verified"))
        honcho.stop(signal.SIGINT)
        assert "bridge.stopped" in honcho.output


@pytest.mark.slow
@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_the_procfile_delivers_as_the_documentation_describes(
    configure: Configure, tmp_path: Path, simulator: Simulator, receiver: Receiver
) -> None:
    shutil.copy(ROOT / "Procfile", tmp_path)
    configure(rooms=["stand-up"], endpoints=[receiver.endpoint()], web={"listen": "127.0.0.1:0"})
    start = next(words for words in pages.commands(pages.OPERATIONS, "honcho") if words[0] == "start")
    env = {"PATH": os.pathsep.join((BESIDE_PYTHON, os.environ["PATH"]))}
    with Process([sys.executable, "-m", "honcho", *start], tmp_path, env=env) as honcho:
        wait_until(lambda: honcho.output.count('"bridge.started"') == 3, what="three roles that are up")
        simulator.join("stand-up", "ann")
        wait_until(lambda: receiver.deliveries, what="a delivery")
        honcho.stop(signal.SIGINT)
        assert honcho.output.count('"bridge.stopped"') == 3


def test_the_procfile_has_the_roles() -> None:
    assert (ROOT / "Procfile").read_text().splitlines() == [
        "release: bridge migrate",
        *(f"{role}: bridge run --role {role}" for role in ("poller", "sender", "web")),
    ]

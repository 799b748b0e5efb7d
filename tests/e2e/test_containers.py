"""deploy/Dockerfile and deploy/compose.yaml, as far as they can be tested without Docker.

hadolint reads the first. The services of the second run as processes, with its commands, its configuration and the
secrets that the documentation makes, on a PostgreSQL of the tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest
import yaml

from tests.docs import pages
from tests.harness.process import ROOT, Process, environment
from tests.harness.receiver import Receiver
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

DEPLOY = ROOT / "deploy"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
PATH = {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}
SECRETS = "/run/secrets"
ROLES = ("poller", "sender", "web")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


@pytest.fixture(scope="module")
def image() -> dict[str, str]:
    """The instructions of the Dockerfile; of each, the last."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    return dict(line.split(None, 1) for line in text.splitlines() if re.match(r"[A-Z]+ ", line))


def words(instruction: str) -> list[str]:
    """The exec form, which needs no shell."""
    found: list[str] = json.loads(instruction)
    return found


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run([str(HADOLINT), "deploy/Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_image_runs_the_program_itself_without_privileges(image: dict[str, str]) -> None:
    assert words(image["ENTRYPOINT"]) == ["bridge"]
    assert words(image["CMD"]) == ["run"]
    assert image["USER"] == "10001:10001"
    assert image["WORKDIR"] == image["VOLUME"]


@pytest.mark.slow
def test_what_the_build_gets_is_enough_for_it(tmp_path: Path) -> None:
    for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines():
        if line.startswith("!"):
            copy = shutil.copytree if (ROOT / line[1:]).is_dir() else shutil.copy
            copy(ROOT / line[1:], tmp_path / line[1:])
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    assert len(list(tmp_path.glob("presence_bridge-*.whl"))) == 1


def test_every_process_is_confined_and_only_the_web_server_is_published(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() == {"database", "migrate", *ROLES}
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert set(service["secrets"]) <= compose["secrets"].keys()
        assert set(service["networks"]) <= compose["networks"].keys()
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "web": ["127.0.0.1:8080:8080"]
    }
    assert all(services[role]["cap_drop"] == ["ALL"] for role in ROLES)
    assert compose["networks"]["inside"] == {"internal": True}
    assert services["database"]["networks"] == ["inside"]


def test_the_roles_wait_for_the_migration_and_it_for_the_database(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for role in ROLES:
        assert services[role]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert services["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}


@pytest.fixture
def deployed(tmp_path: Path, postgresql_database_url: str, compose: dict[str, Any]) -> Path:
    """A copy of deploy/ with the secrets as the documentation makes them, and the address of another database."""
    copy = tmp_path / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("secrets"))
    script = pages.block(pages.OPERATIONS, "compose: secrets").replace("your-key", "simulated-key")
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True, env=environment())
    secrets = copy / "secrets"

    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {Path(secret["file"]).name for secret in compose["secrets"].values()} == {
        file.name for file in secrets.iterdir()
    }
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in secrets.iterdir()), "other users' containers read them"
    database = compose["services"]["database"]["environment"]
    url = urlsplit((secrets / "database_url").read_text().strip())
    assert (url.scheme, url.hostname, url.path) == ("postgresql", "database", f"/{database['POSTGRES_DB']}")
    assert url.username == database["POSTGRES_USER"]
    assert url.password == (secrets / "database_password").read_text().strip()
    assert len(url.password) >= 32

    (secrets / "database_url").write_text(postgresql_database_url)
    config = copy / "config/bridge.toml"
    config.write_text(config.read_text().replace(SECRETS, str(secrets)))
    return copy


@pytest.mark.slow
def test_the_services_deliver(
    deployed: Path, compose: dict[str, Any], image: dict[str, str], simulator: Simulator, receiver: Receiver
) -> None:
    here = {
        "BRIDGE__SOURCES__MAIN__BASE_URL": f"{simulator.url}/api/v2/sdk",
        "BRIDGE__POLLING__INTERVAL": "100ms",
        "BRIDGE__ENDPOINTS__0__URL": receiver.url,
        "BRIDGE__ENDPOINTS__0__SECRET": receiver.secret,
        "BRIDGE__DELIVERY__ALLOW_PRIVATE_NETWORKS": '["127.0.0.0/8"]',
        "BRIDGE__WEB__LISTEN": "0.0.0.0:0",
        "BRIDGE__PROBES__LISTEN": "127.0.0.1:0",
        **PATH,
    }

    def start(name: str) -> Process:
        service = compose["services"][name]
        given = {
            key: value.replace(SECRETS, str(deployed / "secrets")) for key, value in service["environment"].items()
        }
        assert service["volumes"] == ["./config:/etc/presence-bridge:ro"]
        given["BRIDGE_CONFIG"] = given["BRIDGE_CONFIG"].replace("/etc/presence-bridge", str(deployed / "config"))
        assert "BRIDGE__PROBES__LISTEN" in given
        return Process([*words(image["ENTRYPOINT"]), *service["command"]], deployed, env=given | here)

    def is_healthy(service: Process) -> bool:
        listen = urlsplit(next(service.lines("probes.listening"))["url"]).netloc
        check = words(image["HEALTHCHECK"].partition(" CMD ")[2])
        env = environment(PATH | {"BRIDGE__PROBES__LISTEN": listen, "http_proxy": "http://127.0.0.1:9"})
        return subprocess.run(check, env=env, check=False, capture_output=True).returncode == 0

    with start("migrate") as migration:
        assert migration.wait() == 0
    with ExitStack() as stack:
        running = {name: stack.enter_context(start(name)) for name in ROLES}
        for service in running.values():
            service.wait_for_output("bridge.started")
            assert is_healthy(service)
        with running["web"].frozen():
            assert not is_healthy(running["web"])
        simulator.join("abc-defg-hij", "ann")
        wait_until(lambda: receiver.deliveries, what="a delivery")
        token = (deployed / "secrets/api_token").read_text().strip()
        me = urlsplit(next(running["web"].lines("web.listening"))["url"])._replace(path="/api/v1/me")
        address = me._replace(netloc=f"127.0.0.1:{me.port}").geturl()
        assert _get(address, token) == 200
        assert _get(address, "another") == 401
        for service in running.values():
            assert service.stop() == 0


def _get(url: str, token: str) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - on loopback
    try:
        with urllib.request.urlopen(request) as response:  # noqa: S310 - as above
            status: int = response.status
            return status
    except HTTPError as error:
        return error.code

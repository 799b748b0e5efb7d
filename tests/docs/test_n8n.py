"""The workflow of deploy/n8n: n8n's own code finds nothing wrong with it, and makes its messages of real deliveries."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bridge.events.formats import Format, flatten
from tests.docs import examples, pages
from tests.docs.requests import Send
from tests.harness import oracles

WORKFLOW = pages.ROOT / "deploy/n8n/presence-to-slack.json"
N8N = oracles.ORACLES / "n8n"
NODES = "package/dist/types/nodes.json"
"""In the package of the nodes: the descriptions of all of them."""
PATIENCE = 280


def npm(directory: Path, *arguments: str) -> str:
    if shutil.which("npm") is None and not os.environ.get("CI"):
        pytest.skip("there is no npm: install Node 20 or newer")
    done = subprocess.run(["npm", *arguments], cwd=directory, capture_output=True, check=True, timeout=PATIENCE)
    return done.stdout.decode()


@pytest.fixture(scope="module")
def n8n(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with n8n's code, and the descriptions of its nodes without the hundreds of packages that they use."""
    directory = tmp_path_factory.mktemp("n8n")
    for file in N8N.iterdir():
        if file.is_file():
            shutil.copy(file, directory)
    npm(directory, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error")
    wanted = json.loads((directory / "package.json").read_text())["descriptions"]
    (packed,) = json.loads(npm(directory, "pack", f"{wanted['name']}@{wanted['version']}", "--json"))
    assert packed["integrity"] == wanted["integrity"]
    with tarfile.open(directory / packed["filename"]) as archive:
        archive.extract(NODES, directory, filter="data")
    return directory


def run(n8n: Path, workflow: Path, requests: list[dict[str, Any]]) -> dict[str, Any]:
    output = oracles.node(str(n8n / "workflow.cjs"), str(n8n / NODES), str(workflow), input=json.dumps(requests))
    outcome: dict[str, Any] = json.loads(output)
    return outcome


@pytest.mark.campaign
async def test_the_workflow_makes_messages_of_deliveries(n8n: Path, send: Send) -> None:
    delivery = await send(style=Format.FLAT)
    empty = next(json.loads(body) for body in examples.bodies() if json.loads(body)["type"] == "room.empty")
    requests = [{"headers": delivery.headers, "params": {}, "query": {}, "body": delivery.event}]
    requests.append({**requests[0], "body": flatten(empty)})

    assert run(n8n, WORKFLOW, requests) == {
        "problems": [],
        "messages": [["Ann left Weekly stand-up (1 present)"], []],
    }


@pytest.mark.campaign
def test_a_wrong_workflow_is_noticed(n8n: Path) -> None:
    document = json.loads(WORKFLOW.read_text())
    webhook, only, slack = (node["parameters"] for node in document["nodes"])
    webhook["httpMethod"], only["condition"], slack["text"] = "POTS", {}, ""
    slack["otherOptions"]["unknown"] = True
    (n8n / "wrong.json").write_text(json.dumps(document))

    assert run(n8n, n8n / "wrong.json", [])["problems"] == [
        "Presence bridge: httpMethod has no option POTS",
        "Joined or left: parameter condition is not as described",
        "Slack: parameter otherOptions is not as described",
        'Slack: Parameter "Message Text" is required.',
    ]


def test_the_workflow_uses_only_keys_of_style_flat() -> None:
    used = set(re.findall(r"\$json\.body\.(\w+)", WORKFLOW.read_text()))
    bodies = [json.loads(body) for body in examples.bodies()]

    assert "display_name" in used
    for kind in ("peer.joined", "peer.left"):
        assert used <= flatten(next(body for body in bodies if body["type"] == kind)).keys()


def test_the_locks_name_no_registry() -> None:
    assert "resolved" not in (N8N / "package-lock.json").read_text()

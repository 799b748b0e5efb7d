"""docs/api.md: its tables are those of the code, and every snippet runs, most of them against the real program."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.config import load
from bridge.rules.access import Scope
from bridge.rules.presence import Json
from bridge.web.app import ROUTERS
from bridge.web.auth import requirements
from bridge.web.routing import ApiRoute
from tests.docs import pages
from tests.docs.requests import Send
from tests.docs.snippets import OTHER, POST, deliveries, python, request, run_javascript
from tests.harness.config import write_config
from tests.harness.process import BridgeProcess, Process, command, environment
from tests.harness.receiver import SECRET, Receiver
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

ROOM = "abc-defg-hij"
ANN: Json = {"displayName": "Ann", "email": "ann@example.com"}
PREFIX = "/api/v1"
ADDRESS = "http://127.0.0.1:8080"
BESIDE_PYTHON = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))


def test_the_table_has_every_route_with_its_scope() -> None:
    def scope(route: ApiRoute) -> str:
        (required,) = requirements(list(route.dependencies))
        return "none" if required.is_open else ", ".join(required.scopes) or "any"

    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, ApiRoute)]
    documented = {pages.codes(row["route"])[0]: row["scope"].strip("`") for row in pages.table(pages.API, "Routes")}

    assert documented == {
        f"{method} {route.path_format.removeprefix(PREFIX)}": scope(route)
        for route in routes
        if route.path_format.startswith(f"{PREFIX}/")
        for method in route.methods or ()
    }


def test_every_scope_is_explained() -> None:
    assert [pages.codes(row["scope"])[0] for row in pages.table(pages.API, "Tokens")] == [*Scope]


class Page:
    """The page's reader, beside a running bridge: shell, environment and directory."""

    def __init__(self, config: Path, url: str) -> None:
        self.directory, self._url = config.parent, url.rstrip("/")
        self.env = {"PATH": BESIDE_PYTHON, "BRIDGE_CONFIG": str(config), "API": f"{self._url}{PREFIX}"}

    def script(self, name: str, *changes: tuple[str, str]) -> list[str]:
        """A shell block as a command line, with this bridge's address."""
        text = pages.block(pages.API, f"sh: {name}")
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        return ["bash", "-euc", text.replace(ADDRESS, self._url)]

    def shell(self, name: str, *changes: tuple[str, str]) -> list[Any]:
        """Run a shell block that exports variables, keep those, and return the JSON documents of its output."""
        *command, text = self.script(name, *changes)
        done = subprocess.run(
            [*command, f'{text}\nprintf \'%s\\n\' "$API" "$TOKEN" > variables'],
            cwd=self.directory,
            env=environment(self.env),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self.env["API"], self.env["TOKEN"] = (self.directory / "variables").read_text().split()
        return list(documents(done.stdout))

    def post(self, path: str, body: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.env['TOKEN']}"}
        return httpx.post(f"{self.env['API']}{path}", json=body, headers=headers)


def documents(text: str) -> Iterator[Any]:
    while text := text.strip():
        document, end = json.JSONDecoder().raw_decode(text)
        yield document
        text = text[end:]


def shape(document: Any) -> Any:  # noqa: ANN401 - JSON
    """Its keys."""
    match document:
        case dict():
            return {key: shape(value) for key, value in document.items()}
        case list():
            return [shape(item) for item in document]
        case _:
            return None


@pytest.fixture
def config(tmp_path: Path, simulator: Simulator) -> Path:
    return write_config(
        tmp_path / "bridge.toml",
        database_url=f"sqlite:///{tmp_path}/bridge.db",
        upstream=simulator.url,
        rooms=[{"id": ROOM, "name": "Weekly stand-up"}],
        web={"listen": "127.0.0.1:0"},
    )


@pytest.fixture
def page(config: Path, simulator: Simulator) -> Iterator[Page]:
    """A bridge with Ann in the room."""
    simulator.join(ROOM, "ann", metadata=ANN)
    with BridgeProcess(config) as bridge:
        bridge.wait_ready()
        simulator.wait_for_polls(2, ROOM)
        yield Page(config, next(bridge.lines("web.listening"))["url"])


@pytest.mark.slow
def test_the_first_call_and_the_stream(page: Page, simulator: Simulator) -> None:
    (present,) = page.shell("first call")
    assert shape(present) == shape(json.loads(pages.block(pages.API, "example: presence")))

    with Process(page.script("stream"), page.directory, env=page.env) as stream:
        stream.wait_for_output(": connected")
        simulator.join(ROOM, "bo")
        stream.wait_for_output("event: peer.joined")
    (page.env["TOKEN"],) = command(page.directory / "bridge.toml", "tokens", "add", "w", "--scope", "write").split()
    shown = json.loads(pages.block(pages.API, "example: problem"))
    assert page.post("/rooms", {}).json() == {**shown, "title": HTTPStatus(422).phrase}  # that of Python 3.13


@pytest.mark.slow
def test_hooks(page: Page, simulator: Simulator, receiver: Receiver) -> None:
    hook, samples = page.shell("subscribe", ("https://hooks.example.com/1", receiver.url))
    body = json.loads(pages.block(pages.API, "make: body"))
    by_make = page.post("/hooks", {**body, "targetUrl": f"{receiver.url}/make"})
    assert by_make.status_code == 201
    assert by_make.json().items() >= {"room_id": body["room_id"], "events": [body["event"]]}.items()

    simulator.join(ROOM, "bo", metadata=ANN)
    wait_until(lambda: len(receiver.deliveries) == 2, what="both deliveries")
    (live,) = [one for one in receiver.deliveries if one.is_signed_with(hook["secret"])]
    assert live.event.keys() == samples[0].keys()

    config = page.directory / "bridge.toml"
    command(config, "endpoints", "test", by_make.json()["name"])
    page.env["HOOK_ID"] = hook["id"]
    page.shell("unsubscribe")
    assert [one["id"] for one in json.loads(command(config, "endpoints", "list", "--json"))] == [by_make.json()["id"]]


@pytest.mark.slow
def test_who_is_there_and_what_was_missed(page: Page, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    page.shell("first call")
    monkeypatch.setenv("TOKEN", page.env["TOKEN"])
    monkeypatch.setenv("API", page.env["API"])
    monkeypatch.chdir(page.directory)
    recipes = python(pages.API, "items", "present", "fastapi", "resync")
    items, store = recipes["items"], recipes["store"]
    assert recipes["present"](ROOM) == ["Ann"]

    first = next(items("/events", room=ROOM, order="asc"))
    for _ in range(2):
        store(first)
    store({**first, "id": "evt_sample", "data": {**first["data"], "room_id": "test-room", "sequence": 0}})
    simulator.join(ROOM, *(f"p{number}" for number in range(6)))
    wait_until(lambda: len(recipes["present"](ROOM)) == 7, what="the others")
    recipes["resync"]()

    stored = "SELECT id FROM events WHERE sequence > 0 ORDER BY sequence"
    with sqlite3.connect("presence.db") as database:
        kept = [row[0] for row in database.execute(stored)]
    log = [event["id"] for event in items("/events", room=ROOM, order="asc", limit=2)]
    assert kept == log
    assert len(log) == 8


async def test_the_receivers_accept_only_what_they_should(
    send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = await deliveries(send, SECRET, other=OTHER)
    requests.append(requests[0])
    statuses = [204, 401, 401, 401, 401, 401, 204]

    output = run_javascript(tmp_path, "express", POST, [request(each) for each in requests], pages.API)
    assert json.loads(output) == statuses

    monkeypatch.chdir(tmp_path)
    app = python(pages.API, "fastapi")["app"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:
        posts = [await client.post("/hooks/presence", headers=one.headers, content=one.body) for one in requests]
    assert [post.status_code for post in posts] == statuses
    assert capsys.readouterr().out == "peer.left Ann\n"


def test_the_endpoint_for_n8n_is_valid(tmp_path: Path) -> None:
    (tmp_path / "bridge.toml").write_text(pages.block(pages.API, "toml: n8n"))
    (endpoint,) = load(tmp_path / "bridge.toml", {"N8N_AUTH": "long and random"}).endpoints

    assert (endpoint.style, endpoint.events) == ("flat", ("peer.joined", "peer.left"))


def test_every_snippet_is_run() -> None:
    run = {"python: items", "python: present", "python: fastapi", "python: resync", "javascript: express"}
    run |= {"sh: first call", "sh: stream", "sh: subscribe", "sh: unsubscribe", "toml: n8n", "make: body"}
    run |= {"example: presence", "example: problem"}
    installs = {"npm install express standardwebhooks\n", "pip install fastapi uvicorn standardwebhooks\n"}

    blocks = pages.blocks(pages.API)
    assert {each.name for each in blocks if each.name} == run
    assert {each.text for each in blocks if not each.name} == installs

"""docs/simulator.md: its examples are carried out, its tables are compared with the simulator."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from bridge.simulator import Simulation
from bridge.simulator.control import CONTROL_PATH, ROUTES
from bridge.simulator.distortions import FUTURE_SECONDS, HUGE_CHARACTERS
from bridge.simulator.faults import OPTIONS, SCOPES, FaultKind, Scope
from bridge.simulator.model import EmptyAs
from bridge.simulator.requests import KEPT_REQUESTS
from bridge.simulator.scenario import load_scenario, play_scenario
from bridge.simulator.server import serve
from bridge.simulator.steps import STEP
from bridge.simulator.upstream import SLOW_SECONDS, STALE_SECONDS
from tests.docs import pages

ACTS_ON = {
    Scope.ANY: "any",
    Scope.PARTICIPANTS: "participants",
    Scope.LIST: "list",
    Scope.NO_SESSION: "empty",
    Scope.LIVE_SESSION: "live session",
}
BY_CONTROL = {("GET", "rooms/ROOM"), ("GET", "requests")}
"""What the control API answers beside ROUTES and the steps."""


async def test_the_requests_that_are_shown_move_people() -> None:
    simulation = Simulation()
    async with serve(simulation) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for method, path, body in re.findall(
            r"curl -X (\w+) \$SIMULATOR(\S+) (?:\\\n  )?-d '(.*?)'", pages.block(pages.SIMULATOR, "control"), re.DOTALL
        ):
            response = await client.request(method, path, content=body)
            assert response.status_code == 200, response.text
        room = (await client.get(f"{CONTROL_PATH}/rooms/stand-up")).json()

    assert [peer["metadata"]["displayName"] for peer in room["peers"]] == ["Ann", "Robert"]


async def test_the_scenario_that_is_shown_is_one(tmp_path: Path) -> None:
    file = tmp_path / "day.toml"
    file.write_text(pages.block(pages.SIMULATOR, "scenario"))
    simulation = Simulation()
    scenes = load_scenario(file)

    await play_scenario(simulation, scenes)

    assert [scene.at for scene in scenes] == [0, 0.5, 1, 1.5]
    people = [one.peer_id for one in simulation.room("stand-up").history if one.peer_id is not None]
    assert people == ["ann", "ann", "bob", "bob"]
    assert simulation.faults


def test_every_request_of_the_control_api_stands_in_the_table() -> None:
    shown = {
        tuple(pages.codes(row["request"])[0].replace(f"{CONTROL_PATH}/", "").split(" "))
        for row in pages.table(pages.SIMULATOR, "Moving people")
    }
    steps = set(STEP.json_schema()["discriminator"]["mapping"]) - {"faults"}

    assert shown == {*ROUTES, *BY_CONTROL, *(("POST", f"rooms/ROOM/{step}") for step in steps)}


def test_every_fault_stands_in_the_table_with_its_options() -> None:
    rows = {pages.codes(row["kind"])[0]: row for row in pages.table(pages.SIMULATOR, "Faults")}

    assert rows.keys() == {kind.value for kind in FaultKind}
    for kind in FaultKind:
        assert set(pages.codes(rows[kind]["options"])) == OPTIONS.get(kind, frozenset()), kind
        assert rows[kind]["acts on"] == ACTS_ON[SCOPES.get(kind, Scope.ANY)], kind


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    text = pages.read(pages.SIMULATOR)

    assert (FUTURE_SECONDS, SLOW_SECONDS, STALE_SECONDS) == (3600, 1, 30)
    assert f"newest {KEPT_REQUESTS:,} are kept" in text
    assert f"has {HUGE_CHARACTERS // 1024} KiB" in text
    assert all(f'`"{value}"`' in text for value in EmptyAs)

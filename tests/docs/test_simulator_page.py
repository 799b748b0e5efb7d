"""docs/simulator.md: its table of routes is compared with the simulator."""

from __future__ import annotations

from bridge.simulator.routes import API_PATH, ROUTES, ROUTES_WITH_ROOM
from tests.docs import pages


def test_every_route_is_in_the_table() -> None:
    shown = {path for row in pages.table(pages.SIMULATOR, "Routes") for path in pages.codes(row["path"])}
    assert shown == {f"{prefix}ROOM" for prefix, _ in ROUTES_WITH_ROOM} | ROUTES.keys() - {""}
    assert f"`{API_PATH}`" in pages.read(pages.SIMULATOR)

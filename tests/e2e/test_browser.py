"""The dashboard in a real browser, over a real process: with JavaScript and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.harness.browser import Visitor, chromium, overflow, serious_faults
from tests.harness.config import write_config
from tests.harness.oracles import require_oracles
from tests.harness.process import BridgeProcess
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TOKEN = "a-token-for-the-browser-0123456789"
HOSTILE = {
    "img": "<img src=x onerror=alert(1)>",
    "rtl": "\u202egnp.exe\u202c",
    "none": "\u200b\u2060",
    "long": "Wolfeschlegelsteinhausenbergerdorff" * 6,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def program(
    tmp_path: Path, sqlite_database_url: str, simulator: Simulator, receiver: Receiver
) -> Iterator[BridgeProcess]:
    """Two rooms, one of them with hostile names, and an endpoint that refuses the first room.empty."""
    receiver.script(Response(status=422, times=2, when=lambda one: one.event.get("type") == "room.empty"))
    config = write_config(
        tmp_path / "bridge.toml",
        database_url=sqlite_database_url,
        upstream=simulator.url,
        rooms=[{"id": "stand-up", "name": "Stand-up"}, {"id": "names"}],
        endpoints=[receiver.endpoint("crm")],
        delivery={"refused_schedule": ["100ms"]},
        web={"listen": "127.0.0.1:0", "tokens": [{"name": "ops", "token": TOKEN, "scopes": ["admin"]}]},
    )
    with BridgeProcess(config) as started:
        started.wait_ready()
        for peer_id, name in HOSTILE.items():
            simulator.join("names", peer_id, metadata={"displayName": name})
        simulator.join("stand-up", "ann", metadata={"displayName": "Ann"})
        receiver.wait_for(lambda events: len(events) >= 6, "everybody has joined")
        simulator.leave("stand-up", "ann")
        receiver.wait_for(lambda events: any(one["type"] == "peer.left" for one in events), "Ann has left")
        yield started


def visit(browser: Browser, program: BridgeProcess, **settings: Any) -> Visitor:  # noqa: ANN401 - Playwright's own
    """A visitor who has signed in."""
    base = next(program.lines("web.listening"))["url"].removesuffix("/")
    visitor = Visitor(browser.new_context(**settings), base)
    page = visitor.open("/endpoints")
    assert "/sign-in" in page.url
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Endpoints")).to_be_visible()
    return visitor


def test_a_join_appears_without_reload(browser: Browser, program: BridgeProcess, simulator: Simulator) -> None:
    visitor = visit(browser, program)
    page = visitor.open("/")
    page.evaluate("window.stillHere = true")
    row = page.locator("tr", has_text="Stand-up")
    expect(row).not_to_contain_text("Grace")
    simulator.join("stand-up", "grace", metadata={"displayName": "Grace"})
    expect(row).to_contain_text("Grace")
    expect(row.locator(".state")).to_have_text("occupied")
    assert page.evaluate("window.stillHere")
    assert visitor.problems == []


def test_what_happens_before_the_page_listens_is_shown(
    browser: Browser, program: BridgeProcess, simulator: Simulator, receiver: Receiver
) -> None:
    visitor = visit(browser, program)

    def join_before(route: Route) -> None:
        simulator.join("stand-up", "hedy", metadata={"displayName": "Hedy"})
        receiver.wait_for(lambda events: any(one["data"].get("peer_id") == "hedy" for one in events), "Hedy's join")
        route.continue_()

    visitor.page.route("**/live", join_before, times=1)
    page = visitor.open("/")
    expect(page.locator("tr", has_text="Stand-up")).to_contain_text("Hedy")


@pytest.mark.parametrize("javascript", [True, False])
def test_a_dead_letter_is_redelivered(
    browser: Browser, program: BridgeProcess, receiver: Receiver, *, javascript: bool
) -> None:
    visitor = visit(browser, program, java_script_enabled=javascript)
    page = visitor.open("/deliveries?state=dead")
    while page.get_by_role("button", name="Redeliver").count() == 0:
        page.reload()
    before = len(receiver.accepted)
    page.get_by_role("button", name="Redeliver").first.click()
    expect(page.get_by_role("status")).to_contain_text("sent again")
    receiver.wait_for(lambda _: len(receiver.accepted) > before, "the redelivery")
    assert receiver.accepted[-1].headers["bridge-replay"] == "true"


@pytest.mark.parametrize(("scheme", "width"), [("dark", 390), pytest.param("light", 1280, marks=pytest.mark.campaign)])
def test_every_page_is_readable(browser: Browser, program: BridgeProcess, scheme: Any, width: int) -> None:  # noqa: ANN401 - a literal
    require_oracles()
    visitor = visit(browser, program, color_scheme=scheme, viewport={"width": width, "height": 800})
    faults = []
    for path in pages(visitor):
        page = visitor.open(path)
        expect(page.locator("h1")).to_be_visible()
        faults += [f"{path}: {fault}" for fault in serious_faults(page)]
        assert overflow(page) <= 0, path
    assert faults == []
    assert visitor.problems == []


def test_everything_can_be_reached_by_keyboard(browser: Browser, program: BridgeProcess) -> None:
    page = visit(browser, program).open("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    names = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        names.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Rooms", "Audit", "Sign out", "Stand-up", "Add a room"} <= names


def test_signing_out_ends_the_session(browser: Browser, program: BridgeProcess) -> None:
    visitor = visit(browser, program)
    page = visitor.open("/")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto(visitor.base + "/events")
    assert "/sign-in" in page.url


def pages(visitor: Visitor) -> list[str]:
    """Every page that links lead to, one of a kind, and two sessions."""
    found = ["/", "/sessions", "/endpoints", "/deliveries", "/deliveries?state=dead", "/events", "/sources", "/audit"]
    for start, pattern in [
        ("/", "/room?"), ("/sessions", "/sessions/"), ("/endpoints", "/endpoints/"), ("/events", "/events/")
    ]:  # fmt: skip
        page = visitor.open(start)
        links = page.locator(f"main a[href^='{pattern}']")
        found += [str(link.get_attribute("href")) for link in links.all()[: 2 if start == "/sessions" else 1]]
    return found

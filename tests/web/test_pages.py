"""The pages: what they show, who may see them, and what their forms do. Browsers look at them in tests/e2e."""

from __future__ import annotations

import base64
import re
from contextlib import ExitStack
from datetime import timedelta
from html.parser import HTMLParser

import httpx
import pytest

from bridge.admin.tokens import remove_token
from bridge.web.links import OneTimeLinks
from bridge.web.viewers import Viewers
from tests.harness.builders import peer, seen
from tests.harness.store_driver import GOOD, REJECTED
from tests.web.conftest import Web

HOSTILE = "<img src=x onerror=alert(1)>\u202e\u200b"
PAGES = ["/", "/room?id=a&source=main", "/sessions", "/endpoints", "/deliveries", "/deliveries?state=dead", "/events"]
HTML = {"accept": "text/html"}


class _Elements(HTMLParser):
    """The elements of a page: names with attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def met(web: Web) -> Web:
    """Room a with a person of a hostile name, room b empty after a visit, room c never polled; one dead letter."""
    store = web.store
    store.track("a", "b", "c")
    store.subscribe("crm", max_concurrency=8)
    store.poll(0, a=seen(), b=seen())
    store.poll(10, a=seen(peer("p1", 5, {"displayName": HOSTILE})), b=seen(peer("p2", 6)))
    store.poll(20, a=seen(peer("p1", 5, {"displayName": HOSTILE})), b=seen())
    store.deliver(21, lambda _, kind: REJECTED if kind == "room.empty" else GOOD)
    for second in (30, 400, 500):
        store.deliver(second, lambda _, kind: REJECTED if kind == "room.empty" else GOOD)
    web.now = 600
    return web


async def page(client: httpx.AsyncClient, path: str) -> str:
    response = await client.get(path, headers=HTML)
    assert response.status_code == 200, (path, response.text)
    return response.text


async def sign_in(client: httpx.AsyncClient, token: str) -> str:
    """Sign in, and return the value that forms carry."""
    response = await client.post("/sign-in", data={"token": token, "next": "/endpoints"})
    assert (response.status_code, response.headers["location"]) == (303, "/endpoints")
    return str(next(one["value"] for one in _Elements(await page(client, "/")).all("input") if one["name"] == "csrf"))


async def test_names_of_strangers_are_only_text(met: Web) -> None:
    async with met.client() as client:
        sessions = re.findall(r"/sessions/(ses_\w+)", await page(client, "/sessions"))
        events = re.findall(r"/events/(evt_\w+)", await page(client, "/events"))
        endpoint = re.findall(r"/endpoints/(ep_\w+)", await page(client, "/endpoints"))[0]
        paths = [*PAGES, *(f"/sessions/{one}" for one in sessions), *(f"/events/{one}" for one in events)]
        for path in [*paths, f"/endpoints/{endpoint}", "/sources", "/sign-in"]:
            text = await page(client, path)
            elements = _Elements(text)
            assert elements.all("img") == [], path
            assert all(name.startswith("hx-") or not name.startswith("on") for _, a in elements.found for name in a)
            assert all("style" not in attributes for _, attributes in elements.found), path
            assert all(one.get("src") for one in elements.all("script")), path
            assert "\u202e" not in text, path
            assert "\u200b" not in text, path


async def test_the_policy_allows_nothing_inline_and_no_other_host(web: Web) -> None:
    async with web.client() as client:
        headers = (await client.get("/")).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "form-action")} == {"'self'"}
    assert headers["x-content-type-options"] == "nosniff"


async def test_the_first_page_weighs_little(web: Web) -> None:
    for number in range(100):
        web.store.track(f"room-{number:03}", name=f"Room number {number}")
    web.store.poll(0, **{f"room-{number:03}": seen(*"abcdef") for number in range(100)})
    web.now = 10
    async with web.client() as client:
        text = await page(client, "/")
        elements = _Elements(text)
        parts = [
            "/",
            *(str(one["src"]) for one in elements.all("script")),
            *(str(one["href"]) for one in elements.all("link")),
        ]
        weight = 0
        for part in parts:
            async with client.stream("GET", part, headers={"accept-encoding": "gzip"}) as response:
                weight += sum([len(chunk) async for chunk in response.aiter_raw()])
    assert weight < 60_000


async def test_pages_say_what_is_there_and_what_to_do_without_anything(web: Web) -> None:
    async with web.client() as client:
        assert "[[rooms]]" in await page(client, "/")
        assert "[[endpoints]]" in await page(client, "/endpoints")


async def test_a_room_has_its_state_in_words(met: Web) -> None:
    async with met.client() as client:
        text = await page(client, "/")
        rows = {
            key: row for row in text.split("<tr>") for key in "abc" if f"/room?id={key}&" in row.replace("amp;", "")
        }
        words = {key: re.findall(r'class="state (\w+)"', row) for key, row in rows.items()}
        assert words == {"a": ["occupied"], "b": ["empty"], "c": ["unknown"]}
        assert "never seen live" in rows["c"]
        assert "&lt;img src=x onerror=alert(1)&gt;" in rows["a"]
        assert 'class="state dead"' in await page(
            client, "/events/" + _dead(await page(client, "/deliveries?state=dead"))
        )


async def test_a_room_has_only_its_own_sessions(met: Web) -> None:
    met.store.track("a", source="other")
    async with met.client() as client:
        assert "/sessions/ses_" in await page(client, "/room?id=a&source=main")
        assert "/sessions/ses_" not in await page(client, "/room?id=a&source=other")
        ambiguous = await client.get("/room?id=a", headers=HTML)
        assert (ambiguous.status_code, "several sources" in ambiguous.text) == (409, True)


async def test_with_a_token_pages_ask_for_a_sign_in_and_come_back(met: Web) -> None:
    token = met.token("read")
    async with met.client() as client:
        refused = await client.get("/events?type=peer.left", headers=HTML)
        assert (refused.status_code, refused.headers["location"]) == (303, "/sign-in?next=%2Fevents%3Ftype%3Dpeer.left")
        assert (await client.get("/events")).status_code == 401  # a program gets the problem

        wrong = await client.post("/sign-in", data={"token": "wrong"})
        assert wrong.status_code == 401
        assert "unknown" in wrong.text

        await sign_in(client, token)
        begun = await client.post("/sign-in", data={"token": token})
        flags = begun.headers["set-cookie"].lower()
        assert "httponly" in flags
        assert "samesite=strict" in flags
        assert token not in flags
        assert (await client.get("/api/v1/rooms")).status_code == 200

        met.store.write(remove_token, "read")
        met.token("read", name="other")
        assert (await client.get("/", headers=HTML)).status_code == 303


async def test_a_session_may_do_what_its_token_may(met: Web) -> None:
    async with met.client() as client:
        csrf = await sign_in(client, met.token("read"))
        refused = await client.post("/actions/rooms/add", data={"csrf": csrf, "room_id": "new"})
        assert refused.status_code == 403
        assert "Add a room" not in await page(client, "/")


async def test_a_form_of_another_site_is_refused(met: Web) -> None:
    token = met.token("write")
    async with met.client() as client, met.client() as other:
        csrf = await sign_in(client, token)
        theirs = await sign_in(other, met.token("write", name="second"))
        form = {"room_id": "new", "csrf": csrf}
        assert (await client.post("/actions/rooms/add", data=form | {"csrf": theirs})).status_code == 403
        assert (await client.post("/actions/rooms/add", data={"room_id": "new"})).status_code == 403
        foreign = await client.post("/actions/rooms/add", data=form, headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
        api = await client.post("/api/v1/rooms", json={"room_id": "new"})
        assert api.status_code == 401  # the API takes a session for reading only
        assert (await client.post("/sign-out", data={})).status_code == 403
        assert (await client.post("/actions/rooms/add", data=form)).status_code == 303

        assert (await client.post("/sign-out", data={"csrf": csrf})).headers["location"] == "/sign-in"
        assert (await client.get("/", headers=HTML)).status_code == 303


async def test_a_form_that_came_through_a_proxy_is_from_here(web: Web) -> None:
    token = web.token("read")

    async def status_of(origin: str) -> int:
        async with web.client(origin=origin) as client:
            return (await client.post("/sign-in", data={"token": token})).status_code

    assert await status_of("http://127.0.0.1:8080") == 303
    assert await status_of("https://rooms.example") == 403
    assert await status_of("null") == 403
    assert await status_of("http://[") == 403
    web.configure(web={"public_url": "https://rooms.example/bridge"})
    assert await status_of("https://rooms.example") == 303
    assert await status_of("https://evil.example") == 403


@pytest.mark.parametrize("message", [b'["good", "\\ud800"]', b'[[], "x"]', b"[" * 3000, b"nothing"])
async def test_a_message_that_is_none_is_not_shown(web: Web, message: bytes) -> None:
    cookie = f"bridge_message={base64.urlsafe_b64encode(message).decode()}"
    async with web.client(cookie=cookie) as client:
        await page(client, "/")


async def test_a_long_message_fits_into_a_cookie(met: Web) -> None:
    async with met.client() as client:
        csrf = await sign_in(client, met.token("write"))
        form = {"csrf": csrf, "room_id": "💥" * 5_000, "source": "main"}
        response = await client.post("/actions/rooms/remove", data=form)
        assert len(response.cookies["bridge_message"]) < 4_000
        assert 'class="notice bad"' in await page(client, "/")
        assert (await client.post("/actions/rooms/poll", data=form | {"room_id": "a\0"})).status_code == 422


async def test_forms_do_what_they_say(met: Web) -> None:
    async with met.client() as client:
        csrf = await sign_in(client, met.token("write"))

        async def act(action: str, **fields: str) -> str:
            response = await client.post(f"/actions/{action}", data={"csrf": csrf, **fields})
            if response.status_code == 200:
                return response.text
            return await page(client, response.headers["location"])

        endpoint = re.findall(r"/endpoints/(ep_\w+)", await page(client, "/endpoints"))[0]
        assert "Disabled: the backlog is kept" in await act("endpoints/disable", endpoint=endpoint)
        assert 'class="state disabled"' in await page(client, f"/endpoints/{endpoint}")
        assert "Enabled" in await act("endpoints/enable", endpoint=endpoint)
        dead = _dead(await page(client, "/deliveries?state=dead"))
        assert "The event is sent again." in await act("events/redeliver", event=dead, endpoint=endpoint)
        assert "requested already" in await act("events/redeliver", event=dead, endpoint=endpoint)
        counted = await page(client, f"/endpoints/{endpoint}?replay_since=1h")
        assert re.search(r"[1-9]\d* events? since .* would be sent", counted)
        assert re.search(
            r"\d+ events? will be sent again", await act("endpoints/replay", endpoint=endpoint, since="1h")
        )
        assert "is tracked from now on" in await act("rooms/add", room_id="new", name="New room")
        assert "New room" in await page(client, "/")
        assert "room_id: is missing" in await act("rooms/add", name="No id")
        assert "no longer tracked" in await act("rooms/remove", room_id="new", source="main")
        assert 'class="notice bad"' in await act("rooms/remove", room_id="nowhere", source="main")

        made = await act("endpoints/add", name="made", url="http://127.0.0.1:9/hook", events="peer.*, room.empty")
        secret = re.findall(r"whsec_[\w+/=]+", made.replace("&#43;", "+"))[0]
        assert secret not in await page(client, "/endpoints")
        assert 'class="notice bad"' in await act("endpoints/add", name="bad", url="nonsense")


async def test_a_link_signs_in_once(web: Web) -> None:
    links: OneTimeLinks = web.app.state.state.links
    path = links.new_path()
    async with web.client() as client, web.client() as other:
        assert (await other.head(path)).status_code == 200
        assert (await client.get(path)).status_code == 303
        assert "this machine" in await page(client, "/")
        assert (await other.get(path)).status_code == 401
        assert "bridge_session" not in other.cookies


@pytest.mark.parametrize("path", ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"])
async def test_signing_in_leads_to_no_other_host(web: Web, path: str) -> None:
    token = web.token("read")
    async with web.client() as client:
        response = await client.post("/sign-in", data={"token": token, "next": path})
        assert response.headers["location"] == "/"


async def test_a_changed_cookie_is_no_session(web: Web) -> None:
    token = web.token("admin")
    async with web.client() as client:
        await sign_in(client, token)
        value = client.cookies["bridge_session"]
        surrogate = base64.urlsafe_b64encode(b'["\\ud800", 9999999999, "x"]').decode()
        for changed in (value[:-2], value.replace(".", "x.", 1), "x", ".", "e30.e30", f"{surrogate}.x", "W1tb" * 5000):
            response = await web.client(cookie=f"bridge_session={changed}").get("/", headers=HTML)
            assert response.status_code == 303, changed
        web.now += 31 * 86_400
        assert (await client.get("/", headers=HTML)).status_code == 303


def _dead(text: str) -> str:
    found: str = re.findall(r"/events/(evt_\w+)", text)[0]
    return found


def test_many_open_pages_are_renewed_less_often() -> None:
    viewers = Viewers()
    with ExitStack() as stack:
        paces = []
        for _ in range(100):
            stack.enter_context(viewers.one_more())
            paces.append(viewers.pace)
    assert (paces[0], paces[-1], viewers.pace) == (0.5, 25, 0.5)


async def test_a_source_has_its_condition_and_its_clock(met: Web) -> None:
    met.app.state.state.metrics.of_source("main").show_clock_skew(timedelta(seconds=-7))
    async with met.client() as client:
        text = await page(client, "/sources")
    assert 'class="state ok"' in text
    assert "7s ahead" in text

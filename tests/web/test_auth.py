"""Permissions: tokens of the configuration and of the database, scopes, callers without a token."""

from __future__ import annotations

import pytest

from bridge.admin.tokens import remove_token
from bridge.rules.access import Scope
from bridge.web.app import ROUTERS
from bridge.web.auth import requirements
from bridge.web.routing import API, ApiRoute
from tests.web.conftest import Web

ROOMS = "/api/v1/rooms"
ME = "/api/v1/me"


async def test_tokens_of_the_configuration_and_of_the_database_name_themselves(web: Web) -> None:
    web.configure(web={"tokens": [{"name": "ops", "token": "configured", "scopes": ["write", "metrics"]}]})
    stored = web.token("read", name="stored")

    async with web.client("configured") as ops, web.client(stored) as other:
        assert (await ops.get(ME)).json() == {"name": "ops", "scopes": ["write", "metrics"]}
        assert (await other.get(ME)).json() == {"name": "stored", "scopes": ["read"]}


async def test_a_removed_token_is_refused_by_the_next_request(web: Web) -> None:
    web.configure(web={"tokens": [{"name": "ops", "token": "configured", "scopes": ["read"]}]})
    stored = web.token("read", name="stored")

    async with web.client("configured") as ops, web.client(stored) as other:
        assert [(await client.get(ROOMS)).status_code for client in (ops, other)] == [200, 200]
        web.store.write(remove_token, "stored")
        assert [(await client.get(ROOMS)).status_code for client in (ops, other)] == [200, 401]
        web.configure(web={"tokens": [{"name": "new", "token": "another", "scopes": ["read"]}]})
        assert (await ops.get(ROOMS)).status_code == 401


@pytest.mark.parametrize(
    ("header", "error"),
    [("", "invalid_request"), ("Bearer", "invalid_request"), ("Basic abc", "invalid_request"),
     ("Bearer nobody", "invalid_token"), ("bearer \xff", "invalid_token")],
)  # fmt: skip
async def test_a_wrong_token_is_challenged(web: Web, header: str, error: str) -> None:
    web.token("read")
    async with web.client() as client:
        response = await client.get(ROOMS, headers={b"authorization": header.encode("latin-1")})

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == f'Bearer realm="presence bridge", error="{error}"'
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("scope", "methods"),
    [
        ("read", {"GET"}),
        ("hooks", set()),
        ("metrics", set()),
        ("write", {"GET", "POST"}),
        ("admin", {"GET", "POST"}),
    ],
)
async def test_a_scope_permits_what_it_includes(web: Web, scope: str, methods: set[str]) -> None:
    async with web.client(web.token(scope)) as client:
        statuses = {method: (await client.request(method, ROOMS)).status_code for method in ("GET", "POST")}
        me = (await client.get(ME)).status_code

    assert {method for method, status in statuses.items() if status != 403} == methods
    assert me == 200


async def test_without_any_token_callers_on_this_machine_read_and_others_do_not(web: Web) -> None:
    async with web.client() as here, web.client(address="192.0.2.7") as there, web.client("made-up") as wrong:
        assert (await here.get(ROOMS)).status_code == 200
        assert (await here.get(ME)).json() == {"name": "anonymous", "scopes": ["read", "metrics"]}
        assert (await here.get(f"{API}/samples/peer.joined")).status_code == 200
        assert (await here.post(ROOMS, json={})).status_code == 401
        assert (await here.post(f"{API}/hooks", json={})).status_code == 401
        assert (await here.delete(f"{API}/hooks/x")).status_code == 401
        assert (await there.get(f"{API}/samples/peer.joined")).status_code == 401
        assert (await there.get(ROOMS)).status_code == 401
        assert (await wrong.get(ROOMS)).status_code == 401
        web.token("hooks")
        assert (await here.get(ROOMS)).status_code == 401


async def test_a_token_may_be_used_so_often_and_no_other_pays_for_it(web: Web) -> None:
    web.configure(web={"requests_per_second": 0.5})

    async with web.client(web.token("read")) as one, web.client(web.token("write")) as other:
        assert [(await one.get(ME)).status_code for _ in range(3)] == [200, 429, 429]
        assert (await other.get(ME)).status_code == 200
        assert (await one.get(ME)).headers["retry-after"] in {"1", "2"}


async def test_a_token_is_checked_before_the_body_is_read(web: Web) -> None:
    web.token("write")
    async with web.client() as client:
        assert (await client.post(ROOMS, content=b"{", headers={"content-type": "application/json"})).status_code == 401


def test_every_route_declares_what_it_requires() -> None:
    """Routes that change something need more than a token for reading."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, ApiRoute)]
    assert len(routes) == sum(len(router.routes) for router in ROUTERS)
    for route in routes:
        (required,) = requirements(list(route.dependencies))
        if (route.methods or set()) - {"GET"} and not required.is_open:
            assert required.scopes, route.path
            assert Scope.READ not in required.scopes, route.path

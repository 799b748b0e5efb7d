"""Endpoints: list, add, change, remove, test, rotate, replay, enable and disable; by name or id."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Query
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from bridge.admin.endpoints import EndpointState, ListedEndpoint, ShownEndpoint, list_endpoints, show_endpoint
from bridge.admin.listing import document
from bridge.compose import endpoint_context, open_webhook_client
from bridge.config.checks import choice
from bridge.config.models import Duration, Label, Listed, Table
from bridge.db.encryption import SecretCipher
from bridge.delivery.endpoints import (
    add_endpoint,
    disable_endpoint,
    enable_endpoint,
    find_endpoint,
    remove_endpoint,
    rotate_secret,
)
from bridge.delivery.replay import Range, request_replay
from bridge.delivery.revise import revise_endpoint
from bridge.delivery.samples import SentSample, send_sample
from bridge.delivery.snapshots import append_snapshots
from bridge.delivery.targets import load_target
from bridge.events.types import EventType
from bridge.rules.access import Scope
from bridge.web.auth import requires
from bridge.web.deliveries import Count
from bridge.web.endpoint_bodies import NewEndpoint, check_address, revised
from bridge.web.paging import ByName, Items, page_response
from bridge.web.params import read_period
from bridge.web.problems import ProblemError
from bridge.web.routing import api_router
from bridge.web.state import AppState, State

router = api_router(tags=["endpoints"])

MOST_EVENTS = 5_000
StateFilter = Annotated[EndpointState | None, Query(alias="state", description="Only endpoints in this state.")]


class AddedEndpoint(ShownEndpoint):
    """An endpoint and the secret that was generated for it; null if one was given. No other response has it."""

    secret: str | None
    public_key: str | None


class Rotation(Table):
    """A change of the secret; the old one keeps signing for `grace`, or `delivery.rotation_grace`."""

    grace: Duration | None = None


class TestRequest(Table):
    """A test delivery of a type."""

    type: Annotated[EventType, choice(EventType)] = EventType.PEER_JOINED


class Replay(Table):
    """Events to send again: by id, or those recorded in [since, until), or only dead letters of these."""

    since: str | None = None
    until: str | None = None
    failed: bool = False
    events: Annotated[Listed[Label] | None, Field(min_length=1, max_length=MOST_EVENTS)] = None
    dry_run: bool = False


@router.get("/endpoints", dependencies=[requires(Scope.READ)], response_model=Items[ListedEndpoint])
async def list_subscribed(state: State, page: ByName, in_state: StateFilter = None) -> Response:
    """Endpoints by name, REST hooks too."""
    return page_response(await state.database.read(list_endpoints, page, state=in_state))


@router.post("/endpoints", dependencies=[requires(Scope.WRITE)], response_model=AddedEndpoint, status_code=201)
async def add(state: State, body: NewEndpoint) -> Response:
    """Add an endpoint. It gets the events from now on."""
    await check_address(state, body.url, "body", "url")
    made = await state.database.write(add_endpoint, body.spec(), endpoint_context(state.settings(), state.runtime))
    await _append_snapshots(state)
    return await _with_secret(state, body.name, None if body.secret is not None else made, 201)


@router.get("/endpoints/{endpoint}", dependencies=[requires(Scope.READ)], response_model=ShownEndpoint)
async def show(state: State, endpoint: str) -> Response:
    """An endpoint with its settings, health and backlog; secrets and values of headers are hidden."""
    return JSONResponse(document(await _shown(state, endpoint)))


@router.patch("/endpoints/{endpoint}", dependencies=[requires(Scope.WRITE)], response_model=ShownEndpoint)
async def change(
    state: State, endpoint: str, changes: Annotated[dict[str, Any], Body(description="Keys of POST /endpoints.")]
) -> Response:
    """Change some settings of an endpoint. The secret before a new one signs for `delivery.rotation_grace`."""
    if isinstance(url := changes.get("url"), str):
        await check_address(state, url, "body", "url")
    key = (await state.database.read(find_endpoint, endpoint)).public_id
    context = endpoint_context(state.settings(), state.runtime)
    await state.database.write(revise_endpoint, key, lambda spec: revised(spec, changes), context)
    await _append_snapshots(state)
    return JSONResponse(document(await _shown(state, key)))


@router.delete("/endpoints/{endpoint}", dependencies=[requires(Scope.WRITE)], status_code=204)
async def remove(state: State, endpoint: str) -> None:
    """Remove an endpoint with its backlog, attempts and dead letters. The log of events stays."""
    await state.database.write_aside(remove_endpoint, endpoint)


@router.post("/endpoints/{endpoint}/test", dependencies=[requires(Scope.WRITE)], response_model=SentSample)
async def send_test(state: State, endpoint: str, body: TestRequest | None = None) -> Response:
    """Send one signed sample with the header `bridge-test: true`; nothing of it is stored."""
    settings, runtime = state.settings(), state.runtime
    cipher = SecretCipher(settings.encryption_keys)
    target = await state.database.read(load_target, endpoint, now=runtime.now(), cipher=cipher)
    kind = (body or TestRequest()).type
    async with open_webhook_client(settings, runtime) as client:
        sent = await send_sample(client, target, kind, runtime, settings.delivery.policy.timeout)
    return JSONResponse(document(sent))


@router.post("/endpoints/{endpoint}/rotate", dependencies=[requires(Scope.WRITE)], response_model=AddedEndpoint)
async def rotate(state: State, endpoint: str, body: Rotation | None = None) -> Response:
    """Generate a new secret; only for endpoints whose secret was generated."""
    context = endpoint_context(state.settings(), state.runtime)
    fresh = await state.database.write(rotate_secret, endpoint, context, (body or Rotation()).grace)
    return await _with_secret(state, endpoint, fresh, 200)


@router.post("/endpoints/{endpoint}/replay", dependencies=[requires(Scope.WRITE)], response_model=Count)
async def replay(state: State, endpoint: str, body: Replay) -> Response:
    """Send events again. `count` leaves out what was requested already; with `dry_run` they are only counted."""
    period = read_period(state, body.since, body.until, "body")
    wanted = Range(since=period.since, until=period.until, only_failed=body.failed)
    if (body.events is None) == (wanted == Range()):
        detail = "give event ids, or a range of since, until and failed; not both"
        raise ProblemError(422, detail, errors=[{"loc": ["body"], "msg": detail}])
    key = (await state.database.read(find_endpoint, endpoint)).id
    now, dry_run = state.runtime.now, body.dry_run
    count = await request_replay(state.database, key, body.events or wanted, now, dry_run=dry_run)
    return JSONResponse({"count": count})


@router.post("/endpoints/{endpoint}/enable", dependencies=[requires(Scope.WRITE)], response_model=ShownEndpoint)
async def enable(state: State, endpoint: str) -> Response:
    """Deliver to an endpoint again. Its whole backlog is due at once, in order."""
    await state.database.write(enable_endpoint, endpoint, state.runtime.now())
    return JSONResponse(document(await _shown(state, endpoint)))


@router.post("/endpoints/{endpoint}/disable", dependencies=[requires(Scope.WRITE)], response_model=ShownEndpoint)
async def disable(state: State, endpoint: str) -> Response:
    """Stop delivering to an endpoint. Its backlog is kept until it is enabled."""
    await state.database.write(disable_endpoint, endpoint)
    return JSONResponse(document(await _shown(state, endpoint)))


async def _shown(state: AppState, endpoint: str) -> ShownEndpoint:
    cipher = SecretCipher(state.settings().encryption_keys)
    return await state.database.read(show_endpoint, endpoint, now=state.runtime.now(), cipher=cipher)


async def _with_secret(state: AppState, endpoint: str, secret: str | None, status: int) -> Response:
    shown = await _shown(state, endpoint)
    made = {"secret": secret, "public_key": shown.secrets[0].public_key}
    return JSONResponse(document(shown) | made, status)


async def _append_snapshots(state: AppState) -> None:
    """Append the snapshots that a new subscription to `room.snapshot` waits for."""
    while await state.database.write_aside(append_snapshots, state.runtime.now(), state.runtime.new_id):
        pass

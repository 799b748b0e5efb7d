"""Every snippet of docs/verifying.md accepts real deliveries and rejects forged, changed and old ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.events.formats import Format
from bridge.rules.signing import Ed25519Secret, generate_signing_key, parse_secret
from tests.docs import pages
from tests.docs.requests import Send
from tests.docs.snippets import OTHER, POST, VERIFY, deliveries, python, request, run_javascript
from tests.harness.receiver import SECRET, Delivery

SIGNING_KEY = generate_signing_key(b"s" * 32)
HUDDLE01_SECRET = "any text that both sides know"


def public_key() -> str:
    secret = parse_secret(SIGNING_KEY)
    assert isinstance(secret, Ed25519Secret)
    return str(secret.public_key)


def event_or_none(verified: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - whatever the snippet returns
    try:
        return verified(*arguments)
    except Exception:  # noqa: BLE001 - the page says: raises an exception
        return None


def assert_only_the_first(events: Sequence[Any], requests: Sequence[Delivery]) -> None:
    assert events == [requests[0].event, *[None] * (len(requests) - 1)]


async def test_the_python_snippets_for_v1_accept_only_what_they_should(send: Send) -> None:
    requests = await deliveries(send, SECRET, other=OTHER)
    with_package, by_hand = python(pages.VERIFYING, "v1")["verified"], python(pages.VERIFYING, "by hand")["verified"]

    assert_only_the_first([event_or_none(with_package, each.headers, each.body) for each in requests], requests)
    assert_only_the_first([event_or_none(by_hand, SECRET, each.headers, each.body) for each in requests], requests)


async def test_the_javascript_snippet_for_v1_accepts_only_what_it_should(send: Send, tmp_path: Path) -> None:
    requests = await deliveries(send, SECRET, other=OTHER)

    output = run_javascript(tmp_path, "v1", VERIFY, [request(each) for each in requests])
    assert_only_the_first([json.loads(line) for line in output.splitlines()], requests)


async def test_while_a_secret_is_changed_the_snippets_accept_both(send: Send, tmp_path: Path) -> None:
    rotating = await send(secrets=(OTHER, SECRET))

    assert rotating.headers["webhook-signature"].count("v1,") == 2
    assert python(pages.VERIFYING, "v1")["verified"](rotating.headers, rotating.body) == rotating.event
    for secret in (OTHER, SECRET):
        assert python(pages.VERIFYING, "by hand")["verified"](secret, rotating.headers, rotating.body) == rotating.event
    assert json.loads(run_javascript(tmp_path, "v1", VERIFY, [request(rotating)])) == rotating.event


async def test_the_python_verifier_for_v1a_accepts_only_what_it_should(send: Send) -> None:
    requests = await deliveries(send, SIGNING_KEY, other=generate_signing_key(b"o" * 32))
    requests.append(await send(secrets=(SECRET,)))
    verified = python(pages.VERIFYING, "v1a")["verified"]

    assert_only_the_first(
        [event_or_none(verified, public_key(), each.headers, each.body) for each in requests], requests
    )
    rotating = await send(secrets=(generate_signing_key(b"n" * 32), SIGNING_KEY))
    assert verified(public_key(), rotating.headers, rotating.body) == rotating.event


async def test_the_javascript_verifier_for_v1a_accepts_only_what_it_should(send: Send, tmp_path: Path) -> None:
    requests = await deliveries(send, SIGNING_KEY, other=generate_signing_key(b"o" * 32))
    requests.append(await send(secrets=(SECRET,)))
    rotating = await send(secrets=(generate_signing_key(b"n" * 32), SIGNING_KEY))

    asked = [request(each, public_key()) for each in (*requests, rotating)]
    *events, last = [json.loads(line) for line in run_javascript(tmp_path, "v1a", VERIFY, asked).splitlines()]
    assert_only_the_first(events, requests)
    assert last == rotating.event


async def test_the_huddle01_snippet_accepts_only_what_it_should(send: Send, tmp_path: Path) -> None:
    requests = await deliveries(send, HUDDLE01_SECRET, other="another", style=Format.HUDDLE01)

    output = run_javascript(tmp_path, "huddle01", VERIFY, [request(each, as_text=True) for each in requests])
    assert_only_the_first([json.loads(line) for line in output.splitlines()], requests)


async def test_the_class_of_huddle01_refuses_a_buffer_and_has_room_for_one_signature(
    send: Send, tmp_path: Path
) -> None:
    rotating = await send(secrets=(HUDDLE01_SECRET, "the one before"), style=Format.HUDDLE01)

    assert rotating.headers["huddle01-signature"].count("sha256=") == 1
    assert json.loads(run_javascript(tmp_path, "huddle01", VERIFY, [request(rotating)])) is None


async def test_the_python_receiver_responds_as_it_should(send: Send, capsys: pytest.CaptureFixture[str]) -> None:
    requests = await deliveries(send, SECRET, other=OTHER)
    app = python(pages.VERIFYING, "receiver")["app"]

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:
        statuses = [
            (await client.post("/hooks/presence", headers=each.headers, content=each.body)).status_code
            for each in (*requests, requests[0])
        ]
    assert statuses == [204, 401, 401, 401, 401, 401, 204]
    assert capsys.readouterr().out.count("peer.left") == 1


async def test_the_javascript_receiver_responds_as_it_should(send: Send, tmp_path: Path) -> None:
    requests = await deliveries(send, SECRET, other=OTHER)

    output = run_javascript(tmp_path, "receiver", POST, [request(each) for each in (*requests, requests[0])])
    assert json.loads(output) == [204, 401, 401, 401, 401, 401, 204]


def test_every_snippet_is_run() -> None:
    run = {"python: v1", "python: receiver", "python: by hand", "python: v1a"}
    run |= {"javascript: v1", "javascript: receiver", "javascript: v1a", "javascript: huddle01"}

    assert {each.name for each in pages.blocks(pages.VERIFYING) if each.language in ("python", "js")} == run

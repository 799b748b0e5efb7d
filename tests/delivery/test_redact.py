"""A receiver that repeats a secret in any encoding does not get it into our records."""

from __future__ import annotations

import json
from datetime import timedelta
from urllib.parse import quote

import pytest

from bridge.delivery.claim import OwedEvent
from bridge.delivery.client import WebhookClient
from bridge.delivery.redact import DETAIL_KEPT
from bridge.delivery.sender import deliver
from bridge.delivery.targets import Target
from bridge.rules.delivery import PostResult
from tests.delivery.conftest import NOW
from tests.harness.wire import listening

SECRET = "whsec_C2FVsBQIhrscChlQIMV/b5sSYspob7oD"
PREVIOUS = "un secret très long"
CREDENTIAL = 'abc/def"0123456789'
HEADER = f"Bearer {CREDENTIAL}"
EVENT = OwedEvent(key=1, public_id="evt_1", sequence=1, type="peer.joined", body=b'{"id":"evt_1"}', acks_to=1)


def as_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def with_slashes_escaped(text: str) -> str:
    return text.replace("/", "\\/")


async def result_of(client: WebhookClient, response: bytes, **headers: str) -> PostResult:
    """The result of a delivery with this response, to an endpoint with these headers."""
    async with listening(response) as receiver:
        target = Target(
            key=1, name="crm", url=receiver.url, format="standard", signature="v1", timeout=None,
            headers=headers, secrets=(SECRET, PREVIOUS),
        )  # fmt: skip
        return await deliver(client, target, EVENT, at=NOW, timeout=timedelta(seconds=30))


def responding(text: str) -> bytes:
    body = text.encode()
    return b"HTTP/1.1 500 Whatever\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize(
    "repeated",
    [
        SECRET,
        PREVIOUS,
        HEADER,
        CREDENTIAL,
        as_json(PREVIOUS),
        as_json(HEADER),
        as_json(CREDENTIAL),
        with_slashes_escaped(SECRET),
        with_slashes_escaped(as_json(HEADER)),
        with_slashes_escaped(as_json(CREDENTIAL)),
        SECRET.replace("/", "\\u002F"),
        SECRET.removeprefix("whsec_"),
        quote(SECRET, safe=""),
        quote(HEADER, safe=""),
    ],
)
async def test_a_secret_in_a_response_is_redacted_in_every_encoding(client: WebhookClient, repeated: str) -> None:
    result = await result_of(client, responding(f'{{"you sent": "{repeated}"}}'), Authorization=HEADER)

    assert result.response == b'{"you sent": "***"}'


async def test_a_secret_that_contains_another_is_redacted_whole(client: WebhookClient) -> None:
    headers = {f"X-Key-{length}": "abcdefghijklmnop"[:length] for length in range(6, 16)}

    result = await result_of(client, responding(" ".join(headers.values())), **headers)

    assert set(result.response.decode().split()) == {"***"}


async def test_a_secret_in_the_target_of_a_redirect_is_redacted(client: WebhookClient) -> None:
    redirect = b"HTTP/1.1 302 Found\r\nLocation: /login?token=hush-0123456789\r\nContent-Length: 0\r\n\r\n"

    result = await result_of(client, redirect, Authorization="Bearer hush-0123456789")

    assert result.detail == "status 302, redirect to '/login?token=***' not followed"


async def test_a_secret_at_the_cut_of_a_long_redirect_is_redacted_whole(client: WebhookClient) -> None:
    location = f"/login?return={'x' * (DETAIL_KEPT - 55)}&token=hush-0123456789"
    redirect = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()

    result = await result_of(client, redirect, Authorization="Bearer hush-0123456789")

    assert len(result.detail) <= DETAIL_KEPT
    assert "hush" not in result.detail
    assert "&token=***" in result.detail


async def test_a_header_value_too_short_for_a_secret_is_not_redacted(client: WebhookClient) -> None:
    result = await result_of(client, responding("no live room"), Mode="live")

    assert result.response == b"no live room"

"""A receiver that repeats what it is sent gets no secret into our records, however it spells it."""

from __future__ import annotations

import json
from datetime import timedelta
from urllib.parse import quote

import pytest

from bridge.delivery.claim import OwedEvent, Target
from bridge.delivery.client import WebhookClient
from bridge.delivery.redact import DETAIL_KEPT
from bridge.delivery.sender import deliver
from bridge.rules.delivery import PostResult
from tests.delivery.conftest import NOW
from tests.harness.wire import listening

SECRET = "whsec_C2FVsBQIhrscChlQIMV/b5sSYspob7oD"
FORMER = "un secret très long"
CREDENTIAL = 'abc/def"0123456789'
HEADER = f"Bearer {CREDENTIAL}"
EVENT = OwedEvent(key=1, public_id="evt_1", sequence=1, type="peer.joined", body=b'{"id":"evt_1"}', acks_to=1)


def as_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def with_slashes_escaped(text: str) -> str:
    return text.replace("/", "\\/")


async def outcome_of(client: WebhookClient, response: bytes, **headers: str) -> PostResult:
    """What becomes of a delivery that is answered so, to an endpoint with these headers of its own."""
    async with listening(response) as receiver:
        target = Target(
            key=1, name="crm", url=receiver.url, style="standard", signature="v1", timeout=None,
            headers=headers, secrets=(SECRET, FORMER),
        )  # fmt: skip
        return await deliver(client, target, EVENT, at=NOW, limit=timedelta(seconds=30))


def saying(text: str) -> bytes:
    body = text.encode()
    return b"HTTP/1.1 500 Whatever\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize(
    "repeated",
    [
        SECRET,
        FORMER,
        HEADER,
        CREDENTIAL,
        as_json(FORMER),
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
async def test_a_secret_that_an_answer_repeats_is_masked_whole_in_every_spelling(
    client: WebhookClient, repeated: str
) -> None:
    result = await outcome_of(client, saying(f'{{"you sent": "{repeated}"}}'), Authorization=HEADER)

    assert result.response == b'{"you sent": "***"}'


async def test_a_secret_that_is_part_of_another_leaves_no_rest_of_it(client: WebhookClient) -> None:
    headers = {f"X-Key-{length}": "abcdefghijklmnop"[:length] for length in range(6, 16)}

    result = await outcome_of(client, saying(" ".join(headers.values())), **headers)

    assert set(result.response.decode().split()) == {"***"}


async def test_where_a_redirect_leads_is_told_without_the_secret(client: WebhookClient) -> None:
    redirect = b"HTTP/1.1 302 Found\r\nLocation: /login?token=hush-0123456789\r\nContent-Length: 0\r\n\r\n"

    result = await outcome_of(client, redirect, Authorization="Bearer hush-0123456789")

    assert result.detail == "answered 302, not followed to '/login?token=***'"


async def test_no_part_of_a_secret_is_left_where_a_long_redirect_is_cut(client: WebhookClient) -> None:
    location = f"/login?return={'x' * (DETAIL_KEPT - 55)}&token=hush-0123456789"
    redirect = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()

    result = await outcome_of(client, redirect, Authorization="Bearer hush-0123456789")

    assert len(result.detail) <= DETAIL_KEPT
    assert "hush" not in result.detail
    assert "&token=***" in result.detail


async def test_a_value_too_short_for_a_secret_is_no_reason_to_mask_words(client: WebhookClient) -> None:
    result = await outcome_of(client, saying("no live room"), Mode="live")

    assert result.response == b"no live room"

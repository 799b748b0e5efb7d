"""Results of one POST through real sockets, with receivers that respond well, badly or not at all."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.delivery.client import ClientLimits, WebhookClient
from bridge.rules.delivery import Cause, Outcome, PostResult
from bridge.rules.egress import EgressPolicy
from tests.delivery.conftest import NOW
from tests.harness.names import Names
from tests.harness.sloppy import CLOSED, KEPT
from tests.harness.wire import OK, Response, Wire, drip, hang, listening, reset, send_and_close, trickle

LOOPBACK = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"),))
AMPLE = timedelta(seconds=30)
SHORT = timedelta(milliseconds=300)
HEADERS = {"content-type": "application/json", "webhook-id": "evt_1", "x-auth": "token"}
BODY = '{"type":"peer.joined","name":"Zoë"}'.encode()
LIMIT = ClientLimits().response_bytes


def resolving(
    policy: EgressPolicy = LOOPBACK, tls: ssl.SSLContext | None = None, **names: list[list[str]]
) -> WebhookClient:
    """A client for which these names have these addresses, lookup by lookup."""
    return WebhookClient(policy, user_agent="t", clock=lambda: NOW, tls=tls, resolver=Names(**names))


async def post(client: WebhookClient, url: str, timeout: timedelta = AMPLE) -> PostResult:  # noqa: ASYNC109 - an argument of post
    return await client.post(url, headers=HEADERS, body=BODY, timeout=timeout)


def http(status: int, *headers: str, body: bytes = b"") -> bytes:
    fields = "".join(f"{header}\r\n" for header in (*headers, f"Content-Length: {len(body)}"))
    return f"HTTP/1.1 {status} Whatever\r\n{fields}\r\n".encode() + body


async def test_the_request_has_exactly_the_signed_body_and_headers(client: WebhookClient) -> None:
    async with listening() as receiver:
        result = await post(client, receiver.url + "?x=1#fragment")

    (request,) = receiver.requests
    assert request.line == "POST /hook/s3cret?x=1 HTTP/1.1"
    assert request.body == BODY
    assert request.headers == {
        **HEADERS,
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-length": str(len(BODY)),
        "host": f"127.0.0.1:{receiver.port}",
        "user-agent": "presence-bridge/test",
    }
    assert result == PostResult(outcome=Outcome.DELIVERED, status=200, duration=result.duration, response=b"ok")
    assert timedelta(0) < result.duration < AMPLE


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (202, b"why", Outcome.DELIVERED),
        (204, b"", Outcome.DELIVERED),
        (304, b"", Outcome.RETRYABLE),
        (400, b"why", Outcome.REJECTED),
        (410, b"why", Outcome.GONE),
        (503, b"why", Outcome.RETRYABLE),
    ],
)
async def test_the_status_decides_the_outcome(
    client: WebhookClient, status: int, body: bytes, outcome: Outcome
) -> None:
    async with listening(http(status, body=body)) as receiver:
        result = await post(client, receiver.url)

    assert (result.outcome, result.status, result.response) == (outcome, status, body)
    assert result.cause is (None if outcome is Outcome.DELIVERED else Cause.STATUS)


@pytest.mark.parametrize(
    ("status", "value", "wait"),
    [
        (429, "7", timedelta(seconds=7)),
        (503, "Mon, 23 Nov 2026 09:02:00 GMT", timedelta(minutes=2)),
        (429, "soon", None),
    ],
)
async def test_retry_after_is_read(client: WebhookClient, status: int, value: str, wait: timedelta | None) -> None:
    assert NOW.hour == 9
    async with listening(http(status, f"Retry-After: {value}")) as receiver:
        assert (await post(client, receiver.url)).retry_after == wait


async def test_a_redirect_is_not_followed(client: WebhookClient) -> None:
    async with listening() as elsewhere, listening(http(301, f"Location: {elsewhere.url}")) as receiver:
        result = await post(client, receiver.url)

    assert result.outcome is Outcome.RETRYABLE
    assert result.detail == f"status 301, redirect to '{elsewhere.url}' not followed"
    assert elsewhere.connections == 0


async def test_cookies_are_not_kept() -> None:
    cookie = "Set-Cookie: session=1; Path=/"
    async with listening(http(200, cookie)) as receiver, resolving(shop=[["127.0.0.1"]]) as client:
        await post(client, receiver.at("shop"))
        await post(client, receiver.at("shop"))

    assert ["cookie" in request.headers for request in receiver.requests] == [False, False]


async def test_proxies_of_the_environment_are_not_used(client: WebhookClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async with listening() as receiver:
        assert (await post(client, receiver.url)).outcome is Outcome.DELIVERED


@pytest.mark.parametrize(("size", "connections"), [(LIMIT - 1, 1), (LIMIT, 1), (LIMIT + 1, 2), (100 * LIMIT, 2)])
async def test_sixteen_kibibytes_of_a_response_are_kept_and_more_closes_the_connection(
    client: WebhookClient, size: int, connections: int
) -> None:
    body = bytes(n % 251 for n in range(size))
    async with listening(http(200, body=body)) as receiver:
        results = [await post(client, receiver.url) for _ in range(2)]

    assert [(result.outcome, result.response) for result in results] == [(Outcome.DELIVERED, body[:LIMIT])] * 2
    assert receiver.connections == connections


async def test_a_gzip_bomb_is_not_decompressed(client: WebhookClient) -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    async with listening(http(200, "Content-Encoding: gzip", body=bomb)) as receiver:
        result = await post(client, receiver.url)

    assert len(bomb) < LIMIT
    assert result.response == bomb


async def test_an_endless_response_is_cut_off(client: WebhookClient) -> None:
    cut = asyncio.Event()

    async def flood(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                await wire.send(b"x" * 65536)
        finally:
            cut.set()

    async with listening(flood) as receiver:
        result = await post(client, receiver.url)
        await cut.wait()

    assert result.outcome is Outcome.DELIVERED
    assert result.response == b"x" * LIMIT


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (drip, 200),
        (trickle(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"."), None),
        (trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), None),
        (hang, None),
    ],
)
async def test_the_timeout_is_for_the_whole_attempt(
    client: WebhookClient, response: Response, status: int | None
) -> None:
    async with listening(response) as receiver:
        result = await post(client, receiver.url, SHORT)

    assert (result.outcome, result.cause, result.status) == (Outcome.RETRYABLE, Cause.TIMEOUT, status)
    assert result.detail.endswith("no end within 0.3 s")
    assert result.duration >= SHORT


async def test_a_receiver_that_never_reads_runs_into_the_timeout(client: WebhookClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        result = await client.post(url, headers=HEADERS, body=b"x" * 1_000_000, timeout=SHORT)

    assert (result.outcome, result.cause) == (Outcome.RETRYABLE, Cause.TIMEOUT)


async def half_close(wire: Wire) -> None:
    wire.writer.write_eof()
    await wire.until_closed()


async def reset_in_the_body(wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    wire.reset()


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (reset, None),
        (send_and_close(b""), None),
        (half_close, None),
        (send_and_close(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), 200),
        (send_and_close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf"), 200),
        (reset_in_the_body, 200),
    ],
)
async def test_a_connection_that_breaks_is_retryable_even_after_a_good_status(
    client: WebhookClient, response: Response, status: int | None
) -> None:
    async with listening(response) as receiver:
        result = await post(client, receiver.url)

    assert (result.outcome, result.cause, result.status) == (Outcome.RETRYABLE, Cause.RESET, status)
    assert result.detail
    assert len(receiver.requests) == 1, "a new connection that breaks is not repeated"


@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        (b"HTTP/1.1 200 \xc9xito\r\nContent-Length: 2\r\n\r\nok", Outcome.DELIVERED),
        (b"HTTP/1.1 410 Supprim\xe9\r\nContent-Length: 2\r\n\r\nok", Outcome.GONE),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + OK, Outcome.DELIVERED),
    ],
)
async def test_any_reason_phrase_and_interim_responses_are_read(
    client: WebhookClient, raw: bytes, outcome: Outcome
) -> None:
    async with listening(raw) as receiver:
        results = [await post(client, receiver.url) for _ in range(2)]

    assert [(result.outcome, result.response) for result in results] == [(outcome, b"ok")] * 2


async def test_a_response_that_ends_with_its_connection_is_complete(client: WebhookClient) -> None:
    async with listening(send_and_close(b"HTTP/1.1 200 OK\r\n\r\nok")) as receiver:
        result = await post(client, receiver.url)

    assert (result.outcome, result.response) == (Outcome.DELIVERED, b"ok")


@pytest.mark.parametrize("broken", [reset, send_and_close(b"")])
async def test_a_request_on_a_kept_connection_that_was_closed_meanwhile_is_repeated(
    client: WebhookClient, broken: Response
) -> None:
    async def response(wire: Wire) -> None:
        await (broken(wire) if wire.number == 2 else wire.send(OK))

    async with listening(response) as receiver:
        results = [await post(client, receiver.url) for _ in range(2)]

    assert [result.outcome for result in results] == [Outcome.DELIVERED, Outcome.DELIVERED]
    assert [request.connection for request in receiver.requests] == [1, 1, 2]
    assert receiver.requests[1].body == receiver.requests[2].body
    assert receiver.requests[1].headers == receiver.requests[2].headers


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46" * 10,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
    ],
)
async def test_a_response_that_is_not_http_is_retryable(client: WebhookClient, garbage: bytes) -> None:
    async with listening(send_and_close(garbage)) as receiver:
        result = await post(client, receiver.url)

    assert (result.outcome, result.cause, result.status) == (Outcome.RETRYABLE, Cause.PROTOCOL, None)
    assert result.detail.isprintable()


@pytest.mark.parametrize(
    ("form", "connections"), [(form, 1) for form in KEPT.values()] + [(form, 2) for form in CLOSED.values()]
)
async def test_what_curl_reads_is_delivered(
    client: WebhookClient, form: Callable[[bytes], bytes], connections: int
) -> None:
    async with listening(form(b"ok")) as receiver:
        results = [await post(client, receiver.url) for _ in range(2)]

    assert [(result.outcome, result.response) for result in results] == [(Outcome.DELIVERED, b"ok")] * 2
    assert (len(receiver.requests), receiver.connections) == (2, connections)


@pytest.mark.parametrize(
    "path",
    [
        "/a%2Fb/%40%3A?sig=aB%2FcD%3D&sp=%2Ftriggers%2Fmanual%2Frun",
        "/%28x%29%7Euser~(y)?",
        "/list?ids[1]=a&ids[]=b|c",
        "//a/../b/./c;d=1,2'*!$",
        "/%zz/%",
    ],
)
async def test_the_url_is_sent_as_it_is_written(client: WebhookClient, path: str) -> None:
    async with listening() as receiver:
        result = await post(client, f"http://127.0.0.1:{receiver.port}{path}")

    assert result.outcome is Outcome.DELIVERED
    assert receiver.requests[0].line == f"POST {path} HTTP/1.1"


@settings(max_examples=60, deadline=None)
@given(
    raw=st.binary(max_size=200),
    begin=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"]),
)
def test_no_response_raises(raw: bytes, begin: bytes) -> None:
    async def scenario() -> None:
        async with listening(send_and_close(begin + raw)) as receiver, resolving() as client:
            result = await post(client, receiver.url)

            assert receiver.requests
            assert (result.outcome is Outcome.DELIVERED) == (result.cause is None)

    asyncio.run(scenario())


async def test_a_closed_port_is_a_connect_failure(client: WebhookClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    result = await post(client, f"http://127.0.0.1:{port}/")

    assert (result.outcome, result.cause) == (Outcome.RETRYABLE, Cause.CONNECT)
    assert result.detail == f"127.0.0.1:{port}: connection refused"


@pytest.mark.parametrize("host", ["no-such-name.invalid", "x" * 64 + ".invalid", "a..invalid"])
async def test_a_name_without_an_address_is_a_dns_failure(client: WebhookClient, host: str) -> None:
    result = await post(client, f"https://{host}/hook")

    assert (result.outcome, result.cause) == (Outcome.RETRYABLE, Cause.DNS)
    assert host in result.detail


async def test_a_self_signed_certificate_is_refused_before_anything_is_sent(
    client: WebhookClient, server_tls: ssl.SSLContext
) -> None:
    async with listening(tls=server_tls) as receiver:
        result = await post(client, receiver.url)

    assert (result.outcome, result.cause) == (Outcome.RETRYABLE, Cause.TLS)
    assert result.detail == f"127.0.0.1:{receiver.port}: self-signed certificate"
    assert not receiver.requests


async def test_a_certificate_of_another_name_is_refused(
    server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext
) -> None:
    async with (
        listening(tls=server_tls) as receiver,
        resolving(tls=trusting_tls, other=[["127.0.0.1"]]) as client,
    ):
        good = await post(client, receiver.url)
        bad = await post(client, receiver.at("other"))

    assert good.outcome is Outcome.DELIVERED
    assert bad.cause is Cause.TLS
    assert "other" in bad.detail
    assert len(receiver.requests) == 1


async def test_https_to_a_plain_port_is_a_tls_failure(client: WebhookClient) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        result = await post(client, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    assert (result.outcome, result.cause) == (Outcome.RETRYABLE, Cause.TLS)


async def test_a_cancelled_post_has_no_result(client: WebhookClient) -> None:
    arrived = asyncio.Event()
    left = asyncio.Event()

    async def response(wire: Wire) -> None:
        arrived.set()
        await wire.until_closed()
        left.set()

    async with listening(response) as receiver:
        attempt = asyncio.create_task(post(client, receiver.url))
        await arrived.wait()
        attempt.cancel()

        with pytest.raises(asyncio.CancelledError):
            await attempt
        await left.wait()


async def test_slow_receivers_do_not_delay_others() -> None:
    async with listening(hang) as slow, listening() as fast, resolving(fast=[["127.0.0.1"]]) as client:
        stuck = [asyncio.create_task(post(client, slow.url)) for _ in range(150)]
        stuck += [asyncio.create_task(post(client, slow.at("hangs"))) for _ in range(50)]

        results = await asyncio.gather(*(post(client, fast.at("fast")) for _ in range(150)))

        assert {result.outcome for result in results} == {Outcome.DELIVERED}
        assert not any(task.done() for task in stuck)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_the_secrets_of_a_url_are_in_no_log_and_no_detail(
    client: WebhookClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with listening() as good, listening(send_and_close(b"")) as bad:
        results = [await post(client, good.url), await post(client, bad.url)]
        results.append(await post(client, good.url.replace("http:", "https:"), SHORT))

    assert "s3cret" not in caplog.text
    assert not any("s3cret" in result.detail for result in results)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "https://localhost:{port}/",
        "https://[::1]:{port}/",
        "https://[::ffff:127.0.0.1]:{port}/",
        "https://2130706433:{port}/",
        "https://\uff11\uff12\uff17.0.0.1:{port}/",
        "https://127\u30020\u30020\u30021:{port}/",
        "https://\u200d.example:{port}/",
    ],
)
async def test_nothing_reaches_an_internal_address_in_any_form(url: str) -> None:
    async with listening() as receiver, WebhookClient(EgressPolicy(), user_agent="t", clock=lambda: NOW) as client:
        result = await post(client, url.format(port=receiver.port))

    assert (result.outcome, result.cause, result.status) == (Outcome.BLOCKED, Cause.BLOCKED, None)
    assert receiver.connections == 0


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "fe80::1"], ["127.0.0.1", "169.254.169.254"]],
)
async def test_a_name_with_one_forbidden_address_is_refused(addresses: list[str]) -> None:
    async with listening() as receiver, resolving(mixed=[addresses]) as client:
        result = await post(client, receiver.at("mixed"))

    assert (result.outcome, result.cause) == (Outcome.BLOCKED, Cause.BLOCKED)
    assert receiver.connections == 0


@pytest.mark.parametrize("network", ["127.0.0.0/8", "::1/128"])
async def test_localhost_is_called_however_it_resolves(network: str) -> None:
    policy = EgressPolicy(allow_private_networks=(ip_network(network),))
    addresses = ["::1", "127.0.0.1"]  # the receiver is on 127.0.0.1 only
    async with listening() as receiver, resolving(policy, localhost=[addresses]) as client:
        assert (await post(client, receiver.at("localhost"))).outcome is Outcome.DELIVERED


async def test_a_name_is_checked_again_at_each_lookup() -> None:
    lookups = [["127.0.0.1"], ["10.0.0.1"]]
    async with listening() as first, listening() as second, resolving(rebinding=lookups) as client:
        results = [await post(client, receiver.at("rebinding")) for receiver in (first, second)]

    assert [result.outcome for result in results] == [Outcome.DELIVERED, Outcome.BLOCKED]
    assert "10.0.0.1" in results[1].detail
    assert second.connections == 0


@pytest.mark.parametrize("addresses", [["1.1.1.1"], ["127.0.0.1", "1.1.1.1"]])
async def test_plain_http_to_a_public_address_is_refused_after_dns(addresses: list[str]) -> None:
    async with resolving(public=[addresses]) as client:
        result = await post(client, "http://public/")

    assert (result.outcome, result.cause) == (Outcome.BLOCKED, Cause.BLOCKED)
    assert "plain http" in result.detail

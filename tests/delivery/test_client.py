"""Results of one POST through real sockets: webhooks.md sections 2 and 3, and the receivers of 6.8."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
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
from tests.harness.wire import OK, Wire, listening

AMPLE = timedelta(seconds=30)
SHORT = timedelta(milliseconds=300)
HEADERS = {"content-type": "application/json", "webhook-id": "evt_1", "x-auth": "token"}
BODY = '{"type":"peer.joined","name":"Zoë"}'.encode()
LIMIT = ClientLimits().response_bytes


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
    ("status", "outcome"),
    [
        (200, Outcome.DELIVERED),
        (202, Outcome.DELIVERED),
        (304, Outcome.RETRYABLE),
        (400, Outcome.REJECTED),
        (404, Outcome.RETRYABLE),
        (408, Outcome.RETRYABLE),
        (410, Outcome.GONE),
        (429, Outcome.RETRYABLE),
        (500, Outcome.RETRYABLE),
        (503, Outcome.RETRYABLE),
    ],
)
async def test_the_status_decides_the_outcome(client: WebhookClient, status: int, outcome: Outcome) -> None:
    async with listening(http(status, body=b"why" if status != 304 else b"")) as receiver:
        result = await post(client, receiver.url)

    assert (result.outcome, result.status) == (outcome, status)
    assert result.cause is (None if outcome is Outcome.DELIVERED else Cause.STATUS)
    assert result.response == (b"why" if status != 304 else b"")


async def test_a_204_without_a_body_is_delivered_and_keeps_the_connection(client: WebhookClient) -> None:
    async with listening(b"HTTP/1.1 204 No Content\r\n\r\n") as receiver:
        assert (await post(client, receiver.url)).outcome is Outcome.DELIVERED
        assert (await post(client, receiver.url)).outcome is Outcome.DELIVERED

        assert receiver.connections == 1


@pytest.mark.parametrize(
    ("status", "value", "wait"),
    [
        (429, "7", timedelta(seconds=7)),
        (503, "Mon, 23 Nov 2026 09:02:00 GMT", timedelta(minutes=2)),
        (503, "9999999", timedelta(days=1)),
        (429, "soon", None),
        (500, "7", None),
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


async def test_connections_are_kept(client: WebhookClient) -> None:
    async with listening() as receiver:
        for _ in range(3):
            assert (await post(client, receiver.url)).outcome is Outcome.DELIVERED

        assert receiver.connections == 1


async def test_cookies_are_not_kept(loopback: EgressPolicy) -> None:
    names = Names(shop=[["127.0.0.1"]])
    async with (
        listening(http(200, "Set-Cookie: session=1; Path=/")) as receiver,
        WebhookClient(loopback, user_agent="t", clock=lambda: NOW, resolver=names) as client,
    ):
        await post(client, receiver.at("shop"))
        await post(client, receiver.at("shop"))

    assert ["cookie" in request.headers for request in receiver.requests] == [False, False]


async def test_proxies_of_the_environment_are_not_used(client: WebhookClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async with listening() as receiver:
        assert (await post(client, receiver.url)).outcome is Outcome.DELIVERED


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, 100 * LIMIT])
async def test_sixteen_kibibytes_of_a_response_are_kept(client: WebhookClient, size: int) -> None:
    body = bytes(n % 251 for n in range(size))
    async with listening(http(200, body=body)) as receiver:
        result = await post(client, receiver.url)

    assert result.outcome is Outcome.DELIVERED
    assert result.response == body[:LIMIT]


@pytest.mark.parametrize(("size", "connections"), [(LIMIT, 1), (100 * LIMIT, 2)])
async def test_a_response_that_is_not_read_to_its_end_closes_the_connection(
    client: WebhookClient, size: int, connections: int
) -> None:
    async with listening(http(200, body=b"x" * size)) as receiver:
        results = [await post(client, receiver.url) for _ in range(2)]

    assert [result.outcome for result in results] == [Outcome.DELIVERED, Outcome.DELIVERED]
    assert receiver.connections == connections


async def test_a_chunked_response_is_read_to_its_end(client: WebhookClient) -> None:
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    async with listening(response) as receiver:
        results = [await post(client, receiver.url) for _ in range(2)]

    assert [result.response for result in results] == [b"ok", b"ok"]
    assert receiver.connections == 1


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


async def drip_body(wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        await wire.send(b".")
        await asyncio.sleep(0.02)


async def drip_head(wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        await wire.send(b".")
        await asyncio.sleep(0.02)


async def hang(wire: Wire) -> None:
    await wire.until_closed()


async def continue_for_ever(wire: Wire) -> None:
    while True:
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("response", "status"), [(drip_body, 200), (drip_head, None), (hang, None), (continue_for_ever, None)]
)
async def test_the_timeout_is_for_the_whole_attempt(
    client: WebhookClient, response: Callable[[Wire], Awaitable[None]], status: int | None
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


async def reset(wire: Wire) -> None:
    wire.reset()


async def close(wire: Wire) -> None:
    wire.close()


async def half_close(wire: Wire) -> None:
    wire.writer.write_eof()
    await wire.until_closed()


async def cut_the_body(wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    wire.close()


async def reset_in_the_body(wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    wire.reset()


async def cut_the_chunks(wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf")
    wire.close()


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (reset, None),
        (close, None),
        (half_close, None),
        (cut_the_body, 200),
        (reset_in_the_body, 200),
        (cut_the_chunks, 200),
    ],
)
async def test_a_connection_that_breaks_is_retryable_even_after_a_good_status(
    client: WebhookClient, response: Callable[[Wire], Awaitable[None]], status: int | None
) -> None:
    async with listening(response) as receiver:
        result = await post(client, receiver.url)

    assert (result.outcome, result.cause, result.status) == (Outcome.RETRYABLE, Cause.RESET, status)
    assert result.detail
    assert len(receiver.requests) == 1, "a new connection that breaks is not repeated"


@pytest.mark.parametrize(
    ("reason", "outcome"), [(b"200 \xc9xito", "delivered"), (b"410 Supprim\xe9", "gone"), (b"200", "delivered")]
)
async def test_the_reason_phrase_may_be_any_bytes(client: WebhookClient, reason: bytes, outcome: str) -> None:
    async def response(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 " + reason + b"\r\nContent-Length: 2\r\n\r\nok")

    async with listening(response) as receiver:
        result = await post(client, receiver.url)

    assert (result.outcome, result.response) == (outcome, b"ok")


async def test_interim_responses_are_skipped(client: WebhookClient) -> None:
    async def response(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + OK)

    async with listening(response) as receiver:
        results = [await post(client, receiver.url) for _ in range(2)]

    assert [result.outcome for result in results] == [Outcome.DELIVERED] * 2


async def test_a_response_that_ends_with_its_connection_is_complete(client: WebhookClient) -> None:
    async def response(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nok")
        await half_close(wire)

    async with listening(response) as receiver:
        result = await post(client, receiver.url)

    assert (result.outcome, result.response) == (Outcome.DELIVERED, b"ok")


@pytest.mark.parametrize("broken", [reset, close])
async def test_a_request_on_a_kept_connection_that_was_closed_meanwhile_is_repeated(
    client: WebhookClient, broken: Callable[[Wire], Awaitable[None]]
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
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
    ],
)
async def test_a_response_that_is_not_http_is_retryable(client: WebhookClient, garbage: bytes) -> None:
    async def response(wire: Wire) -> None:
        await wire.send(garbage)
        wire.close()

    async with listening(response) as receiver:
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
        "?x=1",
        "/%zz/%",
        "",
    ],
)
async def test_the_url_is_sent_as_it_is_written(client: WebhookClient, path: str) -> None:
    async with listening() as receiver:
        result = await post(client, f"http://127.0.0.1:{receiver.port}{path}")

    assert result.outcome is Outcome.DELIVERED
    assert receiver.requests[0].line == f"POST {path if path.startswith('/') else f'/{path}'} HTTP/1.1"


@pytest.mark.parametrize("said", [OK, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"\r\n", b"x"])
async def test_what_a_kept_connection_says_unasked_is_no_response(client: WebhookClient, said: bytes) -> None:
    async def response(wire: Wire) -> None:
        await wire.send(OK)
        wires.append(wire)

    wires: list[Wire] = []
    async with listening(response) as receiver:
        first = await post(client, receiver.url)
        await wires[0].send(said)  # into the client's socket, whose event loop is this one and has not run since
        second = await post(client, receiver.url)

    assert [first.outcome, second.outcome] == [Outcome.DELIVERED] * 2
    assert [request.connection for request in receiver.requests] == [1, 2]


@settings(max_examples=60, deadline=None)
@given(
    raw=st.binary(max_size=200),
    begin=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"]),
)
def test_no_response_raises(raw: bytes, begin: bytes) -> None:
    async def response(wire: Wire) -> None:
        await wire.send(begin + raw)
        wire.close()

    async def scenario() -> None:
        policy = EgressPolicy(allow_private_networks=(ip_network("127.0.0.0/8"),))
        async with listening(response) as receiver, WebhookClient(policy, user_agent="t", clock=lambda: NOW) as client:
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
    loopback: EgressPolicy, server_tls: ssl.SSLContext, trusting_tls: ssl.SSLContext
) -> None:
    names = Names(other=[["127.0.0.1"]])
    async with (
        listening(tls=server_tls) as receiver,
        WebhookClient(loopback, user_agent="t", clock=lambda: NOW, tls=trusting_tls, resolver=names) as client,
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


async def test_slow_receivers_do_not_delay_others(loopback: EgressPolicy) -> None:
    names = Names(fast=[["127.0.0.1"]])
    async with (
        listening(hang) as slow,
        listening() as fast,
        WebhookClient(loopback, user_agent="t", clock=lambda: NOW, resolver=names) as client,
    ):
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
    async with listening() as good, listening(close) as bad:
        results = [await post(client, good.url), await post(client, bad.url)]
        results.append(await post(client, good.url.replace("http:", "https:"), SHORT))

    assert "s3cret" not in caplog.text
    assert not any("s3cret" in result.detail for result in results)


BLOCKED_URLS = [
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "https://127.0.0.1:{port}/",
    "https://localhost:{port}/",
    "https://[::1]:{port}/",
    "https://[::ffff:127.0.0.1]:{port}/",
    "https://127.1:{port}/",
    "https://2130706433:{port}/",
    "https://0x7f000001:{port}/",
    "https://0177.0.0.1:{port}/",
    "https://0:{port}/",
    "https://\uff11\uff12\uff17.0.0.1:{port}/",
    "https://127\u30020\u30020\u30021:{port}/",
    "https://user:pw@localhost:{port}/",
    "https://localhost\t:{port}/",
    "https://\u200d.example:{port}/",
    "ftp://localhost:{port}/",
    "localhost:{port}",
]


@pytest.mark.parametrize("url", BLOCKED_URLS)
async def test_nothing_reaches_an_internal_address_in_any_form(url: str) -> None:
    policy = EgressPolicy()
    async with listening() as receiver, WebhookClient(policy, user_agent="t", clock=lambda: NOW) as client:
        result = await post(client, url.format(port=receiver.port))

    assert (result.outcome, result.cause, result.status) == (Outcome.BLOCKED, Cause.BLOCKED, None)
    assert receiver.connections == 0


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "fe80::1"], ["127.0.0.1", "169.254.169.254"]],
)
async def test_a_name_with_one_forbidden_address_is_refused(loopback: EgressPolicy, addresses: list[str]) -> None:
    names = Names(mixed=[addresses])
    async with (
        listening() as receiver,
        WebhookClient(loopback, user_agent="t", clock=lambda: NOW, resolver=names) as client,
    ):
        result = await post(client, receiver.at("mixed"))

    assert (result.outcome, result.cause) == (Outcome.BLOCKED, Cause.BLOCKED)
    assert receiver.connections == 0


@pytest.mark.parametrize("network", ["127.0.0.0/8", "::1/128"])
async def test_localhost_is_called_however_it_resolves(network: str) -> None:
    policy = EgressPolicy(allow_private_networks=(ip_network(network),))
    names = Names(localhost=[["::1", "127.0.0.1"]])
    async with (
        listening() as receiver,  # on 127.0.0.1 only
        WebhookClient(policy, user_agent="t", clock=lambda: NOW, resolver=names) as client,
    ):
        assert (await post(client, receiver.at("localhost"))).outcome is Outcome.DELIVERED


async def test_a_name_is_checked_again_at_each_lookup(loopback: EgressPolicy) -> None:
    names = Names(rebinding=[["127.0.0.1"], ["10.0.0.1"]])
    async with (
        listening() as first,
        listening() as second,
        WebhookClient(loopback, user_agent="t", clock=lambda: NOW, resolver=names) as client,
    ):
        results = [await post(client, receiver.at("rebinding")) for receiver in (first, second)]

    assert [result.outcome for result in results] == [Outcome.DELIVERED, Outcome.BLOCKED]
    assert names.asked == ["rebinding", "rebinding"]
    assert "10.0.0.1" in results[1].detail
    assert second.connections == 0


async def test_plain_http_to_a_public_address_is_refused_after_dns(loopback: EgressPolicy) -> None:
    names = Names(public=[["1.1.1.1"]], both=[["127.0.0.1", "1.1.1.1"]])
    async with WebhookClient(loopback, user_agent="t", clock=lambda: NOW, resolver=names) as client:
        for name in ("public", "both"):
            result = await post(client, f"http://{name}/")

            assert (result.outcome, result.cause) == (Outcome.BLOCKED, Cause.BLOCKED)
            assert "plain http" in result.detail

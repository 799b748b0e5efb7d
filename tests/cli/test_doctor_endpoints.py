from __future__ import annotations

import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest

from tests.cli.conftest import Cli
from tests.harness.certificates import self_signed
from tests.harness.doctor_runs import examine, http_response, only
from tests.harness.postgres import free_port
from tests.harness.receiver import Receiver
from tests.harness.wire import RawReceiverThread

OPEN_LOOPBACK = {"allow_private_networks": ["127.0.0.0/8"]}


def test_an_endpoint_that_accepts_connections_is_ok(busy: Cli, receiver: Receiver) -> None:
    endpoint = only(examine(busy), "endpoint", "crm")

    assert endpoint["detail"] == f"{urlsplit(receiver.url).netloc} accepts connections, without TLS"


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_disabled_endpoint_without_a_connection_is_only_a_warning(cli: Cli, *, is_stored: bool) -> None:
    cli.configure(endpoints=[{"name": "crm", "url": f"http://127.0.0.1:{free_port()}/", "enabled": False}])
    if is_stored:
        cli.take_up()

    assert only(examine(cli), "endpoint")["state"] == "warn"


def test_an_endpoint_that_was_added_with_a_command_is_checked_too(cli: Cli, receiver: Receiver) -> None:
    cli("endpoints", "add", "by-hand", f"{receiver.url}/x")

    assert only(examine(cli), "endpoint", "by-hand")["state"] == "ok"


@pytest.mark.parametrize(
    ("url", "delivery", "detail"),
    [
        ("http://127.0.0.1:{closed}/hush", OPEN_LOOPBACK, "connect: 127.0.0.1:{closed}: connection refused"),
        ("https://localhost:{closed}/hush", {"allow_private_networks": []}, "blocked: "),
        ("https://no-such-name.invalid/hush", OPEN_LOOPBACK, "dns: no-such-name.invalid cannot be resolved"),
        ("https://127.0.0.1:{plain}/hush", OPEN_LOOPBACK, "tls: 127.0.0.1:{plain}: "),
    ],
)
def test_why_an_endpoint_cannot_be_reached(
    cli: Cli, receiver: Receiver, url: str, delivery: Mapping[str, object], detail: str
) -> None:
    ports = {"closed": free_port(), "plain": urlsplit(receiver.url).port}
    cli.configure(endpoints=[{"name": "crm", "url": url.format(**ports)}], delivery=delivery)

    done = cli("doctor", "--json", code=1)

    endpoint = only(done.json(), "endpoint", "crm")
    assert endpoint["state"] == "fail"
    assert endpoint["detail"].startswith(detail.format(**ports))
    assert endpoint["advice"]
    assert "hush" not in done.out


@pytest.mark.parametrize(
    ("days", "address", "is_trusted", "state", "detail"),
    [
        (30.5, "127.0.0.1", True, "ok", "TLSv1.3, certificate valid for another 30d"),
        (3.5, "127.0.0.1", True, "warn", "TLSv1.3, certificate valid for another 3d"),
        (-1, "127.0.0.1", True, "fail", "certificate has expired"),
        (30.5, "127.0.0.2", True, "fail", "IP address mismatch"),
        (30.5, "127.0.0.1", False, "fail", "self-signed certificate"),
    ],
)
def test_certificates(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, *, days: float, address: str, is_trusted: bool, state: str, detail: str
) -> None:
    pem = self_signed(cli.directory, days=days, address=address)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    with RawReceiverThread(http_response(b""), tls=context) as receiver:
        cli.configure(endpoints=[{"name": "crm", "url": f"https://{receiver.host}/"}])
        endpoint = only(examine(cli, code=1 if state == "fail" else 0), "endpoint")

    assert endpoint["state"] == state
    assert detail in endpoint["detail"]
    assert receiver.receiver.requests == [], "a request was sent"

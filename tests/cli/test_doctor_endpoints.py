from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.cli.conftest import Cli
from tests.harness.doctor_runs import (
    ROOM,
    Listener,
    ago,
    answering,
    change,
    closed_port,
    examine,
    only,
    serve_once,
)
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator

OPEN_LOOPBACK = {"allow_private_networks": ["127.0.0.0/8"]}


@pytest.fixture
def busy(cli: Cli, simulator: Simulator, receiver: Receiver) -> Cli:
    return serve_once(cli, simulator, receiver)


def test_an_endpoint_that_takes_deliveries_is_well(busy: Cli, receiver: Receiver) -> None:
    found = examine(busy)

    assert only(found, "endpoint", "crm")["detail"] == "active, nothing owed"
    assert only(found, "connection", "crm")["detail"] == f"{urlsplit(receiver.url).netloc} answers, without TLS"


@pytest.mark.parametrize(
    ("values", "state", "detail"),
    [
        ("state = 'disabled', state_reason = 'operator'", "warn", "disabled (operator), nothing owed"),
        ("state = 'disabled', state_reason = 'gone'", "fail", "disabled (gone), nothing owed"),
        ("state = 'disabled', state_reason = 'failing'", "fail", "disabled (failing), nothing owed"),
        ("circuit = 'open', failing_since = {ago}", "fail", "circuit open, failing for 2h, nothing owed"),
        ("failing_since = {ago}", "warn", "failing for 2h, nothing owed"),
    ],
)
def test_the_state_of_an_endpoint(busy: Cli, values: str, state: str, detail: str) -> None:
    statement = f"UPDATE endpoints SET {values.format(ago=repr(ago(hours=2)))}"  # noqa: S608 - a test's own values
    change(busy, statement)

    endpoint = only(examine(busy, code=1 if state == "fail" else 0), "endpoint")

    assert (endpoint["state"], endpoint["detail"]) == (state, detail)
    assert "crm" in endpoint["advice"]


def test_an_endpoint_that_is_gone(busy: Cli, simulator: Simulator, receiver: Receiver) -> None:
    receiver.script(Response(status=410))
    simulator.leave(ROOM, "anna")
    busy("poll", ROOM)
    busy.deliver()

    endpoint = only(examine(busy, code=1), "endpoint")

    assert endpoint["detail"].startswith("disabled (gone), 2 events owed for ")


def test_what_is_owed_for_long_asks_for_a_sender(busy: Cli, simulator: Simulator) -> None:
    simulator.join(ROOM, "bert")
    busy("poll", ROOM)
    assert only(examine(busy), "endpoint")["state"] == "ok"
    change(busy, "UPDATE events SET recorded_at = ?", ago(hours=3))

    endpoint = only(examine(busy), "endpoint")

    assert (endpoint["state"], endpoint["detail"]) == ("warn", "1 event owed for 3h")
    assert "is a sender running?" in endpoint["advice"]


def test_what_an_endpoint_does_not_want_is_not_owed(busy: Cli, simulator: Simulator, receiver: Receiver) -> None:
    busy.configure(rooms=[ROOM], endpoints=[receiver.endpoint("crm", events=["room.empty"])])
    busy.take_up()
    simulator.join(ROOM, "bert")
    busy("poll", ROOM)
    change(busy, "UPDATE events SET recorded_at = ?", ago(hours=3))

    assert only(examine(busy), "endpoint")["detail"] == "active, nothing owed"


def test_an_endpoint_that_is_new_and_disabled(cli: Cli) -> None:
    cli.configure(endpoints=[{"name": "crm", "url": f"http://127.0.0.1:{closed_port()}/", "enabled": False}])

    found = examine(cli)

    assert only(found, "endpoint")["detail"] == "new, and disabled"
    assert only(found, "connection")["state"] == "warn"


def test_an_endpoint_that_was_added_by_hand_is_examined_too(cli: Cli, receiver: Receiver) -> None:
    cli("endpoints", "add", "by-hand", f"{receiver.url}/x")

    found = examine(cli)

    assert only(found, "endpoint", "by-hand")["state"] == "ok"
    assert only(found, "connection", "by-hand")["state"] == "ok"


@pytest.mark.parametrize(
    ("url", "delivery", "detail"),
    [
        ("http://127.0.0.1:{closed}/hush", OPEN_LOOPBACK, "connect: 127.0.0.1:{closed}: connection refused"),
        ("https://localhost:{closed}/hush", {"allow_private_networks": []}, "blocked: "),
        ("https://no-such-name.invalid/hush", OPEN_LOOPBACK, "dns: no-such-name.invalid cannot be resolved"),
        ("https://127.0.0.1:{plain}/hush", OPEN_LOOPBACK, "tls: 127.0.0.1:{plain}: "),
    ],
)
def test_why_there_is_no_way_to_an_endpoint(
    cli: Cli, receiver: Receiver, url: str, delivery: Mapping[str, object], detail: str
) -> None:
    ports = {"closed": closed_port(), "plain": urlsplit(receiver.url).port}
    cli.configure(endpoints=[{"name": "crm", "url": url.format(**ports)}], delivery=delivery)

    done = cli("doctor", "--json", code=1)

    connection = only(done.json(), "connection", "crm")
    assert connection["state"] == "fail"
    assert connection["detail"].startswith(detail.format(**ports))
    assert connection["advice"]
    assert "hush" not in done.out


def test_a_firewall_that_swallows_everything(cli: Cli) -> None:
    with Listener() as silent:
        cli.configure(endpoints=[{"name": "crm", "url": f"https://{silent.host}/"}])
        connection = only(examine(cli, code=1), "connection")

    assert connection["detail"] == "timeout: no connection within 4 s"


def certificate(path: Path, *, days: float, address: str = "127.0.0.1") -> Path:
    """A certificate of one's own and its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + signed.public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("days", "address", "is_trusted", "state", "detail"),
    [
        (30.5, "127.0.0.1", True, "ok", "TLSv1.3, certificate for another 30d"),
        (3.5, "127.0.0.1", True, "warn", "TLSv1.3, certificate for another 3d"),
        (-1, "127.0.0.1", True, "fail", "certificate has expired"),
        (30.5, "127.0.0.2", True, "fail", "IP address mismatch"),
        (30.5, "127.0.0.1", False, "fail", "self-signed certificate"),
    ],
)
def test_certificates(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, *, days: float, address: str, is_trusted: bool, state: str, detail: str
) -> None:
    pem = certificate(cli.directory / "receiver.pem", days=days, address=address)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    with Listener(answering(b""), tls=context) as receiver:
        cli.configure(endpoints=[{"name": "crm", "url": f"https://{receiver.host}/"}])
        connection = only(examine(cli, code=1 if state == "fail" else 0), "connection")

    assert connection["state"] == state
    assert detail in connection["detail"]
    assert receiver.received == b"", "a request was sent"
